"""A library's encoder, made of no more of a vocabulary than the texts so far have needed.

Merging joins neighbours in a text, so what comes of it depends on those tokens alone that are
somewhere in the text. A library takes half a second to take in 128 thousand tokens and their
merges, and a moment for the few that a short text may become.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

PATIENCE: Final = 200_000  # look-ups of parts of texts, before all tokens are taken in
BUILDING: Final = 2_000  # look-ups that take as long as making an encoder

Encode = Callable[[str], list[int]]


class OnDemand:
    """Encodes text as `build(ids)` does, which makes an encoder with the tokens {text: id}.

    `written`: a text as tokens write it, with "▁" for a space, or with a letter for each byte.
    """

    def __init__(
        self, ids: Mapping[str, int], build: Callable[[Mapping[str, int]], Encode],
        written: Callable[[str], str],
    ) -> None:  # fmt: skip
        self._ids: Final = ids
        self._build: Final = build
        self._written: Final = written
        self._lengths: Final = sorted(set(map(len, ids)))
        self._patience = PATIENCE
        self._encode: Encode | None = None  # with all tokens

    def encode(self, text: str) -> list[int]:
        if self._encode is None and len(text) <= self._patience:
            written = self._written(text)
            self._patience -= BUILDING + sum(max(0, len(written) - n + 1) for n in self._lengths)
            if self._patience >= 0:
                return self._build(self._within(written))(text)
        return self._whole()(text)

    def prepare(self) -> None:
        """Take in all tokens now."""
        self._whole()

    def _whole(self) -> Encode:
        if self._encode is None:
            self._encode = self._build(self._ids)
        return self._encode

    def _within(self, text: str) -> dict[str, int]:
        """The tokens that are somewhere in the text."""
        ids, length = self._ids, len(text)
        return {
            part: ids[part]
            for n in self._lengths
            for i in range(length - n + 1)
            if (part := text[i : i + n]) in ids
        }
