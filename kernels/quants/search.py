"""Finding the scale, and the offset, of groups of weights: what the quantisers share.

A group of weights w is stored as levels q, whole numbers, and w ~ scale * q + offset. For given q
the best scale and offset are those of the least-squares line; for a given line the best q are the
nearest. So a few guesses stretch the levels over a little more or less than the range of the
weights, a line is fitted to each, and the one of least squared error is kept.

Weights and levels hold one group a column, (group, ...), so that all work goes along whole rows of
memory; scales and offsets are (...). All are float32, whole numbers too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from linnet.kernels.quants.base import HALF_MAX, Bytes, Floats

STRETCHES: Final = np.linspace(-2, 2, 9, dtype=np.float32)  # levels more or less over the range
ROUNDS: Final = 1  # after the guesses: levels for the best line, then a line for these levels
HALF_TINY: Final = 2.0**-24  # the smallest F16 number above zero
TINY: Final = 1e-36  # below this a square is as good as zero


def columns(weights: Floats, group: int) -> Floats:
    """(n, block) -> (group, n_groups, n)."""
    return np.ascontiguousarray(weights.reshape(len(weights), -1, group).transpose(2, 1, 0))


def blocks_of(levels: Floats) -> Bytes:
    """Levels (group, n_groups, n), none below zero -> (n, n_groups, group)."""
    return levels.astype(np.uint8).transpose(2, 1, 0)


def with_scale(weights: Floats, lowest: int, highest: int) -> tuple[Floats, Bytes]:
    """F16 scales (n,) of blocks (n, 32), and their levels (n, 32), counted from the lowest."""
    w = columns(weights, 32)
    d = scale_to_half(best_scale(w, lowest, highest))
    return d[0], blocks_of(nearest(w, d, 0, lowest, highest) - lowest)[:, 0]


def with_line(weights: Floats, highest: int) -> tuple[Floats, Floats, Bytes]:
    """F16 scales and offsets (n,) of blocks (n, 32), and their levels (n, 32)."""
    w = columns(weights, 32)
    scale, offset = best_line(w, highest)
    d, m = scale_to_half(scale), to_half(offset)
    return d[0], m[0], blocks_of(nearest(w, d, m, 0, highest))[:, 0]


# ---- the search ----------------------------------------------------------------------------------


class Line(NamedTuple):
    """scale * q + offset; `gain` is the part of the sum of squares that it explains. (...) each."""

    scale: Floats
    offset: Floats
    gain: Floats


def best_scale(w: Floats, lowest: int, highest: int) -> Floats:
    """The scale (...) of each group, of either sign, for levels `lowest` to `highest`."""
    zeros = np.zeros_like(w[0])

    def fit(q: Floats) -> Line:
        qw = dot(q, w)
        scale = qw * reciprocal(dot(q, q))
        return Line(scale, zeros, scale * qw)

    guesses = [extreme(w) / (lowest + stretch) for stretch in STRETCHES]
    return search(w, guesses, lowest, highest, fit).scale


def best_line(w: Floats, highest: int, ceiling: float = HALF_MAX) -> tuple[Floats, Floats]:
    """The scale and offset (...) of each group, for levels 0 to `highest`.

    No scale is below zero, and no offset above `ceiling`.
    """
    start = np.minimum(w.min(axis=0), np.float32(ceiling))
    limit = ceiling - start
    w = w - start  # so that a large offset costs no digits
    n, sum_w = np.float32(len(w)), w.sum(axis=0)

    def fit(q: Floats) -> Line:
        sum_q, qq, qw = q.sum(axis=0), dot(q, q), dot(q, w)
        offset = (qq * sum_w - sum_q * qw) * reciprocal(n * qq - sum_q * sum_q)
        offset = np.minimum(offset, limit)
        scale = (qw - offset * sum_q) * reciprocal(qq)  # the best for this offset
        return Line(scale, offset, scale * scale * qq + offset * (2 * sum_w - n * offset))

    guesses = [w.max(axis=0) / (highest + stretch) for stretch in STRETCHES]
    line = search(w, guesses, 0, highest, fit)
    return line.scale, line.offset + start


def search(
    w: Floats, guesses: list[Floats], lowest: int, highest: int, fit: Callable[[Floats], Line]
) -> Line:
    """The line of most gain, from scales to begin with and what fits a line to levels."""
    best = best_of([fit(nearest(w, scale, 0, lowest, highest)) for scale in guesses])
    for _ in range(ROUNDS):
        q = nearest(w, best.scale, best.offset, lowest, highest)
        best = best_of([best, fit(q)])
    return best


def best_of(lines: list[Line]) -> Line:
    """Group by group the line of most gain."""
    index = np.argmax([line.gain for line in lines], axis=0)
    return Line(*(pick(index, choices) for choices in zip(*lines, strict=True)))


def nearest(w: Floats, scale: Floats, offset: Floats | float, lowest: int, highest: int) -> Floats:
    """The levels, `lowest` to `highest`, that come nearest to the weights; 0 where scale is 0."""
    q = w - offset
    q *= reciprocal(scale)
    np.rint(q, out=q)
    return np.clip(q, lowest, highest, out=q)


def squared_error(
    w: Floats, scale: Floats, offset: Floats | float, lowest: int, highest: int
) -> Floats:
    """(...): what the nearest levels leave."""
    error = nearest(w, scale, offset, lowest, highest)
    error *= scale
    error += offset
    error -= w
    return dot(error, error)


# ---- small parts ---------------------------------------------------------------------------------


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
