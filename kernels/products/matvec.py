"""GEMV: products with few rows of activations, as decoding has; weights are read once, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from linnet.kernels.ir import Pointer, Value, f32, i8, i32
from linnet.kernels.isa import ISA
from linnet.kernels.ops.accumulators import Accumulators
from linnet.kernels.ops.base import ALL_ROWS, Float32s, Int, OpKernel
from linnet.kernels.products.activations import Quantize, Span
from linnet.kernels.products.base import MatrixProduct
from linnet.kernels.products.interleave import GROUP, RUN, SPAN, Register, interleave
from linnet.kernels.quants import QuantType, WeightType
from linnet.kernels.quants.base import Unpacked
from linnet.kernels.quants.packed_rows import chunks, row_stride


@dataclass(frozen=True)
class Gemv(MatrixProduct):
    """out[t] = weights @ x[t] for `n_rows` tokens t; an item is a row of weights.

    for row in items:
        for chunk in weights[row]:
            add its products with x[t] to sums[t], for all tokens t
        out[t][row] = sum of sums[t]
    """

    n_rows: int

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_out"], ALL_ROWS

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return rows_at_a_time(self.type, isa, sizes["n_columns"])

    def emit(
        self, k: OpKernel, weights: Pointer, x: Pointer, out: Float32s, n_columns: Int, n_out: Int
    ) -> None:
        row_bytes = row_stride(self.type, n_columns)
        for row in k.items("row"):
            sums = self.multiply(k, weights.at(row * row_bytes), x, n_columns)
            for token, total in enumerate(sums):
                out.store(total.sum(), row + n_out * token)

    def multiply(
        self, k: OpKernel, row: Pointer, x: Pointer, n_columns: Value
    ) -> list[Accumulators]:
        """Trace the products of one packed row with every token's x; returns their sums."""
        raise NotImplementedError


@dataclass(frozen=True)
class MatVec(Gemv):
    """GEMV with x packed by `Quantize`: products of bytes, summed as integers.

    for span of 256 or 32 in chunk:
        registers, scales, constants = unpack(span)      # once, for all tokens
        for t in tokens:
            for those with the same scales:      # all four of 64 bytes, where groups have 32
                sums[t] += (sum of dot(register, x[t].lanes)) * (scales * x[t].scales)
            sums[t] += constants * x[t].sums
    """

    type: QuantType

    packing = Quantize()

    def multiply(
        self, k: OpKernel, row: Pointer, x: Pointer, n_columns: Value
    ) -> list[Accumulators]:
        sums = [Accumulators(k) for _ in range(self.n_rows)]
        for size, column, packed in chunks(k, self.type, row, n_columns):
            for start, order, weights in self._spans(k, packed, size):
                constants = self.type.constants(weights)
                if constants is not None:
                    constants = constants.repeat_lanes(self.type.group // 16)
                products = self._products(weights, order, k.isa.bits // 8)
                for token, total in enumerate(sums):
                    span = Span.of(x, token, n_columns, column + start, GROUP * len(order))
                    for registers, scales in products:
                        total.add(self._dot(registers, span), scales * x_scales(registers[0], span))
                    if constants is not None:
                        total.add(constants, span.sums(0).load(constants.type))
        return sums

    def _spans(
        self, k: OpKernel, packed: Pointer, size: int
    ) -> Iterator[tuple[int, Sequence[int], Unpacked]]:
        """A chunk by the spans of activations: (first column, order of its groups, weights)."""
        chunk = self.type.unpack_chunk(k, packed, size)
        if size == SPAN:
            yield 0, self.type.order, chunk
            return
        for i, group in enumerate(self.type.groups(k, chunk)):
            yield GROUP * i, (0,), group

    def _products(
        self, weights: Unpacked, order: Sequence[int], n_bytes: int
    ) -> list[tuple[list[Register], Value]]:
        """Registers of weights whose products may be added as integers, and their scales."""
        together: dict[tuple[int, ...], list[Register]] = {}
        for register in interleave(weights.lanes, order, n_bytes):
            groups = tuple(
                (GROUP * group + RUN * run) // self.type.group for run, group in register.runs
            )
            together.setdefault(groups, []).append(register)
        return [
            (
                registers,
                weights.scales.shuffle([group for group in groups for _ in range(RUN // 4)]),
            )
            for groups, registers in together.items()
        ]

    def _dot(self, registers: Sequence[Register], span: Span) -> Value:
        """Products summed in fours and over registers: f32[n]."""
        lanes = registers[0].lanes
        total = lanes.k.constant(i32[lanes.type.lanes // 4], 0)
        for register in registers:
            x = span.lanes(*register.runs[0]).load(i8[lanes.type.lanes])
            total = lanes.k.isa.dot(total, register.lanes, x, self.type.largest)
        return total.to(f32)


@dataclass(frozen=True)
class FloatMatVec(Gemv):
    """GEMV with x in f32.

    for register in floats(chunk):           # unpacked once, for all tokens
        for t in tokens:
            sums[t] += register * x[t]
    """

    def multiply(
        self, k: OpKernel, row: Pointer, x: Pointer, n_columns: Value
    ) -> list[Accumulators]:
        sums = [Accumulators(k) for _ in range(self.n_rows)]
        for size, column, packed in chunks(k, self.type, row, n_columns):
            start = 0
            for floats in self.type.floats(k, packed, size):
                for token, total in enumerate(sums):
                    x_row = x.at((column + n_columns * token) * 4)
                    total.add(floats, x_row.load(floats.type, start * 4))
                start += floats.type.lanes
        return sums


def x_scales(register: Register, span: Span) -> Value:
    """The activations' scale for every four lanes of a register."""
    n, (_, first_group) = register.lanes.type.lanes // 4, register.runs[0]
    if span.n_groups == 1:
        return span.scales(0).load(f32).splat(n)
    return span.scales(first_group).load(f32[n])


def rows_at_a_time(type: WeightType, isa: ISA, n_columns: int) -> tuple[int, int]:
    """The fewest and the most rows of weights that a thread takes: see `Tuning`."""
    return isa.tuning.items_of(type.row_bytes(n_columns))
