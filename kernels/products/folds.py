"""Sums of integer products, folded: eight groups of two vectors of sums are scaled at once.

A dot product of 64 bytes in the order of products (`linnet.kernels.products.interleave`) leaves two
sums for each of eight groups. Two such vectors, `a` and `b`, are folded into one, which has a lane
for each group of both. Of every two groups it holds

    a of group 2i, a of group 2i + 1, b of group 2i, b of group 2i + 1

and is converted, scaled and added up in one instruction each. With groups of 32, a and b are two
rows of weights; with groups of 16, the first and the second halves of the groups of 32 of one row.
Types give their scales and offsets in this order (`QuantType.factors`), and `Quantize` those of
activations.

Registers of 16 bytes hold half a group. There activations are brought to the order of columns, once
for two rows, and a register leaves four sums of one group; those of four registers are folded into
one of the same lanes, but that with groups of 16 these are in the order of columns, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
TWO_GROUPS = 2 * GROUP  # columns
MANY_REGISTERS = 32
Runs = Sequence[tuple[int, Value]]  # numbers of runs, and their lanes u8[64]


def add_spans(
    k: Kernel, type: QuantType, rows: Sequence[Blocks], sums: Sequence[Sums], x: Sequence[Span]
) -> None:
    """Add the products of the same 256 columns of a row or two with each token's x to its sums."""
    add = _add_by_runs if k.isa.interleaves else _add_by_columns
    add(k, type, rows, sums, x)


def _add_by_runs(
    k: Kernel, type: QuantType, rows: Sequence[Blocks], sums: Sequence[Sums], x: Sequence[Span]
) -> None:
    """`add_spans` of weights in the order of products, a vector of which is of all groups.

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
                folds = (_fold(*pair) for pair in zip(own[::2], own[1::2], strict=True))
                total.add_span(folds, factors, span)


def _parts(type: QuantType, rows: Sequence[Blocks]) -> Iterator[Runs]:
    """What one vector of sums is made of: a row; where groups have 16, half the runs of one."""
    for row in rows:
        runs = list(enumerate(type.runs(row)))
        yield from [runs] if type.group == GROUP else (runs[:2], runs[2:])


def _add_by_columns(
    k: Kernel, type: QuantType, rows: Sequence[Blocks], sums: Sequence[Sums], x: Sequence[Span]
) -> None:
    """`add_spans` of weights in the order of columns, of which a register has half a group of 32.

    64 columns are done at a time, and nothing of the next ones begins before: LLVM would find an
    order for which registers do not suffice.
    """
    folds: list[list[list[Value]]] = [[] for _ in sums]
    for group in range(0, GROUPS, 2):
        lanes = [_lanes_of_two(k, type, row, group) for row in rows]
        for span, own in zip(x, folds, strict=True):
            columns = _columns_of_two(k, span, group)
            dots = [dot for groups in lanes for dot in _dots_of_two(k, type, groups, columns)]
            own.append([k.opaque(_sums_of(dots[i : i + 4])) for i in range(0, len(dots), 4)])
    factors = type.factors(rows)
    for total, span, own in zip(sums, x, folds, strict=True):
        total.add_span(map(k.concat, zip(*own, strict=True)), factors, span)


def in_order(k: Kernel, type: QuantType, chunk: Unpacked) -> list[Value]:
    """The lanes of 256 columns in the order in which an instruction set takes them."""
    return (type.in_runs if k.isa.interleaves else type.in_column_order)(k, chunk)


def sums_of_twos(k: Kernel, type: QuantType, lanes: Sequence[Value], x: Span) -> list[Value]:
    """A row's integer products with 256 columns, of lanes `in_order`: i32[16], two sums for every
    group; where groups have 16, those of the first halves of 32, and those of the second."""
    if not k.isa.interleaves:
        pairs = [
            _dots_of_two(k, type, lanes[group : group + 2], _columns_of_two(k, x, group))
            for group in range(0, GROUPS, 2)
        ]
        return [
            k.concat([_twos(dots[part], dots[len(dots) // 2 + part]) for dots in pairs])
            for part in range(GROUP // type.group)
        ]
    xs = [x.lanes(run, 0).load(i8[GROUPS * RUN]) for run in range(RUNS)]
    n = type.group // RUN  # runs of a group
    parts = (slice(i, i + n) for i in range(0, RUNS, n))
    return [k.isa.dots(lanes[part], xs[part], type.largest) for part in parts]


def _lanes_of_two(k: Kernel, type: QuantType, row: Blocks, group: int) -> list[Value]:
    """The lanes of a group and of the next one: u8[32] each. Nothing else is read here: of blocks
    that are larger all is traced, and LLVM drops what is not used."""
    n = TWO_GROUPS // type.block
    if n:
        return type.in_column_order(k, type.unpack(row.part(group // 2 * n, n)))
    return type.in_column_order(k, type.unpack(row))[group : group + 2]


def _columns_of_two(k: Kernel, span: Span, group: int) -> list[Value]:
    """x of a group and of the next one in the order of columns: i8[16], twice each."""
    runs = [span.lanes(run, group).load(i8[2 * RUN]) for run in range(RUNS)]
    return [
        a.shuffle([*own, *(2 * RUN + i for i in own)], b)
        for own in (range(RUN), range(RUN, 2 * RUN))
        for a, b in (runs[:2], runs[2:])
    ]


def _dots_of_two(
    k: Kernel, type: QuantType, lanes: Sequence[Value], x: Sequence[Value]
) -> list[Value]:
    """Products of lanes u8[32] twice with 64 columns, summed in fours: i32[4] for each group."""
    halves, n = k.regroup(lanes, 16), type.group // 16
    parts = (slice(i, i + n) for i in range(0, len(halves), n))
    return [k.isa.dots(halves[part], x[part], type.largest) for part in parts]


def _sums_of(vectors: Sequence[Value]) -> Value:
    """The sums of four vectors of four lanes."""
    a, b, c, d = vectors
    return _twos(_twos(a, b), _twos(c, d))


def _twos(a: Value, b: Value) -> Value:
    """Neighbours added, those of a and then those of b."""
    n = 2 * a.type.lanes
    return a.shuffle(range(0, n, 2), b) + a.shuffle(range(1, n, 2), b)


class Sums:
    """Running sums of one token's products with rows of weights, zero where this is made."""

    def __init__(self, k: Kernel, type: QuantType, n_rows: int) -> None:
        self._k, self._type = k, type
        n_folds = 1 if type.group == GROUP else n_rows
        self._spans = [k.cell(f32[LANES], "sum") for _ in range(n_folds)]
        self._groups = [Accumulators(k) for _ in range(n_rows)]

    def add_span(self, folds: Iterable[Value], factors: Sequence[Factors], x: Span) -> None:
        """sums += products * scales * x.scales + offsets * x.sums, for eight groups of x.

        folds: i32[16], one for each of the factors. Where lanes have a zero, products - zero * (sum
        of x's lanes), scaled as x is.
        """
        k, type = self._k, self._type
        x_scales = x.scales(0).load(f32[LANES])
        if type.group == GROUP:
            x_sums = x.group_sums(0).load(f32[LANES])
        else:
            (x_sums,) = type.in_fold_order([x.sums(0).load(f32[LANES])])
            if not k.isa.interleaves:
                x_scales = x_scales.shuffle([quad + i for quad in QUADS for i in (0, 0, 1, 1)])
        for fold, (scales, offsets), cell in zip(folds, factors, self._spans, strict=True):
            products = fold.to(f32)
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
            folded = cell.get()
            halves = folded[: LANES // 2] + folded[LANES // 2 :]
            quad = halves[:4] + halves[4:]
            if self._type.group == GROUP:
                sums += [quad[0] + quad[1], quad[2] + quad[3]]
            elif self._k.isa.interleaves:
                sums.append((quad[0] + quad[1]) + (quad[2] + quad[3]))
            else:  # the same numbers in the same order
                sums.append((quad[0] + quad[2]) + (quad[1] + quad[3]))
        if self._type.block < 256:
            sums = [total + rest.sum() for total, rest in zip(sums, self._groups, strict=True)]
        return sums


def _fold(a: Value, b: Value) -> Value:
    """Of two sums for each group one, of a and of b."""
    even = [quad + i for quad in QUADS for i in (0, 2, 16, 18)]
    return a.shuffle(even, b) + a.shuffle([i + 1 for i in even], b)
