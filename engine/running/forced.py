"""Drafts from an answer's shape: where its text has one way on, as the keys of a schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from linnet.engine.running.drafts import Guess, Rate
from linnet.engine.running.generation import Generation

FIRST_RATE = 0.9  # the text is sure; how tokens spell it is not


class Forced:
    """Of each generation, the tokens by which its constraint's next letters are usually spelled."""

    seconds = 0.0

    def __init__(self) -> None:
        self._guesses: WeakKeyDictionary[Generation, Guess] = WeakKeyDictionary()
        self._rate = Rate(FIRST_RATE)

    def rates(self, generations: Sequence[Generation]) -> list[float]:
        return [self._look(generation) for generation in generations]

    def draft(self, lengths: Mapping[Generation, int]) -> dict[Generation, list[int]]:
        return {each: self._guesses[each].ids[:n] for each, n in lengths.items()}

    def close(self) -> None:
        self._guesses.clear()

    def _look(self, generation: Generation) -> float:
        """Check the last guess, and make the next."""
        if guess := self._guesses.pop(generation, None):
            guess.check(generation.ids)
        ids = generation.forced()
        if not ids:
            return 0.0
        self._guesses[generation] = Guess(len(generation.ids), ids, self._rate)
        return self._rate.value
