"""Products with few rows of activations, as decoding has: the weights are read once, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Cell, Pointer, Value, f32, i8, i32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import ALL_ROWS, Op, OpKernel
from linnet.kernels.products.activations import Span, dequantized
from linnet.kernels.products.interleave import GROUP, RUN, Register, deal
from linnet.kernels.quants import QuantType, WeightType
from linnet.kernels.quants.base import Unpacked

CACHE_LINE = 64


class RowsOfWeights(Op):
    """An op whose items are the rows of a packed matrix."""

    type: WeightType

    parameters = {
        "weights": pointer,
        "x": pointer,
        "out": pointer,
        "n_columns": i64,
        "n_out": i64,
    }

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_out"], ALL_ROWS

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return isa.tuning.items_of(self.type.row_bytes(sizes["n_columns"]))


@dataclass(frozen=True)
class MatVec(RowsOfWeights):
    """out[t] = weights @ x[t] for `n_rows` tokens t packed by `Quantize`; an item is a weight row.

    for row in items:
        for chunk in row:                            # a k-quant block, or blocks of 32
            registers, scales, constants = unpack(chunk)      # once, for all tokens
            for t in tokens:
                for those with the same scales:      # all four of 64 bytes, where groups have 32
                    sums[t] += (sum of dot(register, x[t].lanes)) * (scales * x[t].scales)
                sums[t] += constants * x[t].sums
        out[t][row] = sum of sums[t]
    """

    type: QuantType
    n_rows: int

    def emit(self, k: OpKernel, **a: Any) -> None:
        type, n_columns = self.type, a["n_columns"]
        row_bytes = row_stride(type, n_columns)
        for row in k.items("row"):
            weights = a["weights"].at(row * row_bytes)
            totals = [Accumulators(k) for _ in range(self.n_rows)]
            for size, column, packed in chunks(k, type, weights, n_columns):
                chunk = type.unpack_chunk(k, packed, size)
                constants = type.constants(chunk)
                if constants is not None:
                    constants = constants.repeat_lanes(type.group // 16)
                products = self._products(chunk, size, k.isa.bits // 8)
                for token, total in enumerate(totals):
                    span = Span.of(a["x"], token, n_columns, column, size)
                    for registers, scales in products:
                        total.add(self._dot(registers, span), scales * x_scales(registers[0], span))
                    if constants is not None:
                        total.add(constants, span.sums(0).load(constants.type))
            for token, total in enumerate(totals):
                a["out"].store(total.sum(), (row + a["n_out"] * token) * 4)

    def _products(
        self, chunk: Unpacked, size: int, n_bytes: int
    ) -> list[tuple[list[Register], Value]]:
        """Registers of weights whose products may be added as integers, and their scales."""
        together: dict[tuple[int, ...], list[Register]] = {}
        for register in deal(chunk.lanes, self.type.order[: size // GROUP], n_bytes):
            groups = tuple(
                (GROUP * group + RUN * run) // self.type.group for run, group in register.runs
            )
            together.setdefault(groups, []).append(register)
        return [
            (registers, chunk.scales.shuffle([group for group in groups for _ in range(RUN // 4)]))
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

    def reference(self, **a: Any) -> None:
        a["out"][...] = (
            dequantized(a["x"]) @ self.type.dequantize(a["weights"]).astype(np.float64).T
        )


@dataclass(frozen=True)
class FloatMatVec(RowsOfWeights):
    """out[t] = weights @ x[t] for `n_rows` tokens t in f32; an item is a weight row.

    for row in items:
        for chunk in row:
            for register in floats(chunk):           # unpacked once, for all tokens
                for t in tokens:
                    sums[t] += register * x[t]
        out[t][row] = sum of sums[t]
    """

    type: WeightType
    n_rows: int

    def emit(self, k: OpKernel, **a: Any) -> None:
        row_bytes = row_stride(self.type, a["n_columns"])
        for row in k.items("row"):
            weights = a["weights"].at(row * row_bytes)
            totals = [Accumulators(k) for _ in range(self.n_rows)]
            for size, column, packed in chunks(k, self.type, weights, a["n_columns"]):
                start = 0
                for floats in self.type.floats(k, packed, size):
                    for token, total in enumerate(totals):
                        x = a["x"].at((column + a["n_columns"] * token) * 4)
                        total.add(floats, x.load(floats.type, start * 4))
                    start += floats.type.lanes
            for token, total in enumerate(totals):
                a["out"].store(total.sum(), (row + a["n_out"] * token) * 4)

    def reference(self, **a: Any) -> None:
        weights = self.type.dequantize(a["weights"]).astype(np.float64)
        a["out"][...] = a["x"].astype(np.float64) @ weights.T


def x_scales(register: Register, span: Span) -> Value:
    """The activations' scale for every four lanes of a register."""
    n, (_, first_group) = register.lanes.type.lanes // 4, register.runs[0]
    if span.n_groups == 1:
        return span.scales(0).load(f32).splat(n)
    return span.scales(first_group).load(f32[n])


class Accumulators:
    """Running sums of products in registers, zero where this is made.

    Products are dealt out to two sums in turn, so that one multiply-add need not wait for the last;
    to two for any number of tokens, which keeps each token's result the same.
    """

    CHAINS = 2

    def __init__(self, k: OpKernel) -> None:
        self._k, self._start = k, k.here()
        self._cells: dict[tuple[int, int], Cell] = {}
        self._n_added = 0

    def add(self, a: Value, b: Value) -> None:
        """Add a * b, lane by lane."""
        place = a.type.lanes, self._n_added % self.CHAINS
        self._n_added += 1
        if place not in self._cells:
            self._cells[place] = self._k.cell(a.type, "sum", self._start)
        cell = self._cells[place]
        cell.set(self._k.fma(a, b, cell.get()))

    def sum(self) -> Value:
        by_lanes: dict[int, Value] = {}
        for (lanes, _), cell in self._cells.items():
            by_lanes[lanes] = by_lanes[lanes] + cell.get() if lanes in by_lanes else cell.get()
        first, *others = (total.sum() for total in by_lanes.values())
        return sum(others, first)


def row_stride(type: WeightType, n_columns: Value) -> Value:
    """Bytes that the packed weights of `n_columns` columns take."""
    return (n_columns >> (type.block.bit_length() - 1)) * type.bytes


def chunks(
    k: OpKernel, type: WeightType, row: Pointer, n_columns: Value
) -> Iterator[tuple[int, Value, Pointer]]:
    """Walk a row: (weights in the chunk, its first column, its packed bytes), prefetching ahead."""
    for size, column in k.strips(n_columns, type.chunks):
        packed = row.at(row_stride(type, column))
        n_bytes = size // type.block * type.bytes
        ahead = k.isa.tuning.prefetch_bytes
        if ahead and n_bytes >= CACHE_LINE:
            for line in range(0, n_bytes, CACHE_LINE):
                packed.prefetch(ahead + line)
        yield size, column, packed
