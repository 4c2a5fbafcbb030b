"""Drafts: guesses how sequences go on, which a pass tries in the rows that it has free.

A pass over up to 8 tokens reads the weights once, so a token more costs less than a pass more. Row
by row the sampler draws as it would without drafts; while what it draws is what was drafted, the
next row is what the next pass would have made, to the bit. (In speculative decoding by the papers,
arXiv:2211.17192 and 2302.01318, a draft may be accepted that would not have been drawn.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from linnet.engine.running.generation import Generation
from linnet.kernels.ops.base import MOST_FEW_ROWS

MOST_DRAFTS = MOST_FEW_ROWS - 1  # tokens for a sequence in a pass, beside the one that is known
MEMORY = 8  # guesses, and passes, that a running mean looks back on
SHARE = 0.25  # of a pass over one row that a row more takes, until there is experience
FORGET = 1 / 256  # of what was learned of drafts, with each pass without: to try them again


class Drafter(Protocol):
    """Whoever guesses. `seconds`: what drafting a token takes."""

    seconds: float

    def rates(self, generations: Sequence[Generation]) -> list[float]:
        """Of each, how likely a drafted token is to be right, once those before it are; 0 where
        there is none to be had."""
        ...

    def draft(self, lengths: Mapping[Generation, int]) -> dict[Generation, list[int]]:
        """At most so many tokens of those that `rates` has just told of."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class Rate:
    """A running mean of how often guesses were right."""

    def __init__(self, first: float) -> None:
        self.value = first

    def saw(self, n_right: int, n_wrong: int) -> None:
        """So many tokens came as drafted, and then perhaps one that did not."""
        for right in [1.0] * n_right + [0.0] * n_wrong:
            self.value += (right - self.value) / MEMORY


class Guess:
    """Tokens that were drafted to follow the first `at`."""

    def __init__(self, at: int, ids: list[int], rate: Rate) -> None:
        self.at, self.ids, self.rate = at, ids, rate

    def check(self, ids: Sequence[int]) -> None:
        """Tell the rate how what has come since compares."""
        came = ids[self.at : self.at + len(self.ids)]
        n_right = 0
        while n_right < len(came) and came[n_right] == self.ids[n_right]:
            n_right += 1
        self.rate.saw(n_right, int(n_right < len(came)))


class Lengths:
    """How many drafts pay, by what passes have taken.

        seconds(n) = first + (n - 1) * more             # of a pass over n rows

    A row more pays where it brings more tokens a second than the pass without it: of a sequence
    whose guesses are right at a rate r, its i-th draft brings r ** i tokens.
    """

    def __init__(self) -> None:
        self._first, self._share = 0.0, SHARE  # seconds; what a row more takes of them

    def ran(self, n_rows: int, seconds: float) -> None:
        """A pass over so many rows has taken so long."""
        if not self._first:
            self._first = seconds / (1 + (n_rows - 1) * self._share)
        elif n_rows == 1:
            self._first += (min(seconds, 2 * self._first) - self._first) / MEMORY
            self._share += (SHARE - self._share) * FORGET
        else:
            self._first = min(self._first, seconds)  # a row more takes no less
            share = min(1.0, max(0.0, (seconds / self._first - 1) / (n_rows - 1)))
            self._share += (share - self._share) / MEMORY

    def of(
        self, rates: Sequence[float], most: Sequence[int], *, n_rows: int, draft_seconds: float
    ) -> list[int]:
        """Of each sequence, beside the `n_rows` that are taken; `most`: what each may have;
        `draft_seconds`: of a drafted token."""
        lengths = [0] * len(rates)
        more = self._share + (draft_seconds / self._first if self._first else 0)
        tokens, cost = float(len(rates)), 1 + (n_rows - 1) * self._share
        for _ in range(MOST_FEW_ROWS - n_rows):
            gains = [
                rate ** (n + 1) if n < limit else 0.0
                for rate, n, limit in zip(rates, lengths, most, strict=True)
            ]
            gain = max(gains)
            if gain * cost <= more * tokens:
                break
            lengths[gains.index(gain)] += 1
            tokens, cost = tokens + gain, cost + more
        return lengths


class Drafts:
    """What passes try of drafters' guesses, at most so many tokens of a sequence in each: those of
    the drafter that is most likely right, or of the first of several."""

    def __init__(self, drafters: Sequence[Drafter], most: int = MOST_DRAFTS) -> None:
        self._drafters, self._most, self._lengths = drafters, most, Lengths()

    def of(self, generations: Sequence[Generation], n_rows: int) -> dict[Generation, list[int]]:
        """Drafts for a pass that has a next token of each of these, `n_rows` tokens in all."""
        if n_rows >= MOST_FEW_ROWS:
            return {}
        told = [drafter.rates(generations) for drafter in self._drafters]
        by_generation = [*zip(*told, strict=True)]
        rates = [max(each) for each in by_generation]
        best = [self._drafters[each.index(max(each))] for each in by_generation]
        most = [min(self._most, generation.n_left - 1) for generation in generations]
        seconds = max(drafter.seconds for drafter in best)
        lengths = self._lengths.of(rates, most, n_rows=n_rows, draft_seconds=seconds)
        drafts: dict[Generation, list[int]] = {}
        for drafter in self._drafters:
            turns = zip(generations, lengths, best, strict=True)
            wanted = {each: n for each, n, whose in turns if n and whose is drafter}
            if wanted:
                drafts |= drafter.draft(wanted)
        return drafts

    def ran(self, n_rows: int, seconds: float) -> None:
        """A pass over so many tokens, drafts included, has taken so long."""
        self._lengths.ran(n_rows, seconds)

    def close(self) -> None:
        """Let go of what the drafters hold."""
        for drafter in self._drafters:
            drafter.close()
