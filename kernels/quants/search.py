"""Finding the scale, and the offset, of groups of weights: what the quantisers share.

A group of weights w is stored as levels q, whole numbers, and w ~ scale * q + offset. For given q
the best scale and offset are those of the least-squares line; for a given line the best q are the
nearest. So a few guesses stretch the levels over a little more or less than the range of the
weights, a line is fitted to each, and the one of least squared error is kept.

Weights and levels hold one group a column, (group, ...), so that all work goes along whole rows of
memory; scales and offsets are (...). All are float32, whole numbers too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from linnet.kernels.quants.base import Bytes, Floats, WeightType

Records = npt.NDArray[Any]  # (n,) blocks

BATCH: Final = 1 << 17  # weights that are worked on at a time: they stay in the cache
STRETCHES: Final = np.linspace(-2, 2, 9, dtype=np.float32)  # levels more or less over the range
ROUNDS: Final = 1  # of finding levels and line in turn, behind the guesses
HALF_MAX: Final = 65504.0  # the largest F16 number
HALF_TINY: Final = 2.0**-24  # the smallest F16 number above zero
TINY: Final = 1e-30  # below this a scale is as good as zero


def by_blocks(type: WeightType, rows: Floats, encode: Callable[[Floats], Records]) -> Bytes:
    """Weights (n_rows, n_columns) -> packed rows (n_rows, row_bytes).

    `encode` makes records (n,) of weights (n, block). Raises ValueError where a row is not a whole
    number of blocks, and for weights that are not finite or are beyond the range of F16.
    """
    packed = np.empty((len(rows), type.row_bytes(rows.shape[1])), np.uint8)
    records = packed.reshape(-1, type.bytes).view(type.dtype)[:, 0]
    blocks = np.asarray(rows, np.float32).reshape(-1, type.block)
    step = BATCH // type.block
    for start in range(0, len(blocks), step):
        batch = blocks[start : start + step]
        check_range(batch, type.name, HALF_MAX)
        records[start : start + step] = encode(batch)
    return packed


def check_range(weights: Floats, type_name: str, limit: float) -> None:
    """Raises ValueError for weights that are not finite, or larger than `limit` either way."""
    largest = np.maximum(weights.max(initial=0), -weights.min(initial=0))
    if not np.isfinite(largest):
        raise ValueError(f"{type_name}: the weights hold NaN or infinity")
    if largest > limit:
        raise ValueError(f"{type_name}: a weight is {largest:g} in size; at most {limit:g} fits")


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

    def fit(q: Floats) -> Line:
        qw = dot(q, w)
        scale = qw * reciprocal(dot(q, q))
        return Line(scale, np.zeros_like(scale), scale * qw)

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
        scale = (n * qw - sum_q * sum_w) * reciprocal(n * qq - sum_q * sum_q)
        offset = (sum_w - scale * sum_q) / n
        over = offset > limit
        scale = np.where(over, (qw - limit * sum_q) * reciprocal(qq), scale)
        offset = np.where(over, limit, offset)
        of_scale = scale * (2 * qw - scale * qq - 2 * offset * sum_q)
        return Line(scale, offset, of_scale + offset * (2 * sum_w - n * offset))

    guesses = [w.max(axis=0) / (highest + stretch) for stretch in STRETCHES]
    line = search(w, guesses, 0, highest, fit)
    return line.scale, line.offset + start


def search(
    w: Floats, guesses: list[Floats], lowest: int, highest: int, fit: Callable[[Floats], Line]
) -> Line:
    """The line of most gain, from scales to begin with and what fits a line to levels."""
    lines = (fit(nearest(w, scale, 0, lowest, highest)) for scale in guesses)
    best = next(lines)
    for line in lines:
        best = better(best, line)
    for _ in range(ROUNDS):
        best = better(best, fit(nearest(w, best.scale, best.offset, lowest, highest)))
    return best


def better(a: Line, b: Line) -> Line:
    """Group by group the line of more gain."""
    is_better = b.gain > a.gain
    return Line(*(np.where(is_better, new, old) for old, new in zip(a, b, strict=True)))


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
    """1 / x, or 0 where x is as good as 0."""
    result = np.zeros_like(x)
    np.divide(1, x, out=result, where=np.abs(x) > TINY)
    return result


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
