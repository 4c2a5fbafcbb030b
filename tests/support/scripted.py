"""Models that say what a test wants them to."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from linnet.engine.sampling.chain import Sampler
from linnet.engine.text.tokenizer import Tokenizer

Say = Callable[[Tokenizer, str], list[int]]


def scripted(monkeypatch: pytest.MonkeyPatch) -> Say:
    """A function that has every generation be of the tokens of a text, markup included, and an end
    token; it returns the text's ids."""

    def say(tokenizer: Tokenizer, text: str) -> list[int]:
        ids = tokenizer.encode(text, add_special=False, parse_special=True)

        def sample(sampler: Sampler, _: object) -> int:
            script = vars(sampler).setdefault("script", [*ids, tokenizer.eos_id])
            token_id: int = script.pop(0)
            return token_id

        monkeypatch.setattr(Sampler, "sample", sample)
        return ids

    return say
