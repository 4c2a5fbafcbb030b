"""A drafter that knows how texts go on, and is wrong every now and then."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import pytest

from linnet.engine.running.drafts import Drafts, Lengths
from linnet.engine.running.generation import Generation


class Known:
    """`texts`: prompts with their answers. `share`: of drafted tokens, those that are right."""

    seconds = 0.0

    def __init__(self, texts: Sequence[Sequence[int]], n_vocab: int, *, share: float = 0.8) -> None:
        self._texts, self._n_vocab, self._share = [*map(list, texts)], n_vocab, share
        self._random = random.Random(0)

    def rates(self, generations: Sequence[Generation]) -> list[float]:
        return [self._random.uniform(0.5, 1) for _ in generations]

    def draft(self, lengths: Mapping[Generation, int]) -> dict[Generation, list[int]]:
        return {each: self._drafted(each.ids, n) for each, n in lengths.items()}

    def close(self) -> None:
        """Nothing is held."""

    def _drafted(self, ids: list[int], n: int) -> list[int]:
        follows = next((t[len(ids) :] for t in self._texts if t[: len(ids)] == ids), [])
        wrong = [self._random.randrange(self._n_vocab) for _ in range(n)]
        return [
            right if self._random.random() < self._share else other
            for right, other in zip([*follows, *wrong][:n], wrong, strict=True)
        ]


def at_fixed_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have drafts pay by what they bring, whatever passes take here."""
    monkeypatch.setattr(Lengths, "ran", lambda *_: None)


def known_drafts(texts: Sequence[Sequence[int]], n_vocab: int, share: float = 0.8) -> Drafts:
    return Drafts([Known(texts, n_vocab, share=share)])
