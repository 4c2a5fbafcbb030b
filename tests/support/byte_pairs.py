"""Small byte-pair vocabularies, as files hold them."""

from __future__ import annotations

from typing import Any

import numpy as np

from linnet.engine.text.bpe import byte_letters
from linnet.engine.text.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # llama.cpp's token types
LETTERS = byte_letters()
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġ Ġ", "Ã ©", "2 3"]
END = "<|endoftext|>"


def metadata(
    merges: list[str] = MERGES,
    specials: dict[str, int] | None = None,
    more: tuple[str, ...] = (),
    letters: list[str] = LETTERS,
    **changes: object,
) -> dict[str, object]:
    """A vocabulary of single letters, what `merges` make, `more` tokens, and special ones."""
    texts = dict.fromkeys([*letters, *(merge.replace(" ", "") for merge in merges), *more], NORMAL)
    texts |= {END: CONTROL} | (specials or {})
    values: dict[str, object] = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": list(texts),
        "token_type": np.array(list(texts.values()), np.int32),
        "merges": merges,
        "bos_token_id": list(texts).index(END),
        "eos_token_id": list(texts).index(END),
    } | changes
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def build(*arguments: Any, **changes: Any) -> Tokenizer:
    return Tokenizer.from_metadata(metadata(*arguments, **changes))
