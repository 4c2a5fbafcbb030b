"""How fast this machine can multiply: the roofline that products of many rows are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from linnet.kernels.ir import Pointer, Value, f32, i8, i32, i64, u8
from linnet.kernels.isa import ISA
from linnet.kernels.isa.tiles import CONFIGURATION, TILE
from linnet.kernels.ops.base import ALL_ROWS, Array, Int, Op, OpKernel

ROUNDS = 1000  # in an item
N_WEIGHTS, MOST_X = 3, 4  # registers; their 12 sums keep two units of five cycles' latency busy


@dataclass(frozen=True)
class Peak(Op):
    """Multiply and add in registers, as fast as it goes; an item is 1000 rounds of a tile of sums.

    data: factors to begin with, `n_data` bytes; out: (n_items * lanes,) numbers of 4 bytes

        for item in items:
            for round in 1000:
                for weights in 3 registers, for x in 3 or 4:  sums[weights][x] += weights * x
    """

    per_lane: ClassVar[int]  # arithmetic operations of a round, for each of a register's sums

    @property
    def name(self) -> str:
        """Of the instruction."""
        raise NotImplementedError

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_items"], ALL_ROWS

    def n_factors(self, isa: ISA) -> int:
        """How many registers of weights and of x: as many as fit beside their sums."""
        return N_WEIGHTS + min(MOST_X, (isa.registers - N_WEIGHTS) // (N_WEIGHTS + 1))

    def operations(self, isa: ISA) -> int:
        """Multiplications and additions in an item."""
        n_sums = N_WEIGHTS * (self.n_factors(isa) - N_WEIGHTS)
        return ROUNDS * n_sums * isa.lanes * self.per_lane

    def n_data(self, isa: ISA) -> int:
        return self.n_factors(isa) * isa.bits // 8

    def emit(self, k: OpKernel, data: Pointer, out: Pointer, n_items: Int) -> None:
        n_bytes = k.isa.bits // 8
        for item in k.items():
            starts = [data.at(i * n_bytes) for i in range(self.n_factors(k.isa))]
            factors = [k.cell(value) for value in self.factors(k, starts)]
            weights, xs = factors[:N_WEIGHTS], factors[N_WEIGHTS:]
            kind = self.zero(k).type
            sums = [[k.cell(kind, "sum") for _ in weights] for _ in xs]
            for _ in k.range(ROUNDS, name="round"):
                for factor in factors:
                    # As if they were new ones each round: products must not be taken out of it.
                    factor.set(k.opaque(factor.get()))
                for x, row in zip(xs, sums, strict=True):
                    for w, total in zip(weights, row, strict=True):
                        total.set(self.multiply_add(k, total.get(), w.get(), x.get()))
            cells = [cell.get() for row in sums for cell in row]
            out.store(sum(cells[1:], cells[0]), item * n_bytes)

    def zero(self, k: OpKernel) -> Value:
        raise NotImplementedError

    def factors(self, k: OpKernel, starts: list[Pointer]) -> list[Value]:
        raise NotImplementedError

    def multiply_add(self, k: OpKernel, total: Value, w: Value, x: Value) -> Value:
        raise NotImplementedError


@dataclass(frozen=True)
class PeakDot(Peak):
    """The dot product of bytes that products with quantised activations are made of."""

    largest: int  # no weight is above it

    per_lane = 8

    @property
    def name(self) -> str:
        """Where a product's sum could overflow, some CPUs need more instructions."""
        return "int8 dot" if self.largest <= 127 else "int8 dot, 8-bit weights"

    def zero(self, k: OpKernel) -> Value:
        return k.constant(i32[k.isa.lanes], 0)

    def factors(self, k: OpKernel, starts: list[Pointer]) -> list[Value]:
        n = k.isa.bits // 8
        weights = [start.load(u8[n]) & self.largest for start in starts[:N_WEIGHTS]]
        return [*weights, *(start.load(i8[n]) for start in starts[N_WEIGHTS:])]

    def multiply_add(self, k: OpKernel, total: Value, w: Value, x: Value) -> Value:
        return k.isa.dot(total, w, x, self.largest)

    def reference(self, data: Array, out: Array, n_items: int) -> None:
        """For a vector of `out.size / n_items` lanes, whatever the ISA."""
        lanes = out.size // n_items
        vectors = data.reshape(-1, lanes, 4).astype(np.int64)
        weights = vectors[:N_WEIGHTS] & 0xFF & self.largest
        products = np.einsum("wlb,xlb->l", weights, vectors[N_WEIGHTS:])
        out.reshape(-1, lanes)[...] = products * ROUNDS


@dataclass(frozen=True)
class PeakFMA(Peak):
    """The multiply-add of f32 that products with f32 activations are made of."""

    per_lane = 2

    @property
    def name(self) -> str:
        return "f32 FMA"

    def zero(self, k: OpKernel) -> Value:
        return k.constant(f32[k.isa.lanes], 0)

    def factors(self, k: OpKernel, starts: list[Pointer]) -> list[Value]:
        return [start.load(f32[k.isa.lanes]) for start in starts]

    def multiply_add(self, k: OpKernel, total: Value, w: Value, x: Value) -> Value:
        return k.fma(w, x, total)

    def reference(self, data: Array, out: Array, n_items: int) -> None:
        lanes = out.size // n_items
        vectors = data.reshape(-1, lanes).astype(np.float64)
        products = vectors[:N_WEIGHTS].sum(axis=0) * vectors[N_WEIGHTS:].sum(axis=0)
        out.reshape(-1, lanes)[...] = products * ROUNDS


@dataclass(frozen=True)
class PeakTiles(Peak):
    """The dot of bf16 tiles that prompts are made of where a CPU has matrix registers.

    data: bf16, two tiles of weights (16, 32), two of x (16, 16, 2)

        for round in 1000:
            for weights in 2 tiles, for x in 2:  sums[weights][x] += weights @ x

    out: the first row of the first sums.
    """

    @property
    def name(self) -> str:
        return "bf16 tiles"

    def operations(self, isa: ISA) -> int:
        return ROUNDS * 4 * 2 * 16 * 16 * 32

    def n_data(self, isa: ISA) -> int:
        return 4 * TILE

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return CONFIGURATION + TILE

    def emit(self, k: OpKernel, data: Pointer, out: Pointer, n_items: Int) -> None:
        if k.isa.tiles is None:
            raise TypeError(f"{k.isa.name} has no tiles")
        tiles, row, sums = k.isa.tiles(k), k.constant(i64, 64), k.scratch.at(CONFIGURATION)
        tiles.configure_whole(k.scratch)
        for item in k.items():
            for tile in range(4):
                tiles.zero(tile)
                tiles.load(4 + tile, data.at(tile * TILE), row)
            for _ in k.range(ROUNDS, name="round"):
                for tile in range(4):
                    tiles.dot(tile, 4 + tile // 2, 6 + tile % 2)
            tiles.store(0, sums, row)
            out.store(sums.load(f32[16]), item * 64)
        tiles.release()

    def reference(self, data: Array, out: Array, n_items: int) -> None:
        halves = data.view(np.uint16).astype(np.uint32).reshape(4, 16, 32) << 16
        weights, _, x, _ = halves.view(np.float32).astype(np.float64)
        products = np.einsum("pi,pni->n", weights[0].reshape(16, 2), x.reshape(16, 16, 2))
        out.reshape(-1, 16)[...] = products * ROUNDS
