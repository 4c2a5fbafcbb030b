"""Drafts from the text itself: what followed the last few tokens where they came before.

"Prompt lookup": https://github.com/apoorvumang/prompt-lookup-decoding. It pays where an answer
repeats what it was given: edits of a file, JSON, quotations, code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

from linnet.engine.running.drafts import MOST_DRAFTS, Guess, Rate
from linnet.engine.running.generation import Generation

LENGTHS = (16, 6, 2)  # of the n-grams that are looked up, the longest first
FIRST_RATES = {16: 0.95, 8: 0.9, 4: 0.7, 2: 0.3}  # by tokens that match, until there is experience


class NGrams:
    """Where the last 16, 6 and 2 tokens of a text, which grows, came last. To look takes the same
    time however long the text is, and so does a token more."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}  # by an n-gram's hash, of the token that follows
        self._n = 0  # tokens of the text that are among those

    def find(self, ids: Sequence[int]) -> tuple[int, int] | None:
        """How many of the tokens that end `ids`, up to 16, came before, and the place of the one
        that followed."""
        for place in range(self._n, len(ids)):
            for n in LENGTHS:
                if n <= place:
                    self._places[hash(tuple(ids[place - n : place]))] = place
        self._n = len(ids)
        for n in LENGTHS:
            place = self._places.get(hash(tuple(ids[-n:])), 0)
            if n <= place:
                return _n_matching(ids, place), place
        return None


def _n_matching(ids: Sequence[int], place: int) -> int:
    """How many tokens before a place are those that end `ids`; 16 at the most."""
    n, most = 0, min(LENGTHS[0], place)
    while n < most and ids[place - 1 - n] == ids[-1 - n]:
        n += 1
    return n


class PromptLookup:
    """Of each generation, its n-grams and how good they were. A guess that no row tries is held
    against what comes all the same: it costs nothing, and tells when trying begins to pay."""

    seconds = 0.0

    def __init__(self) -> None:
        self._texts: WeakKeyDictionary[Generation, _Text] = WeakKeyDictionary()

    def rates(self, generations: Sequence[Generation]) -> list[float]:
        return [self._text(generation).look(generation.ids) for generation in generations]

    def draft(self, lengths: Mapping[Generation, int]) -> dict[Generation, list[int]]:
        return {each: self._text(each).guessed[:n] for each, n in lengths.items()}

    def close(self) -> None:
        self._texts.clear()

    def _text(self, generation: Generation) -> _Text:
        return self._texts.setdefault(generation, _Text())


class _Text:
    """One generation's n-grams, the guess they gave, and how good such guesses have been."""

    def __init__(self) -> None:
        self._n_grams = NGrams()
        self._rates = {n: Rate(first) for n, first in FIRST_RATES.items()}
        self._guess: Guess | None = None

    @property
    def guessed(self) -> list[int]:
        return self._guess.ids if self._guess else []

    def look(self, ids: Sequence[int]) -> float:
        """Check the last guess, make the next, and tell how likely it is to be right."""
        if self._guess:
            self._guess.check(ids)
        found = self._n_grams.find(ids)
        if found is None or found[0] < min(FIRST_RATES):  # fewer where hashes are alike
            self._guess = None
            return 0.0
        n_matching, place = found
        rate = self._rates[max(n for n in FIRST_RATES if n <= n_matching)]
        follows = list(ids[place : place + MOST_DRAFTS])
        while len(follows) < MOST_DRAFTS:  # then the end repeats itself, and again, perhaps
            follows.append(follows[place - len(ids)])
        self._guess = Guess(len(ids), follows, rate)
        return rate.value
