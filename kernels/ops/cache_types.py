"""How keys and values are stored: to add a way, a class here and its line in CACHE_TYPES.

A cache of values is an array (n_slots, n_heads, capacity, ...): a head's numbers at a place lie one
after the other. A cache of keys is (n_slots, n_heads, capacity / LANES rounded up, ...): LANES
places lie side by side, so that the i-th numbers of LANES keys are a vector, and their scores need
no sum across its lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from linnet.kernels.ir import Pointer, Type, Value, f16, f32
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Array

LANES = 16

Count = TypeVar("Count", int, Value)
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class CacheType:
    """Numbers of `type`, each rounded by itself: the code of it in kernels, and the same in numpy.

    values: (n_slots, n_heads, capacity, head_dim) of `dtype`
    keys: (n_slots, n_heads, capacity / LANES rounded up, head_dim, LANES) of `dtype`

    A subclass may store a head's numbers otherwise, as in blocks that share a scale. In kernels,
    `head` counts from the first slot's first head. In numpy, `slots` and `places` are (n,), and x
    is f32 (n, n_heads, head_dim).
    """

    type: Type

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

    def load_values(self, values: Pointer, i: Value, lanes: int) -> Value:
        """The numbers of a place from the i-th on, f32[lanes]."""
        return values.load(self.type[lanes], i * self.type.bytes).to(f32)

    def store_keys(self, keys: Pointer, lane: Value, i: Value, x: Value) -> None:
        """Store x, f32, as the numbers from the i-th on of one of LANES places."""
        numbers = x.to(self.type)
        for j in range(x.type.lanes):
            keys.store(numbers[j], ((i + j) * LANES + lane) * self.type.bytes)

    def load_keys(self, keys: Pointer, i: Value) -> Value:
        """The i-th numbers of LANES places, f32[LANES]."""
        return keys.load(self.type[LANES], i * (LANES * self.type.bytes)).to(f32)

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


CACHE_TYPES = {type.name: type for type in (CacheType(f16), CacheType(f32))}
