"""How keys and values are stored, number by number; what other ways have in common with it.

A cache of values is an array (n_slots, n_heads, capacity, ...): a head's numbers at a place lie one
after the other. A cache of keys is (n_slots, n_heads, capacity / LANES rounded up, ...): LANES
places lie side by side, so that the i-th numbers of LANES keys are a vector, and their scores need
no sum across its lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np

from linnet.kernels.ir import Kernel, Pointer, Type, Value, f32
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Array, Numbers

LANES = 16

Count = TypeVar("Count", int, Value)
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class CacheType:
    """Numbers of `type`, each rounded by itself: the code of it in kernels, and the same in numpy.

    values: (n_slots, n_heads, capacity, head_dim) of `dtype`
    keys: (n_slots, n_heads, capacity / LANES rounded up, head_dim, LANES) of `dtype`

    A subclass may store a head's numbers otherwise, as in blocks that share a scale: heads are then
    of a multiple of `block` numbers. In kernels, `head` counts from the first slot's first head. In
    numpy, `slots` and `places` are (n,), and x is f32 (n, n_heads, head_dim).
    """

    type: Type

    block: ClassVar[int] = 1

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return str(self.type)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(f"{self.type.kind}{self.type.bytes}")

    def head_bytes(self, head_dim: Count) -> Count:
        """What a head takes at a place, of keys or of values."""
        return head_dim * self.type.bytes

    def values_shape(self, n_slots: int, n_heads: int, capacity: int, head_dim: int) -> Shape:
        return n_slots, n_heads, capacity, head_dim

    def keys_shape(self, n_slots: int, n_heads: int, capacity: int, head_dim: int) -> Shape:
        return n_slots, n_heads, -(-capacity // LANES), head_dim, LANES

    # -- in kernels -----------------------------------------------------------------------------
    def values_at(
        self, cache: Pointer, head: Value, place: Value, capacity: Value, head_dim: Count
    ) -> Pointer:
        """Where the values of a place begin."""
        return cache.at((head * capacity + place) * self.head_bytes(head_dim))

    def keys_at(
        self, cache: Pointer, head: Value, place: Value, capacity: Value, head_dim: Count
    ) -> Pointer:
        """Where the keys begin that lie side by side with those of a place."""
        run = head * ((capacity + (LANES - 1)) // LANES) + place // LANES
        return cache.at(run * (self.head_bytes(head_dim) * LANES))

    def sizes(self, isa: ISA) -> tuple[int, ...]:
        """How many numbers of a head are stored at a time, as `Kernel.strips` takes them."""
        return isa.lanes, 1

    def store_values(self, values: Pointer, i: Value, x: Value) -> None:
        """Store x, f32, as the numbers of a place from the i-th on."""
        values.store(x.to(self.type), i * self.type.bytes)

    def load_values(self, values: Pointer, i: Value, lanes: int, n: int) -> Sequence[Value]:
        """The numbers of a place from the i-th on, n vectors f32[lanes]; without the scale that
        `weights` has.

        Of a type in blocks, `lanes` divide a block, and so many numbers are whole blocks, or lie
        within one.
        """
        return [
            values.load(self.type[lanes], (i + j * lanes) * self.type.bytes).to(f32)
            for j in range(n)
        ]

    def weights(
        self, k: Kernel, weights: Numbers, n: int, stride: int, values: Pointer, head_bytes: int,
        i: Value, first: Value, end: Value, room: Numbers,
    ) -> Numbers:  # fmt: skip
        """Those by which `load_values` of the block of the i-th number is multiplied: n rows, each
        `stride` after the last, of one for each place from `values` on.

        Only those from `first` to `end` are asked for; room: for as many others, if need be.
        """
        return weights

    def store_keys(self, keys: Pointer, lane: Value, i: Value, x: Value) -> None:
        """Store x, f32, as the numbers from the i-th on of one of LANES places."""
        numbers = x.to(self.type)
        for j in range(x.type.lanes):
            keys.store(numbers[j], ((i + j) * LANES + lane) * self.type.bytes)

    # -- queries, as they meet keys of this type -------------------------------------------------
    def query_bytes(self, head_dim: int) -> int:
        """What a query takes in scratch memory: a multiple of 4."""
        return head_dim * f32.bytes

    def query_size(self, lanes: int) -> int:
        """How many numbers of a query are stored at a time, if vectors have so many lanes."""
        return lanes

    def store_query(self, query: Pointer, i: Value, x: Value) -> None:
        """Store x, f32, as the numbers from the i-th on."""
        query.store(x, i * f32.bytes)

    def scores(
        self, k: Kernel, keys: Pointer, queries: Pointer, n: int, head_dim: int
    ) -> list[Value]:
        """n queries, one after the other, by the keys of LANES places: n vectors f32[LANES].

        Products of even and odd columns go to two sums, so that one need not wait for the last.
        """
        totals = [[k.cell(f32[LANES], "score") for _ in range(2)] for _ in range(n)]
        even, bytes_of_lanes = head_dim & -2, LANES * self.type.bytes
        for start, end, step in ((0, even, 2), (even, head_dim, 1)):
            if start == end:
                continue
            for i in k.range(end, start, step, name="column"):
                for chain in range(step):
                    column = i + chain
                    key = keys.load(self.type[LANES], column * bytes_of_lanes).to(f32)
                    for row in range(n):
                        at = (column + row * head_dim) * f32.bytes
                        total = totals[row][chain]
                        total.set(k.fma(key, queries.load(f32, at), total.get()))
        return [even.get() + odd.get() for even, odd in totals]

    # -- in numpy -------------------------------------------------------------------------------
    def write_values(self, cache: Array, slots: Array, places: Array, x: Array) -> None:
        cache[slots, :, places] = x

    def read_values(self, cache: Array, slot: int, places: Array) -> Array:
        """(n_heads, n, head_dim)"""
        values: Array = cache[slot][:, places]
        return values

    def write_keys(self, cache: Array, slots: Array, places: Array, x: Array) -> None:
        cache[slots, :, places // LANES, :, places % LANES] = x

    def read_keys(self, cache: Array, slot: int, places: Array) -> Array:
        """(n_heads, n, head_dim)"""
        keys: Array = cache[slot][:, places // LANES, :, places % LANES]
        return keys.swapaxes(0, 1)
