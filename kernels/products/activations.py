"""Activations as products take them: int8 in groups of 32, under one scale each.

A row is packed span by span: spans of 256 columns while they last, then spans of 32. A span holds
its lanes in the order of products (`linnet.kernels.products.interleave`); then for every group,
each twice, its f32 scale and the f32 sum of what it stands for; then for every 16 columns the f32
sum of what they stand for, and the i32 sum of their lanes:

    256 columns: i8[256], f32[16], f32[16], f32[16], i32[16]
     32 columns: i8[32], f32[2], f32[2], f32[2], i32[2]

Scales and sums of groups lie as products are folded (`linnet.kernels.products.folds`): those of
groups 2i and 2i + 1, and again.

That is 2n bytes, as many as n columns take in bf16 for CPUs with matrix registers. A row has 64
more: rows of a power of two would all lie on the same lines of a cache.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import Pointer, Value, f32, i8, i16, i32, i64, u16, u32
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Array, Float32s, Int, Op, OpKernel
from linnet.kernels.products.interleave import GROUP, GROUPS, RUN, RUNS, SPAN, place

Doubles = npt.NDArray[np.float64]

# Adding 1.5 * 2^23 and taking it away leaves a small number's nearest integer, ties to even.
ROUNDING = 12582912.0

STEPS = range(127, 119, -1)  # from 0 to the largest of a group: the best of these eight
ONE = 2.0**16  # what the largest of a group is in fixed-point
LEAST = 2.0**-110  # smaller groups are rounded as if one number were this: ONE / LEAST is finite
AREAS = [round(2**15 * (STEPS[0] / steps) ** 2) for steps in STEPS]  # of a square of one step


def packed_bytes(n_columns: Any) -> Any:
    """What a row of so many columns (a multiple of 32; an int or a Value) takes when packed."""
    return n_columns * 2 + 64


def span_bytes(n_columns: Any) -> Any:
    """What the spans of so many columns take."""
    return n_columns * 2


@dataclass(frozen=True, slots=True)
class Span:
    """A packed span of so many groups (8 or 1) in memory."""

    address: Pointer
    n_groups: int | Value

    @classmethod
    def of(
        cls, rows: Pointer, row: Value | int, n_columns: Value, column: Value, size: int
    ) -> Span:
        """Of packed `rows` of `n_columns` the span that begins at this row and column.

        `size`: columns that are taken at a time there; 256 of them are one span, fewer are spans
        of 32 one after the other.
        """
        at = packed_bytes(n_columns) * row + span_bytes(column)
        return cls(rows.at(at), GROUPS if size == SPAN else 1)

    def find(self, group: Value) -> tuple[Span, Value | int]:
        """Of the groups from here on, counted from 0: the span it is in, and its number there."""
        if self.n_groups == GROUPS:
            return self, group
        return Span(self.address.at(span_bytes(GROUP) * group), 1), 0

    def lanes(self, run: int, group: int | Value) -> Pointer:
        """i8: a run of a group; on from there the same run of the groups that follow."""
        return self.address.at(place(run, group, self.n_groups))

    def scales(self, group: int | Value) -> Pointer:
        """f32: the group's, and again `again` bytes on."""
        return self.address.at(self.n_groups * GROUP + _folded(group))

    def group_sums(self, group: int | Value) -> Pointer:
        """f32: as `scales`."""
        return self.address.at(self.n_groups * (GROUP + 8) + _folded(group))

    @property
    def again(self) -> int | Value:
        """Bytes from a group's scale or sum to where it stands again: two numbers, or one."""
        return (self.n_groups >> 3) * 4 + 4

    def sums(self, group: int | Value) -> Pointer:
        """f32: two for every group."""
        return self.address.at(self.n_groups * (GROUP + 16) + group * 8)

    def lane_sums(self, group: int | Value) -> Pointer:
        """i32: two for every group."""
        return self.address.at(self.n_groups * (GROUP + 24) + group * 8)


def _folded(group: int | Value) -> int | Value:
    """The byte at which a group's first of two numbers lies, folded."""
    return (group >> 1) * 16 + (group & 1) * 4


class Packing(Op):
    """x f32 (n_rows, width) -> out u8 (n_rows, packed_bytes(width)); a token may have several rows.

    `width`: a multiple of 32.
    """

    def values(self, packed: Array, n_columns: int) -> Doubles:
        """The activations (n_rows, n_columns) that packed rows stand for."""
        raise NotImplementedError


@dataclass(frozen=True)
class Quantize(Packing):
    """Activations as int8, packed as this module says; an item is a group of 32.

        for group in items:
            largest = max(max |x|, 2^-110)
            fixed = round(x / largest * 2^16)            # i16: its low 16 bits
            for steps in 127, 126, ..., 120:
                moved = fixed * steps                    # i16, which wraps: from the nearest lane
                error[steps] = sum(moved * moved) / (steps * steps)
            steps = argmin(error)                        # of equal ones the most steps
            lanes = round(x / largest * steps)           # to nearest, ties to even
            scale = sum(x * lanes) / sum(lanes * lanes)  # least squares: near largest / steps
            group_sum = scale * (sum of lanes)           # what a type's offset is multiplied by
            sums      = scale * (sum of each 16 lanes)   # where groups of weights have 16
            lane_sums = sum of each 16 lanes

    `moved` is in 2^-16 of a step, and its squares are summed as integers, in 2^-12 of a step's: at
    most 0.04 off, and the same on every CPU. A NaN or infinity in a group leaves no product with
    that group finite.
    """

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["x"] // GROUP, 1

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 16, 16

    def emit(self, k: OpKernel, x: Float32s, out: Pointer, width: Int) -> None:
        together = (4, 1) if k.isa.bits > 128 else (1,)  # as far as registers hold
        for n, done in k.strips(k.last - k.first, together):
            first = k.first + done
            groups = [x.load((first + i) * GROUP, GROUP) for i in range(n)]
            lanes, scales, sums = self._quantize(k, groups)
            for i in range(n):
                span, group = self._place(k, out, width, first + i)
                scale = scales[i]
                for run in range(RUNS):
                    span.lanes(run, group).store(lanes[i][RUN * run : RUN * (run + 1)])
                for at, number in (
                    (span.scales(group), scale),
                    (span.group_sums(group), (sums[i][0] + sums[i][1]) * scale),
                ):
                    at.store(number)
                    at.store(number, span.again)
                span.sums(group).store(sums[i] * scale)
                span.lane_sums(group).store(sums[i].to(i32))

    def _quantize(self, k: OpKernel, x: list[Value]) -> tuple[list[Value], Value, list[Value]]:
        """n groups f32[32] -> lanes i8[32] of each, scales f32[n], and sums of 16 lanes f32[2].

        What is summed across lanes is summed for all groups together.
        """
        n = len(x)
        # As integers, magnitudes order like the floats, and NaN is above them all.
        sizes = [(group.bits(u32[GROUP]) & 0x7FFFFFFF).bits(i32[GROUP]) for group in x]
        halves = [k.maximum(size[:16], size[16:]) for size in sizes]
        largest = k.reduce(halves, k.maximum).bits(f32[n])
        unit = ONE / k.maximum(largest, LEAST)
        inverse = unit * (self._steps(k, x, unit).to(f32) * (1 / ONE))
        lanes, parts = [], []
        for i, group in enumerate(x):
            shifted = group * inverse[i] + ROUNDING
            lanes.append(shifted.bits(i32[GROUP]).to(i8))
            rounded = shifted - ROUNDING
            products, squares = group * rounded, rounded * rounded
            parts += [products[:16] + products[16:], squares[:16] + squares[16:]]
            parts += [rounded[:16], rounded[16:]]
        totals = k.reduce(parts, operator.add)  # of each group: products, squares, two sums
        products, squares = (totals.shuffle(range(i, 4 * n, 4)) for i in (0, 1))
        sums = [totals[4 * i + 2 : 4 * i + 4] for i in range(n)]
        return lanes, products / k.maximum(squares, 1.0), sums

    def _steps(self, k: OpKernel, x: list[Value], unit: Value) -> Value:
        """The steps i32[n] for n groups f32[32]; `unit` f32[n]: ONE / largest."""
        n, parts = len(x), []
        for i, group in enumerate(x):
            bits = (group * unit[i] + ROUNDING).bits(u32[GROUP])
            parts.append((bits[:16] & 0xFFFF | bits[16:] << 16).bits(i16[GROUP]))
        # The same quarter of every group side by side: sums of four vectors cross no lanes.
        fixed = [k.concat([part[j : j + 8] for part in parts]) for j in range(0, GROUP, 8)]
        errors = []
        for steps in STEPS:
            moved = [(quarter * steps).to(i32) for quarter in fixed]
            squares = [(m * m >> 16).to(u16) for m in moved]  # at most 2^14
            a, b, c, d = squares
            errors.append((a + b >> 4) + (c + d >> 4))
        totals = k.reduce(errors, operator.add, 8).to(i32)  # n for each of STEPS, at most 2^15
        each_area, each_number = (
            k.constant(totals.type, [number for number in numbers for _ in range(n)])
            for numbers in (AREAS, range(len(STEPS)))
        )
        # The number of steps in the low bits: the least of all says which it was.
        best = totals * each_area & -len(STEPS) | each_number
        while best.type.lanes > n:
            half = best.type.lanes // 2
            best = k.minimum(best[:half], best[half:])
        return STEPS[0] - (best & len(STEPS) - 1)

    def _place(self, k: OpKernel, out: Pointer, width: Value, item: Value) -> tuple[Span, Value]:
        """The span that an item's group belongs to, and the group's number in it."""
        in_row = width // GROUP
        row = (item.to(u32) // in_row.to(u32)).to(i64)
        group = item - row * in_row
        n_groups = (group < (in_row & -GROUPS)).select(k.constant(i64, GROUPS), 1)
        start = group & -n_groups
        at = packed_bytes(width) * row + span_bytes(start * GROUP)
        return Span(out.at(at), n_groups), group - start

    def values(self, packed: Array, n_columns: int) -> Doubles:
        parts = [
            span["lanes"].swapaxes(2, 3) * _unfold(span["scales"]).astype(np.float64)[..., None]
            for span in spans(packed)
        ]
        return np.concatenate([part.reshape(len(packed), -1) for part in parts], axis=1)

    def reference(self, x: Array, out: Array, width: int) -> None:
        groups = x.reshape(-1, width // GROUP, GROUP)
        largest = np.maximum(np.abs(groups).max(axis=-1), np.float32(LEAST))
        unit = np.float32(ONE) / largest
        inverse = unit * (best_steps(groups, unit).astype(np.float32) * np.float32(1 / ONE))
        lanes = groups * inverse[..., None] + np.float32(ROUNDING) - np.float32(ROUNDING)
        scales = _sum(groups * lanes) / np.maximum(_sum(lanes * lanes), 1)
        done = 0
        for span in spans(out.reshape(len(groups), -1)):
            n_rows, n_spans, n_groups = span["sums"].shape[:3]
            here = slice(done, done + n_spans * n_groups)
            each = lanes[:, here].reshape(n_rows, n_spans, n_groups, RUNS, RUN)
            span["lanes"] = each.swapaxes(2, 3)
            span["lane_sums"] = each.reshape(*span["sums"].shape, 16).sum(axis=-1)
            scale = scales[:, here].reshape(n_rows, n_spans, n_groups, 1)
            span["sums"] = span["lane_sums"] * scale
            _fold(scale, span["scales"])
            _fold(span["lane_sums"].sum(axis=-1, keepdims=True) * scale, span["group_sums"])
            done += n_spans * n_groups


def best_steps(groups: Any, unit: Any) -> Any:
    """What `Quantize._steps` makes of groups (..., 32) and units (...), to the same bits."""
    fixed = (groups * unit[..., None] + np.float32(ROUNDING)).view(np.int32).astype(np.int16)
    keys = []
    for number, steps in enumerate(STEPS):
        moved = (fixed * np.int16(steps)).astype(np.int32)
        squares = (moved * moved >> 16).reshape(*unit.shape, 4, 2, 4)  # a pair lies 4 columns apart
        totals = (squares.sum(axis=-2) >> 4).sum(axis=(-1, -2))
        keys.append(totals * AREAS[number] & -len(STEPS) | number)
    return STEPS[0] - (np.minimum.reduce(keys) & len(STEPS) - 1)


def _sum(terms: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Sums along the last axis, half added to half as `Kernel.reduce` does: to the same bits."""
    while terms.shape[-1] > 1:
        half = terms.shape[-1] // 2
        terms = terms[..., :half] + terms[..., half:]
    return terms[..., 0]


def spans(packed: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[Any]]:
    """Packed rows as records (n_rows, n_spans): those of 8 groups, then those of 1.

    Fields: `lanes` (4, n_groups, 8); `scales` and `group_sums` (n_groups / 2, 2, 2), of one group
    (1, 2, 1), in which the middle axis says the same again; `sums` and `lane_sums` (n_groups, 2).
    """
    end = span_bytes((packed.shape[1] - 64) // 2)
    whole = end // span_bytes(SPAN) * span_bytes(SPAN)
    for n_groups, part in ((GROUPS, packed[:, :whole]), (1, packed[:, whole:end])):
        pairs, folded = (n_groups, 2), (-(-n_groups // 2), 2, min(n_groups, 2))
        fields: Any = [("lanes", "i1", (RUNS, n_groups, RUN))]
        fields += [("scales", "<f4", folded), ("group_sums", "<f4", folded)]
        fields += [("sums", "<f4", pairs), ("lane_sums", "<i4", pairs)]
        yield part.view(np.dtype(fields)) if part.size else np.empty((len(part), 0), fields)


def _unfold(folded: Array) -> Array:
    """A span's numbers of groups (..., n_groups / 2, 2, 2) -> (..., n_groups, 1)."""
    n_groups = folded.shape[-3] * folded.shape[-1]
    return folded[..., 0, :].reshape(*folded.shape[:-3], n_groups, 1)


def _fold(numbers: Array, folded: Array) -> None:
    """The reverse; numbers are written to `folded`."""
    pairs, _, each = folded.shape[-3:]
    folded[...] = numbers.reshape(*numbers.shape[:-2], pairs, 1, each)
