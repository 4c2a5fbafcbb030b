"""Finding the scale, and the offset, of groups of weights: what the quantisers share.

A group of weights w is stored as levels q, whole numbers, and w ~ scale * q + offset. For given q
the best scale and offset are those of the least-squares line; for a given line the best q are the
nearest. So a few guesses stretch the levels over a little more or less than the range of the
weights, a line is fitted to each, and the one of least squared error is kept.

Where it is known how much each weight matters, its importance, squared errors are multiplied by it,
and lines fitted accordingly. Nothing else changes.

Weights, importance and levels hold one group a column, (group, ...), so that all work goes along
whole rows of memory; scales and offsets are (...). All are float32, whole numbers too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from linnet.kernels.quants.base import HALF_MAX, Bytes, Floats

STRETCHES: Final = np.linspace(-2, 2, 9, dtype=np.float32)  # levels more or less over the range
ROUNDS: Final = 1  # after the guesses: levels for the best line, then a line for these levels
HALF_TINY: Final = 2.0**-24  # the smallest F16 number above zero
TINY: Final = 1e-36  # below this a square is as good as zero
NEIGHBOURS: Final = sorted(
    product((-1, 0, 1), repeat=2), key=lambda step: abs(step[0]) + abs(step[1])
)


class Levels:
    """The whole numbers from `lowest` to `highest`."""

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest, self.highest = lowest, highest
        self.stretched: npt.NDArray[np.float32] = lowest + STRETCHES

    def nearest(self, x: Floats) -> Floats:
        """In place of each number the level that comes nearest to it."""
        np.rint(x, out=x)
        return np.clip(x, self.lowest, self.highest, out=x)


class UnevenLevels(Levels):
    """Some of the whole numbers: `levels`, in the order in which they are numbered."""

    def __init__(self, levels: Sequence[int]) -> None:
        ascending = np.unique(levels)
        super().__init__(int(ascending[0]), int(ascending[-1]))
        # As for sixteen even levels; the weight of largest size may be at either end.
        ends = np.array([[self.lowest], [self.highest]], np.float32)
        self.stretched = (ends * (1 + STRETCHES / np.float32(8))).reshape(-1)
        # Between two halves everything is next to the same level.
        halves = np.arange(2 * self.lowest, 2 * self.highest) / 2
        middles = (ascending[1:] + ascending[:-1]) / 2
        self._of_half = ascending[np.searchsorted(middles, halves + 0.25)].astype(np.float32)
        self._numbers = np.zeros(self.highest - self.lowest + 1, np.uint8)
        for level in ascending.tolist():
            self._numbers[level - self.lowest] = levels.index(level)

    def nearest(self, x: Floats) -> Floats:
        x *= 2
        np.floor(x, out=x)
        x -= 2 * self.lowest
        return self._of_half.take(x.astype(np.intp), out=x, mode="clip")

    def numbers(self, q: Bytes) -> Bytes:
        """Of levels, counted from the lowest."""
        return self._numbers[q]


def columns(weights: Floats, group: int) -> Floats:
    """(n, block) -> (group, n_groups, n)."""
    return np.ascontiguousarray(weights.reshape(len(weights), -1, group).transpose(2, 1, 0))


def columns_if(importance: Floats | None, group: int) -> Floats | None:
    return None if importance is None else columns(importance, group)


def blocks_of(levels: Floats) -> Bytes:
    """Levels (group, n_groups, n), none below zero -> (n, n_groups, group)."""
    return levels.astype(np.uint8).transpose(2, 1, 0)


# ---- whole blocks --------------------------------------------------------------------------------


def with_scale(
    weights: Floats, importance: Floats | None, levels: Levels
) -> tuple[Floats, Bytes]:  # fmt: skip
    """F16 scales (n,) of blocks (n, 32), and their levels (n, 32), counted from the lowest."""
    w = columns(weights, 32)
    d = scale_to_half(best_scale(w, levels, columns_if(importance, 32)))
    return d[0], blocks_of(nearest(w, d, 0, levels) - levels.lowest)[:, 0]


def with_line(
    weights: Floats, importance: Floats | None, highest: int
) -> tuple[Floats, Floats, Bytes]:  # fmt: skip
    """F16 scales and offsets (n,) of blocks (n, 32), and their levels (n, 32)."""
    w, levels = columns(weights, 32), Levels(0, highest)
    scale, offset = best_line(w, levels, columns_if(importance, 32))
    d, m = scale_to_half(scale), to_half(offset)
    return d[0], m[0], blocks_of(nearest(w, d, m, levels))[:, 0]


def with_scales(
    weights: Floats, importance: Floats | None, group: int, levels: Levels, most: int
) -> tuple[Floats, Floats, Bytes]:  # fmt: skip
    """Of blocks (n, 256): F16 numbers (n,); by what each is multiplied for the scales of its
    groups, -most to most - 1: (n, n_groups); levels (n, n_groups, group), counted from the lowest.

    The scale of largest size becomes -most.
    """
    w, v = columns(weights, group), columns_if(importance, group)
    scale = best_scale(w, levels, v)
    d = scale_to_half(extreme(scale) / np.float32(-most))
    whole = np.rint(scale * reciprocal(d))
    candidates = [np.clip(whole + step, -most, most - 1) for step in (0, -1, 1)]
    errors = [squared_error(w, d * scale, 0, levels, v) for scale in candidates]
    scales = pick(np.argmin(errors, axis=0), candidates)
    return d, scales.T, blocks_of(nearest(w, d * scales, 0, levels) - levels.lowest)


class Lines(NamedTuple):
    """Of n blocks the F16 numbers `d` and `dmin` (n,), whole `scales` and `minimums`
    (n, n_groups), and levels `q` (n, n_groups, group): w ~ d * scale * q - dmin * minimum."""

    d: Floats
    dmin: Floats
    scales: Bytes
    minimums: Bytes
    q: Bytes


def with_lines(
    weights: Floats, importance: Floats | None, group: int, highest: int, most: int
) -> Lines:  # fmt: skip
    """Of blocks (n, 256), with levels 0 to `highest`, and scales and minimums 0 to `most`."""
    w, v, levels = columns(weights, group), columns_if(importance, group), Levels(0, highest)
    scale, offset = best_line(w, levels, v, ceiling=0)
    (d, scales), (dmin, minimums) = (in_steps(x, most) for x in (scale, -offset))
    pairs = [(np.clip(scales + i, 0, most), np.clip(minimums + j, 0, most)) for i, j in NEIGHBOURS]
    errors = [squared_error(w, d * s, -dmin * m, levels, v) for s, m in pairs]
    best = np.argmin(errors, axis=0)
    scales, minimums = (pick(best, candidates) for candidates in zip(*pairs, strict=True))
    q = blocks_of(nearest(w, d * scales, -dmin * minimums, levels))
    return Lines(d, dmin, scales.T.astype(np.uint8), minimums.T.astype(np.uint8), q)


def in_steps(x: Floats, most: int) -> tuple[Floats, Floats]:
    """(n_groups, n) -> an F16 number (n,), and what it is to be multiplied by, 0 to `most`."""
    d = scale_to_half(x.max(axis=0) / np.float32(most))
    return d, np.clip(np.rint(x * reciprocal(d)), 0, most)


# ---- the search ----------------------------------------------------------------------------------


class Line(NamedTuple):
    """scale * q + offset; `gain` is the part of the sum of squares that it explains. (...) each."""

    scale: Floats
    offset: Floats
    gain: Floats


def best_scale(w: Floats, levels: Levels, v: Floats | None = None) -> Floats:
    """The scale (...) of each group, of either sign, for weights of importance `v`."""
    zeros = np.zeros_like(w[0])

    def fit(q: Floats) -> Line:
        vq = weighted(q, v)
        qw = dot(vq, w)
        scale = qw * reciprocal(dot(vq, q))
        return Line(scale, zeros, scale * qw)

    guesses = [extreme(w) / level for level in levels.stretched]
    return search(w, guesses, levels, fit).scale


def best_line(
    w: Floats, levels: Levels, v: Floats | None = None, ceiling: float = HALF_MAX
) -> tuple[Floats, Floats]:
    """The scale and offset (...) of each group, for levels from 0 and weights of importance `v`.

    No scale is below zero, and no offset above `ceiling`.
    """
    start = np.minimum(w.min(axis=0), np.float32(ceiling))
    limit = ceiling - start
    w = w - start  # so that a large offset costs no digits
    n: Floats | np.float32 = np.float32(len(w)) if v is None else v.sum(axis=0)
    sum_w = weighted(w, v).sum(axis=0)

    def fit(q: Floats) -> Line:
        vq = weighted(q, v)
        sum_q, qq, qw = vq.sum(axis=0), dot(vq, q), dot(vq, w)
        offset = (qq * sum_w - sum_q * qw) * reciprocal(n * qq - sum_q * sum_q)
        offset = np.minimum(offset, limit)
        scale = (qw - offset * sum_q) * reciprocal(qq)  # the best for this offset
        return Line(scale, offset, scale * scale * qq + offset * (2 * sum_w - n * offset))

    guesses = [w.max(axis=0) / (levels.highest + stretch) for stretch in STRETCHES]
    line = search(w, guesses, levels, fit)
    return line.scale, line.offset + start


def search(
    w: Floats, guesses: list[Floats], levels: Levels, fit: Callable[[Floats], Line]
) -> Line:  # fmt: skip
    """The line of most gain, from scales to begin with and what fits a line to levels."""
    best = best_of([fit(nearest(w, scale, 0, levels)) for scale in guesses])
    for _ in range(ROUNDS):
        best = best_of([best, fit(nearest(w, best.scale, best.offset, levels))])
    return best


def best_of(lines: list[Line]) -> Line:
    """Group by group the line of most gain."""
    index = np.argmax([line.gain for line in lines], axis=0)
    return Line(*(pick(index, choices) for choices in zip(*lines, strict=True)))


def nearest(w: Floats, scale: Floats, offset: Floats | float, levels: Levels) -> Floats:
    """The levels that come nearest to the weights; that nearest to 0 where scale is 0."""
    q = w - offset
    q *= reciprocal(scale)
    return levels.nearest(q)


def squared_error(
    w: Floats, scale: Floats, offset: Floats | float, levels: Levels, v: Floats | None = None
) -> Floats:
    """(...): what the nearest levels leave, of weights of importance `v`."""
    error = nearest(w, scale, offset, levels)
    error *= scale
    error += offset
    error -= w
    return dot(weighted(error, v), error)


# ---- small parts ---------------------------------------------------------------------------------


def weighted(x: Floats, v: Floats | None) -> Floats:
    return x if v is None else x * v


def dot(a: Floats, b: Floats) -> Floats:
    """Group by group."""
    products: Floats = np.einsum("i...,i...->...", a, b)
    return products


def extreme(x: Floats) -> Floats:
    """(n, ...) -> (...): the number of the largest size, with its sign."""
    low, high = x.min(axis=0), x.max(axis=0)
    result: Floats = np.where(-low > high, low, high)
    return result


def reciprocal(x: Floats) -> Floats:
    """1 / x, and 0 for 0."""
    result: Floats = x / np.maximum(x * x, TINY)
    return result


def pick(index: npt.NDArray[np.intp], choices: Sequence[Floats]) -> Floats:
    """From several arrays (...), place by place the number of the array of that index (...)."""
    picked: Floats = np.take_along_axis(np.stack(choices), index[np.newaxis], axis=0)[0]
    return picked


def to_half(x: Floats) -> Floats:
    """Rounded to F16 numbers, never to infinity."""
    halves = np.clip(x, -HALF_MAX, HALF_MAX).astype(np.float16)
    return halves.astype(np.float32)


def scale_to_half(x: Floats) -> Floats:
    """The same, but to zero only from zero: a scale that is too large still stores something."""
    is_lost = (np.abs(x) < HALF_TINY) & (x != 0)
    return to_half(np.where(is_lost, np.copysign(np.float32(HALF_TINY), x), x))


def nibble_pairs(low: Bytes, high: Bytes) -> Bytes:
    """The low four bits of each in one byte."""
    return low % 16 | 16 * (high % 16)


def pairs_of_bits(q: Bytes) -> Bytes:
    """Numbers 0..3 of the eight runs of 32 of blocks (n, 2, 4, 32) -> (n, 64): of each half, four
    in a byte."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, np.newaxis]
    bytes: Bytes = np.bitwise_or.reduce(q << shifts, axis=2).reshape(-1, 64)
    return bytes
