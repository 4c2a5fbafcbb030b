"""Models that say what a test wants them to, or fail, and tell what they were asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from linnet import LLM
from linnet.engine.running.generation import Generation
from linnet.engine.sampling.chain import Sampler
from linnet.engine.sampling.logits import Logits
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


def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The ids of each prompt, from now on."""
    prompts: list[list[int]] = []
    generation = LLM.generation

    def noted(llm: LLM, prompt: list[int], *args: Any, **options: Any) -> Any:
        prompts.append(prompt)
        return generation(llm, prompt, *args, **options)

    monkeypatch.setattr(LLM, "generation", noted)
    return prompts


def fail_amid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have generations behind prompts of 3 tokens fail with a MemoryError after 2 of their own."""
    draw = Generation.draw

    def failing(generation: Generation, logits: Logits) -> None:
        if generation.stats.n_prompt == 3 and generation.stats.n_generated == 2:
            raise MemoryError("none left")
        draw(generation, logits)

    monkeypatch.setattr(Generation, "draw", failing)
