"""Sums of integer products, folded: eight groups of two vectors of sums are scaled at once.

A dot product of 64 bytes in the order of products (`linnet.kernels.products.interleave`) leaves two
sums for each of eight groups. Two such vectors, `a` and `b`, are folded into one, which has a lane
for each group of both. Of every two groups it holds

    a of group 2i, a of group 2i + 1, b of group 2i, b of group 2i + 1

and is converted, scaled and added up in one instruction each. With groups of 32, a and b are two
rows of weights; with groups of 16, the first and the second halves of the groups of 32 of one row.
Types give their scales and offsets in this order (`QuantType.factors`), and `Quantize` those of
activations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from linnet.kernels.ir import Kernel, Value, f32, i8
from linnet.kernels.ops.accumulators import Accumulators
from linnet.kernels.products.activations import Span
from linnet.kernels.products.interleave import GROUP, GROUPS, RUN, RUNS
from linnet.kernels.quants import QuantType
from linnet.kernels.quants.base import Factors, Unpacked
from linnet.kernels.quants.blocks import Blocks

LANES = 2 * GROUPS
QUADS = range(0, LANES, 4)  # lanes of two groups
MANY_REGISTERS = 32
Runs = Sequence[tuple[int, Value]]  # numbers of runs, and their lanes u8[64]


def add_spans(
    k: Kernel, type: QuantType, rows: Sequence[Blocks], sums: Sequence[Sums], x: Sequence[Span]
) -> None:
    """Add the products of the same 256 columns of a row or two with each token's x to its sums.

    With 32 registers the weights of both rows are held while tokens pass, so that x is loaded once;
    with fewer, those of one at a time.
    """
    parts, n_parts = _parts(type, rows), 2 if type.group == GROUP else 2 * len(rows)
    step = n_parts if k.isa.registers >= MANY_REGISTERS else 1
    dots: list[list[Value]] = [[] for _ in sums]
    for done in range(step, n_parts + 1, step):
        held = list(islice(parts, step))
        factors = type.factors(rows) if done == n_parts else []
        for total, span, own in zip(sums, x, dots, strict=True):
            lanes = [span.lanes(run, 0).load(i8[GROUPS * RUN]) for run in range(RUNS)]
            for runs in held:
                weights = [lanes for _, lanes in runs]
                own.append(k.isa.dots(weights, [lanes[run] for run, _ in runs], type.largest))
            if factors:
                total.add_span(own, factors, span)


def _parts(type: QuantType, rows: Sequence[Blocks]) -> Iterator[Runs]:
    """What one vector of sums is made of: a row; where groups have 16, half the runs of one."""
    for row in rows:
        runs = list(enumerate(type.runs(row)))
        yield from [runs] if type.group == GROUP else (runs[:2], runs[2:])


class Sums:
    """Running sums of one token's products with rows of weights, zero where this is made."""

    def __init__(self, k: Kernel, type: QuantType, n_rows: int) -> None:
        self._k, self._type = k, type
        n_folds = 1 if type.group == GROUP else n_rows
        self._spans = [k.cell(f32[LANES], "sum") for _ in range(n_folds)]
        self._groups = [Accumulators(k) for _ in range(n_rows)]

    def add_span(self, dots: Sequence[Value], factors: Sequence[Factors], x: Span) -> None:
        """sums += products * scales * x.scales + offsets * x.sums, for eight groups of x.

        dots: i32[16], two for each of the factors. Where lanes have a zero, products - zero * (sum
        of x's lanes), scaled as x is.
        """
        k, type = self._k, self._type
        x_scales = x.scales(0).load(f32[LANES])
        if type.group == GROUP:
            x_sums = x.group_sums(0).load(f32[LANES])
        else:
            (x_sums,) = type.in_fold_order([x.sums(0).load(f32[LANES])])
        pairs = zip(dots[::2], dots[1::2], strict=True)
        for pair, (scales, offsets), cell in zip(pairs, factors, self._spans, strict=True):
            products = _fold(*pair).to(f32)
            if type.zero:
                zero = k.constant(x_sums.type, -type.zero)
                cell.set(k.fma(k.fma(x_sums, zero, products * x_scales), scales, cell.get()))
            else:
                cell.set(k.fma(products, scales * x_scales, cell.get()))
            if offsets is not None:
                cell.set(k.fma(offsets, x_sums, cell.get()))

    def add_group(self, row: int, weights: Unpacked, x: Span) -> None:
        """The same for the 32 columns of a span of one group, of the row of this number."""
        k, type, total = self._k, self._type, self._groups[row]
        lanes = x.lanes(0, 0).load(i8[GROUP])
        dots = k.isa.dots(weights.lanes, [lanes], type.largest)
        scales = weights.scales.repeat_lanes(type.group // 4) * x.scales(0).load(f32)
        total.add(dots.to(f32), scales)
        constants = type.constants(weights)
        if constants is not None:
            total.add(constants.repeat_lanes(type.group // 16), x.sums(0).load(f32[2]))

    def of_rows(self) -> list[Value]:
        """The sums of each row: scalars."""
        sums: list[Value] = []
        for cell in self._spans:
            a, b = _unfold(cell.get())
            sums += [a, b] if self._type.group == GROUP else [a + b]
        if self._type.block < 256:
            sums = [total + rest.sum() for total, rest in zip(sums, self._groups, strict=True)]
        return sums


def _fold(a: Value, b: Value) -> Value:
    """Of two sums for each group one, of a and of b."""
    even = [quad + i for quad in QUADS for i in (0, 2, 16, 18)]
    return a.shuffle(even, b) + a.shuffle([i + 1 for i in even], b)


def _unfold(folded: Value) -> tuple[Value, Value]:
    """The sum of all lanes of a, and of all of b."""
    half = folded[:8] + folded[8:]
    quad = half[:4] + half[4:]
    return quad[0] + quad[1], quad[2] + quad[3]
