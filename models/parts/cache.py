"""What layers keep of a sequence from pass to pass, and how far back it can go."""

from __future__ import annotations

from dataclasses import dataclass

from linnet.kernels.memory import release
from linnet.kernels.ops.attention import NO_WINDOW
from linnet.kernels.ops.base import Array
from linnet.kernels.ops.cache_types import LANES, CacheType
from linnet.kernels.ops.query_rows import RUN
from linnet.kernels.runtime.program import Persistent


@dataclass(frozen=True, slots=True)
class Ring:
    """The last `capacity` positions of a sequence, of which a token sees `window`, its own too.

    A state, which is that of all tokens so far, is like a ring that keeps none and needs none.
    """

    capacity: int
    window: int

    @classmethod
    def of(cls, window: int | None, *, n_ctx: int, n_batch: int) -> Ring:
        """Room for what the first of a pass of `n_batch` tokens sees, and for all of the pass.

        So a pass writes over nothing that the token before it, or after it, can see; also one that
        is stopped.
        """
        if window is None:
            return cls(n_ctx, NO_WINDOW)
        return cls(min(n_ctx, -(-(window + n_batch) // RUN) * RUN), window)

    def holds(self, n: int, n_computed: int) -> bool:
        """Whether what a token at position n sees is there, once `n_computed` were written."""
        return max(0, n + 1 - self.window) >= n_computed - self.capacity


STATE = Ring(capacity=0, window=1)


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """Keys and values of one layer, as their types store them in each slot."""

    key_type: CacheType
    value_type: CacheType
    ring: Ring
    n_heads: int
    head_dim: int
    keys: Persistent
    values: Persistent

    @classmethod
    def of(
        cls, key_type: CacheType, value_type: CacheType, ring: Ring, *, n_heads: int, head_dim: int
    ) -> Cache:
        """Raises ValueError for heads that are no whole blocks of a type."""
        for type, what in ((key_type, "keys"), (value_type, "values")):
            if head_dim % type.block:
                found = f"heads of a multiple of {type.block} numbers; this model's have {head_dim}"
                raise ValueError(f"a cache of {what} in {type} takes {found}: use f16 there")
        sizes = 1, n_heads, ring.capacity, head_dim
        keys = Persistent("keys", key_type.keys_shape(*sizes)[1:], key_type.dtype)
        values = Persistent("values", value_type.values_shape(*sizes)[1:], value_type.dtype)
        return cls(key_type, value_type, ring, n_heads, head_dim, keys, values)

    @property
    def holds_all(self) -> bool:
        """Whether it keeps a whole context, so that a position has a place of its own."""
        return self.ring.window == NO_WINDOW

    @property
    def slot_bytes(self) -> int:
        """What a slot takes once it is full."""
        return self.keys.n_bytes + self.values.n_bytes

    @property
    def position_bytes(self) -> int:
        """What a position of a slot takes."""
        types = self.key_type, self.value_type
        return self.n_heads * sum(type.head_bytes(self.head_dim) for type in types)

    def place(self, n_slots: int) -> None:
        """Take the memory of so many slots; pages of it as positions are filled."""
        self.keys.place(n_slots)
        self.values.place(n_slots)

    def held(self, slot: int, n: int) -> list[Array]:
        """What the slot holds in the places of its first n positions, as views: keys in whole runs
        of LANES, and values; of a ring that has come around, all of it."""
        return [self.keys.data[slot, :, : -(-n // LANES)], self.values.data[slot, :, :n]]

    def release(self, slot: int, first: int) -> None:
        """Give whole pages of the positions from `first` on back to the system.

        What they held is lost. A ring, in which positions before `first` may lie anywhere, gives
        back all or, where `first` is not 0, nothing.
        """
        if first and not self.holds_all:
            return
        for array, n_together in ((self.keys, LANES), (self.values, 1)):
            for head in array.data[slot]:
                release(head[-(-first // n_together) :])


@dataclass(eq=False, slots=True)
class State(Persistent):
    """Numbers that a layer carries along a sequence: those after its last token, f32."""

    def held(self, slot: int, n: int) -> list[Array]:
        """What the slot holds, as a view: it is of all its n positions."""
        return [self.data[slot]]

    def release(self, slot: int, first: int) -> None:
        """Give the memory of a slot back to the system; nothing where `first` is not 0."""
        if not first:
            release(self.data[slot])
