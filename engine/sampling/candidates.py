"""The tokens that may still be chosen, and the draw of one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


class NonFiniteLogits(RuntimeError):
    """Logits that give no probabilities: one is NaN or +Inf, or all are -Inf."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Token ids and their logits. Probabilities are the softmax of the logits."""

    ids: NDArray[np.intp]  # (n,)
    logits: NDArray[np.floating]  # (n,)
    in_order: bool = False  # highest logit first, of equal ones lowest id first; else ids ascend

    def keep(self, which: NDArray[np.bool_] | slice) -> Candidates:
        """Only these."""
        index = which if isinstance(which, slice) else np.flatnonzero(which)
        return Candidates(self.ids[index], self.logits[index], self.in_order)

    def ordered(self) -> Candidates:
        """The same, highest logit first."""
        if self.in_order:
            return self
        order = np.argsort(-self.logits, kind="stable")
        return Candidates(self.ids[order], self.logits[order], in_order=True)

    def by_id(self) -> Candidates:
        """The same, lowest id first."""
        if not self.in_order:
            return self
        order = np.argsort(self.ids)
        return Candidates(self.ids[order], self.logits[order])

    def find(self, values: Mapping[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Of a value for each of some token ids: the index (m,) of each token that is a candidate,
        and its value (m,). The candidates' ids must ascend."""
        ids = np.fromiter(values, np.intp, len(values))
        index = np.searchsorted(self.ids, ids)
        found = self.ids.take(index, mode="clip") == ids
        return index[found], np.fromiter(values.values(), np.intp, len(values))[found]

    def with_logits(
        self, index: NDArray[np.intp], logits: NDArray[np.floating] | float
    ) -> Candidates:
        """The same with other logits at `index`. The candidates' ids must ascend. Raises
        `NonFiniteLogits` if no token can be chosen by the logits that result."""
        changed = self.logits.copy()
        with np.errstate(over="ignore"):
            changed[index] = logits
        return replace(self, logits=checked(changed))

    def weights(self) -> NDArray[np.float64]:
        """(n,) what the probabilities are proportional to; the highest is 1."""
        below: NDArray[np.float64] = np.subtract(self.logits, self.logits.max(), dtype=np.float64)
        return np.exp(below)

    def probabilities(self) -> NDArray[np.float64]:
        """(n,) of each; their sum is 1."""
        weights = self.weights()
        weights /= weights.sum()
        return weights


def checked(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """The same logits; raises `NonFiniteLogits` unless the highest is finite and none is NaN."""
    if not math.isfinite(logits.max()):  # of anything and NaN, the maximum is NaN
        wrong = np.flatnonzero(~(logits < np.inf))
        found = "all are -inf"
        if len(wrong):
            found = f"token {wrong[0]} has {logits[wrong[0]]} ({len(wrong)} are NaN or +Inf)"
        raise NonFiniteLogits(f"no token can be chosen by these logits: {found}")
    return logits


def draw(candidates: Candidates, random: np.random.Generator) -> int:
    """The index of one candidate, each as likely as the softmax of the logits says. Takes one
    number from `random`, or none where there is one candidate only."""
    if len(candidates.ids) == 1:
        return 0
    edges = np.cumsum(candidates.weights())
    point = random.random() * edges[-1]  # below edges[-1], as random() is at most 1 - 2**-53
    return int(np.searchsorted(edges, point, side="right"))
