"""Products with few rows of activations, as decoding has: the weights are read once, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.activations import dequantized
from linnet.kernels.ir import Cell, Pointer, Value, f32, i8, i32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.op import Op, OpKernel
from linnet.kernels.quants import QuantType, WeightType

CACHE_LINE = 64
# Weights that a thread takes at a time: in long runs memory is read ahead best, while short ones
# keep threads from waiting for each other at the end of a small matrix.
FEWEST_BYTES, MOST_BYTES = 128 * 1024, 1024 * 1024


class RowsOfWeights(Op):
    """An op whose items are the rows of a packed matrix."""

    type: WeightType

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_out"], 0

    def chunk(self, **sizes: Any) -> tuple[int, int]:
        row_bytes = self.type.row_bytes(sizes["n_columns"])
        return max(1, FEWEST_BYTES // row_bytes), max(1, MOST_BYTES // row_bytes)


@dataclass(frozen=True)
class MatVec(RowsOfWeights):
    """out[t] = weights @ x[t] for `n_rows` tokens t quantised to int8; an item is a weight row.

    for row in items:
        for chunk in row:                            # a k-quant block, or blocks of 32
            lanes, scales, constants = unpack(chunk) # once, for all tokens
            for t in tokens:
                for register in lanes:               # 64 weights where vectors have 512 bits
                    sums[t] += dot(register, x[t].lanes) * (scales * x[t].scales)
                sums[t] += constants * x[t].sums
        out[t][row] = sum of sums[t]
    """

    type: QuantType
    n_rows: int

    parameters = {
        "weights": pointer,
        "lanes": pointer,
        "scales": pointer,
        "sums": pointer,
        "out": pointer,
        "n_columns": i64,
        "n_out": i64,
    }

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
                for token, total in enumerate(totals):
                    at = column + n_columns * token
                    scales = a["scales"].load(f32[size // 32], at >> 3)
                    scales = chunk.scales * scales.repeat_lanes(32 // type.group)
                    for start, dot in self._dots(k, chunk.lanes, a["lanes"].at(at)):
                        spread = [(start + 4 * i) // type.group for i in range(dot.type.lanes)]
                        total.add(dot, scales.shuffle(spread))
                    if constants is not None:
                        total.add(constants, a["sums"].load(f32[size // 16], at >> 2))
            for token, total in enumerate(totals):
                a["out"].store(total.sum(), (row + a["n_out"] * token) * 4)

    def _dots(self, k: OpKernel, lanes: Sequence[Value], x: Pointer) -> Iterator[tuple[int, Value]]:
        """Products summed in fours, a register at a time: (its first weight, f32[n])."""
        n_weights, register = 32 * len(lanes), k.isa.bits // 8
        for start in range(0, n_weights, register):
            if register < 32:
                weights = lanes[start // 32][start % 32 : start % 32 + register]
            else:
                weights = k.concat(lanes[start // 32 : (start + register) // 32])
            n = weights.type.lanes
            zero = k.constant(i32[n // 4], 0)
            dot = k.isa.dot(zero, weights, x.load(i8[n], start), self.type.largest)
            yield start, dot.to(f32)

    def reference(self, **a: Any) -> None:
        x = dequantized(a["lanes"], a["scales"])
        a["out"][...] = x @ self.type.dequantize(a["weights"]).astype(np.float64).T


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

    parameters = {
        "weights": pointer,
        "x": pointer,
        "out": pointer,
        "n_columns": i64,
        "n_out": i64,
    }

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
        if n_bytes >= CACHE_LINE:
            for line in range(0, n_bytes, CACHE_LINE):
                packed.prefetch(k.isa.prefetch_bytes + line)
        yield size, column, packed
