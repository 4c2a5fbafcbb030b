"""The register tile of `MatMul`: some tokens' sums with the rows of a panel.

What a chunk of the panel adds, for its groups of weights that share a scale:

    for group in chunk:
        products[tile] = integer products with the group
        sums[tile] += products * (scales * x.scale)
    for group in chunk:                                  # where a type has offsets
        sums[tile] += offsets * x.sum

Where scales are small integers times a unit, a group of activations is summed as integers:

    for 32 columns in chunk:
        products[tile] = integer products, times the multipliers of their groups
        in_units[tile] += products * x.scale
    sums[tile] += in_units * units

All products are exact, and so the same however they come about: see `Products`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from linnet.kernels.ir import Cell, Pointer, Value, f32, i8, i32, u8
from linnet.kernels.isa import ISA
from linnet.kernels.isa.base import DotSum
from linnet.kernels.products.activations import Span
from linnet.kernels.products.interleave import GROUP, RUN
from linnet.kernels.products.panel import Panel
from linnet.kernels.quants import QuantType
from linnet.kernels.quants.base import LARGEST_SIGNED

HALVES = 0, 1  # of a group of activations, by which their lanes' sums are kept

Cells = list[list[Cell]]  # of each token and vector of rows
Values = list[list[Value]]


@dataclass(frozen=True, slots=True)
class Factors:
    """Where those of a chunk's groups lie, transposed: rows of 4 bytes for each row of weights.

    scales, offsets: f32 [n_groups]. multipliers: i16 [n_groups][2], each twice; `scales` has one
    row then, the units that they multiply.
    """

    scales: Pointer
    offsets: Pointer | None
    multipliers: Pointer | None


class Products:
    """The integer products of a panel's rows, columns of a chunk, with tokens' spans."""

    def __init__(self, panel: Panel, type: QuantType) -> None:
        self.panel, self.k, self.type = panel, panel.k, type
        self.parts = GROUP // type.group  # groups of weights in one of activations

    def of_group(self, spans: Sequence[Span], g: Value, part: int) -> list[list[DotSum]]:
        """Of each token and vector of rows, with a group of weights: the `part` of group `g`."""
        raise NotImplementedError

    def multiplied(self, spans: Sequence[Span], g: Value, multipliers: Pointer) -> Values:
        """With group `g` of activations, each group of weights times its multiplier."""
        by_part = []
        for part in range(self.parts):
            row = self.panel.load_row(multipliers, g * self.parts + part, i32[self.panel.lanes])
            by_part.append([
                [product.times(factors) for product, factors in zip(products, row, strict=True)]
                for products in self.of_group(spans, g, part)
            ])  # fmt: skip
        return [
            [sum(more, first) for first, *more in zip(*rows, strict=True)]
            for rows in zip(*by_part, strict=True)
        ]

    def halves(self, part: int) -> Sequence[int]:
        """Which halves of a group of activations a group of weights meets."""
        return HALVES if self.parts == 1 else [part]

    def begin(self, span: Span, g: Value, halves: Sequence[int], zero: int) -> Value:
        """What products begin with: what the lanes' zero adds up to, in halves of a group."""
        if not zero:
            return self.k.constant(i32[self.panel.lanes], 0)
        place, at = span.find(g)
        first, *more = (place.lane_sums(at).load(i32, 4 * half) for half in halves)
        return (sum(more, first) * -zero).splat(self.panel.lanes)


class Dots(Products):
    """Made of the panel's columns, four at a time, and a token's lanes.

    The columns may hold lanes times their multipliers: see `folded_lanes`.
    """

    def of_group(self, spans: Sequence[Span], g: Value, part: int) -> list[list[DotSum]]:
        type = self.type
        starts = [self.begin(span, g, self.halves(part), type.zero) for span in spans]
        return self._dots(starts, type.largest, spans, g, part * type.group, type.group)

    def multiplied(self, spans: Sequence[Span], g: Value, multipliers: Pointer) -> Values:
        folded = folded_lanes(self.type, self.k.isa)
        if folded is None:
            return super().multiplied(spans, g, multipliers)
        largest, zero = folded
        starts = [self.begin(span, g, HALVES, zero) for span in spans]
        dots = self._dots(starts, largest, spans, g, 0, GROUP)
        return [[dot.total() for dot in row] for row in dots]

    def _dots(
        self, starts: Sequence[Value], largest: int, spans: Sequence[Span], g: Value,
        first: int, n: int,
    ) -> list[list[DotSum]]:  # fmt: skip
        """Dot products of n columns from the `first` of group g on."""
        panel, lanes = self.panel, self.panel.lanes
        vectors = range(panel.n_vectors)
        dots = [[self.k.isa.dot_sum(start, largest) for _ in vectors] for start in starts]
        places = [span.find(g) for span in spans]
        for column in range(first, first + n, 4):
            weights = panel.load_row(panel.columns, g * (GROUP // 4) + column // 4, u8[4 * lanes])
            run, rest = divmod(column, RUN)
            for (span, at), row in zip(places, dots, strict=True):
                x = self.k.isa.broadcast(span.lanes(run, at), rest).bits(i8[4 * lanes])
                for vector, dot in zip(weights, row, strict=True):
                    dot.add(vector, x)
        return dots


def folded_lanes(type: QuantType, isa: ISA) -> tuple[int, int] | None:
    """The largest and the zero of lanes times multipliers, where a panel's columns hold these.

    So they do where a dot product is one instruction, also for such lanes. Where words are summed,
    the instruction that sums them multiplies them, too; for squares multipliers lie elsewhere.
    """
    if isa.dot_sum.times_is_free or isa.squares or type.folded is None:
        return None
    return None if isa.signed_weights and type.folded[0] > LARGEST_SIGNED else type.folded


class RegisterTile:
    """Some tokens' sums, to which products with their spans are added."""

    def __init__(self, products: Products, tokens: Sequence[Value]) -> None:
        self._products, self._tokens = products, tokens
        self._panel, self._k, self._parts = products.panel, products.k, products.parts

    def add(self, spans: Sequence[Span], size: int, factors: Factors) -> None:
        """Add the products with a chunk of `size` columns."""
        panel, n_groups = self._panel, size // GROUP
        if factors.multipliers is None:
            totals = panel.load_sums(self._tokens)
            self._add_scaled(totals, spans, n_groups, factors.scales)
        else:
            in_units = self._in_units(spans, n_groups, factors.multipliers)
            totals = panel.load_sums(self._tokens)  # not before: registers are few in that loop
            units = panel.load_row(factors.scales, 0, f32[panel.lanes])
            for row, row_totals in zip(in_units, totals, strict=True):
                for part, unit, total in zip(row, units, row_totals, strict=True):
                    total.set(self._k.fma(part.get(), unit, total.get()))
        if factors.offsets is not None:
            self._add_offsets(totals, spans, n_groups, factors.offsets)
        panel.store_sums(self._tokens, totals)

    def _add_scaled(
        self, totals: Cells, spans: Sequence[Span], n_groups: int, scales: Pointer
    ) -> None:
        for g, part in self._groups(n_groups):
            products = self._products.of_group(spans, g, part)
            row = self._panel.load_row(scales, g * self._parts + part, f32[self._panel.lanes])
            for span, row_products, row_totals in zip(spans, products, totals, strict=True):
                x_scale = scale_of(span, g)
                for product, scale, total in zip(row_products, row, row_totals, strict=True):
                    number = product.total().to(f32)
                    total.set(self._k.fma(number, scale * x_scale, total.get()))

    def _add_offsets(
        self, totals: Cells, spans: Sequence[Span], n_groups: int, offsets: Pointer
    ) -> None:
        for g, part in self._groups(n_groups):
            row = self._panel.load_row(offsets, g * self._parts + part, f32[self._panel.lanes])
            for span, row_totals in zip(spans, totals, strict=True):
                place, at = span.find(g)
                x_sum = place.sums(at).load(f32, 4 * part)
                if self._parts == 1:
                    x_sum = x_sum + place.sums(at).load(f32, 4)
                for offset, total in zip(row, row_totals, strict=True):
                    total.set(self._k.fma(offset, x_sum, total.get()))

    def _in_units(self, spans: Sequence[Span], n_groups: int, multipliers: Pointer) -> Cells:
        """Sums of products with multiples of the lanes."""
        k, kind = self._k, f32[self._panel.lanes]
        sums = [[k.cell(kind, "sum") for _ in range(self._panel.n_vectors)] for _ in spans]
        for g in k.range(n_groups, name="group"):
            products = self._products.multiplied(spans, g, multipliers)
            for span, row_products, row_sums in zip(spans, products, sums, strict=True):
                x_scale = scale_of(span, g)
                for product, total in zip(row_products, row_sums, strict=True):
                    total.set(k.fma(product.to(f32), x_scale, total.get()))
        return sums

    def _groups(self, n: int) -> Iterator[tuple[Value, int]]:
        """The groups of weights in n of activations: of each of these, its parts."""
        for g in self._k.range(n, name="group"):
            for part in range(self._parts):
                yield g, part


def scale_of(span: Span, group: Value) -> Value:
    """The scale of the activations in a group."""
    place, at = span.find(group)
    return place.scales(at).load(f32)
