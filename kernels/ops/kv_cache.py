"""Where tokens put their keys and values.

A cache is a ring: position p lies at place p % capacity, where it replaces position p - capacity.
One that holds a whole context never comes around.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from linnet.kernels.ir import Pointer, Value
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Array, Float32s, Int, Int32s, Op, OpKernel
from linnet.kernels.ops.cache_types import LANES, CacheType
from linnet.kernels.ops.work import Work


@dataclass(frozen=True)
class StoreValues(Op):
    """Put x (n_tokens, n_heads, head_dim) f32 at its tokens' slots and positions.

    cache: see `linnet.kernels.ops.cache_types`; slots, positions: i32 (n_tokens,). An item is a
    token.

    for token in items:
        for head, for i:  values[slot][head][position % capacity][i] = x[token][head][i]
    """

    type: CacheType

    writes = frozenset({"cache"})

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return LANES, LANES  # tokens side by side share cache lines

    def emit(
        self, k: OpKernel, x: Float32s, slots: Int32s, positions: Int32s, cache: Pointer,
        n_heads: Int, capacity: Int, head_dim: Int,
    ) -> None:  # fmt: skip
        for token in k.items("token"):
            slot, place = slots.index(token), positions.index(token) % capacity
            for head in k.range(n_heads, name="head"):
                numbers = x.at((token * n_heads + head) * head_dim)
                for size, i in k.strips(head_dim, self.type.sizes(k.isa)):
                    part = numbers.load(i, size)
                    self._store(cache, slot * n_heads + head, place, i, part, capacity, head_dim)

    def _store(
        self, cache: Pointer, head: Value, place: Value, i: Value, x: Value,
        capacity: Value, head_dim: Value,
    ) -> None:  # fmt: skip
        """Store x as numbers of a head, counted over all slots, from the i-th on."""
        values = self.type.values_at(cache, head, place, capacity, head_dim)
        self.type.store_values(values, i, x)

    def reference(
        self, x: Array, slots: Array, positions: Array, cache: Array,
        n_heads: int, capacity: int, head_dim: int,
    ) -> None:  # fmt: skip
        heads = x.reshape(-1, n_heads, head_dim)
        self.type.write_values(cache, slots, positions % capacity, heads)

    def work(
        self, x: Array, slots: Array, positions: Array, cache: Array,
        n_heads: int, capacity: int, head_dim: int,
    ) -> Work:  # fmt: skip
        """Of the cache, the places of the pass's tokens."""
        n_stored = len(slots) * n_heads * self.type.head_bytes(head_dim)
        return Work(x.size, x.nbytes + slots.nbytes + positions.nbytes + n_stored)


@dataclass(frozen=True)
class StoreKeys(StoreValues):
    """`StoreValues` into a cache of keys.

    for token in items:
        place = position % capacity
        for head, for i:  keys[slot][head][place / LANES][i][place % LANES] = x[token][head][i]
    """

    def _store(
        self, cache: Pointer, head: Value, place: Value, i: Value, x: Value,
        capacity: Value, head_dim: Value,
    ) -> None:  # fmt: skip
        keys = self.type.keys_at(cache, head, place, capacity, head_dim)
        self.type.store_keys(keys, place % LANES, i, x)

    def reference(
        self, x: Array, slots: Array, positions: Array, cache: Array,
        n_heads: int, capacity: int, head_dim: int,
    ) -> None:  # fmt: skip
        heads = x.reshape(-1, n_heads, head_dim)
        self.type.write_keys(cache, slots, positions % capacity, heads)
