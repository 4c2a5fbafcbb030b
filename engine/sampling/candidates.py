"""The tokens that may still be chosen, and the draw of one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from linnet.engine.sampling.logits import Blocks, Logits, all_ids, columns
from linnet.kernels.ops.softmax import BLOCK

_CHUNK = 1 << 14  # candidates whose weights fit the cache
_SPARSE = 1 / 16  # of all blocks; to pick the tokens of more takes longer than a look at all


class NonFiniteLogits(RuntimeError):
    """Logits that give no probabilities: one is NaN or +Inf, or all are -Inf."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Token ids and their logits. Probabilities are the softmax of the logits.

    `blocks`: what is known of the logits of all tokens, where these are all tokens.
    """

    ids: NDArray[np.intp]  # (n,)
    logits: NDArray[np.floating]  # (n,)
    in_order: bool = False  # highest logit first, of equal ones lowest id first; else ids ascend
    blocks: Blocks | None = None

    @classmethod
    def all(cls, logits: Logits) -> Candidates:
        """Every token, by logits that are finite or -inf. Raises `NonFiniteLogits` if all are
        -inf."""
        if logits.blocks.highest == -math.inf:
            checked(logits.values)
        return cls(all_ids(logits.values.size), logits.values, blocks=logits.blocks)

    def keep(self, which: NDArray[np.bool_] | slice) -> Candidates:
        """Only these."""
        index = which if isinstance(which, slice) else np.flatnonzero(which)
        return Candidates(self.ids[index], self.logits[index], self.in_order)

    @property
    def highest(self) -> float:
        """The highest logit."""
        return self.blocks.highest if self.blocks else float(self.logits.max())

    def likeliest(self) -> Candidates:
        """The first of the highest, alone."""
        first, logits = 0, self.logits
        if self.blocks:
            first = int(self.blocks.maxima.argmax()) * BLOCK
            logits = logits[first : first + BLOCK]
        index = first + int(logits.argmax())
        return self.keep(slice(index, index + 1))

    def at_least(self, bound: np.floating | float) -> Candidates:
        """Those whose logit is not below `bound`; f32 numbers are compared where it is a float."""
        if self.blocks:
            blocks = np.flatnonzero(self.blocks.maxima >= bound)
            if len(blocks) <= _SPARSE * len(self.blocks.maxima):
                some = columns(blocks).ravel()
                some = some[: np.searchsorted(some, len(self.ids))]
                logits = self.logits[some]
                found = logits >= bound
                return Candidates(some[found], logits[found])
        return self.keep(self.logits >= bound)

    def top(self, k: int) -> Candidates:
        """The k highest, in order; of equal ones, the lower ids."""
        lowest = float(np.finfo(self.logits.dtype).min)
        top = self.at_least(max(self._lower_bound(k), lowest)).ordered().keep(slice(k))
        n, lacking = len(top.ids), min(k, len(self.ids)) - len(top.ids)
        if not lacking:
            return top
        index = np.flatnonzero(self.logits[: n + lacking] == -math.inf)[:lacking]
        ids, logits = (
            np.concatenate([few, all[index]])
            for few, all in ((top.ids, self.ids), (top.logits, self.logits))
        )
        return Candidates(ids, logits, in_order=True)

    def _lower_bound(self, k: int) -> float:
        """A number that at least k logits reach, and few more, at the price of little more than
        one pass: of as many groups of logits as are worth it, the k-th highest maximum."""
        if self.blocks and 2 * k <= len(self.blocks.maxima):
            return float(np.partition(self.blocks.maxima, -k)[-k])
        n_groups = max(1024, 4 * k)
        if len(self.logits) < 2 * n_groups:
            return -math.inf
        rest = len(self.logits) % n_groups
        highest = self.logits[rest:].reshape(-1, n_groups).max(axis=0)
        return float(np.partition(highest, n_groups - k)[n_groups - k])

    def ordered(self) -> Candidates:
        """The same, highest logit first."""
        if self.in_order:
            return self
        order = highest_first(self.logits)
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
        if self.blocks is None:
            return replace(self, logits=checked(changed))
        blocks = self.blocks.after(self.logits, changed, index)
        if not math.isfinite(blocks.highest):
            checked(changed)
        return replace(self, logits=changed, blocks=blocks)

    def with_all(self, logits: NDArray[np.floating]) -> Candidates:
        """The same with other logits (n,)."""
        return Candidates(self.ids, logits, self.in_order)

    def total(self) -> tuple[float, float]:
        """The sum of the weights, and by how much it may be wrong."""
        if self.blocks and self.blocks.doubt < math.inf:
            return self.blocks.total, self.blocks.doubt
        return float(self.weights().sum()), 0.0

    def weights(self) -> NDArray[np.float64]:
        """(n,) what the probabilities are proportional to; the highest is 1."""
        return _weights(self.logits, self.logits.max())

    def probabilities(self) -> NDArray[np.float64]:
        """(n,) of each; their sum is 1."""
        weights = self.weights()
        weights /= weights.sum()
        return weights


def checked(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """The same logits; raises `NonFiniteLogits` unless the highest is finite and none is NaN."""
    if not math.isfinite(logits.max()):  # of anything and NaN, the maximum is NaN
        wrong = np.flatnonzero(~(logits < np.inf))
        found = "all are -inf, by logit_bias, min_tokens, logits_processors or the answer's shape"
        if len(wrong):
            found = f"token {wrong[0]} has {logits[wrong[0]]} ({len(wrong)} are NaN or +Inf)"
        raise NonFiniteLogits(f"no token can be chosen by these logits: {found}")
    return logits


def highest_first(logits: NDArray[np.floating]) -> NDArray[np.intp]:
    """The order of the logits, none of them NaN; of equal ones the first stays first."""
    if logits.dtype != np.float32 or len(logits) < 1024:
        return np.argsort(-logits, kind="stable")
    # As whole numbers in the same order, by their low and then their high 16 bits, of which numpy's
    # stable sort is a radix sort.
    bits = (logits + 0.0).view(np.int32)  # of one sign for all zeros
    keys = ~(bits ^ (bits >> 31 & 0x7FFFFFFF))
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    return order[np.argsort((keys >> 16).astype(np.int16)[order], kind="stable")]


def draw(candidates: Candidates, random: np.random.Generator) -> int:
    """The index of one candidate, each as likely as the softmax of the logits says. Takes one
    number from `random`, or none where there is one candidate only."""
    if len(candidates.ids) == 1:
        return 0
    number = random.random()  # at most 1 - 2**-53, so that the point is below the last edge
    index = _draw_by_chunks(candidates, number) if len(candidates.ids) > 2 * _CHUNK else None
    if index is None:
        edges = np.cumsum(candidates.weights())
        index = int(np.searchsorted(edges, number * edges[-1], side="right"))
    return index


def _draw_by_chunks(candidates: Candidates, number: float) -> int | None:
    """The index that the edges of all weights give for a number, without making them all, which
    takes a chain of as many additions; None where it hangs on how these are rounded."""
    logits, highest = candidates.logits, candidates.logits.max()
    starts = range(0, len(logits), _CHUNK)
    sums = [_weights(logits[start : start + _CHUNK], highest).sum() for start in starts]
    edges = np.cumsum(sums)
    point, doubt = number * edges[-1], len(logits) * 2**-51 * edges[-1]
    chunk = int(np.searchsorted(edges, point, side="right"))
    start, before = starts[chunk], edges[chunk - 1] if chunk else -1.0
    weights = _weights(logits[start : start + _CHUNK], highest)
    weights[0] += max(before, 0)
    low, high = np.searchsorted(np.cumsum(weights), [point - doubt, point + doubt], side="right")
    is_sure = low == high < len(weights) and before <= point - doubt
    return start + int(low) if is_sure else None


def _weights(logits: NDArray[np.floating], highest: np.floating) -> NDArray[np.float64]:
    """exp(logit - highest)"""
    weights: NDArray[np.float64] = np.subtract(logits, highest, dtype=np.float64)
    return np.exp(weights, out=weights)
