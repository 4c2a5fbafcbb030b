"""The cache of keys and values: where tokens put them, and how they lie.

values: `type` (n_slots, n_heads, capacity, head_dim).
keys: `type` (n_slots, n_heads, capacity / 16 rounded up, head_dim, 16): sixteen positions side by
side, so that the scores of sixteen keys are the lanes of a vector and need no sum across them.

A cache is a ring: position p lies at p % capacity, where it takes the place of p - capacity. One
that holds a whole context never comes around.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import Type, Value, f16, f32, i32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Op, OpKernel

LANES = 16  # positions of keys side by side
NUMPY_TYPES = {f16: np.float16, f32: np.float32}


def keys_shape(n_slots: int, n_heads: int, capacity: int, head_dim: int) -> tuple[int, ...]:
    return n_slots, n_heads, -(-capacity // LANES), head_dim, LANES


@dataclass(frozen=True)
class StoreValues(Op):
    """Put x (n_tokens, n_heads, head_dim) f32 at its tokens' slots and positions.

    An item is a token.

    for token in items:
        for head, for i:  cache[slot][head][position % capacity][i] = x[token][head][i]
    """

    type: Type

    parameters = {
        "x": pointer,
        "slots": pointer,
        "positions": pointer,
        "cache": pointer,
        "n_heads": i64,
        "capacity": i64,
        "head_dim": i64,
    }
    writes = frozenset({"cache"})

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return LANES, LANES  # tokens side by side share cache lines

    def emit(self, k: OpKernel, **a: Any) -> None:
        n_heads, head_dim = a["n_heads"], a["head_dim"]
        for token in k.items("token"):
            slot, position = (a[n].load(i32, token * 4).to(i64) for n in ("slots", "positions"))
            place = position % a["capacity"]
            for head in k.range(n_heads, name="head"):
                x = a["x"].at((token * n_heads + head) * head_dim * 4)
                for size, i in k.strips(head_dim, (k.isa.lanes, 1)):
                    number = x.load(f32[size], i * 4).to(self.type)
                    self._store(a, number, slot * n_heads + head, place, i)

    def _store(self, a: dict[str, Any], part: Value, head: Value, place: Value, i: Value) -> None:
        """`part`: some numbers of a head, from its i-th on; `head`: of all slots'."""
        at = (head * a["capacity"] + place) * a["head_dim"] + i
        a["cache"].store(part, at * self.type.bytes)

    def reference(self, **a: Any) -> None:
        a["cache"][a["slots"], :, a["positions"] % a["capacity"]] = self._heads(a)

    def _heads(self, a: dict[str, Any]) -> npt.NDArray[np.float32]:
        heads: npt.NDArray[np.float32] = a["x"].reshape(-1, a["n_heads"], a["head_dim"])
        return heads


@dataclass(frozen=True)
class StoreKeys(StoreValues):
    """`StoreValues` into a cache of keys.

    place = position % capacity
    for head, for i:  cache[slot][head][place / 16][i][place % 16] = x[token][head][i]
    """

    def _store(self, a: dict[str, Any], part: Value, head: Value, place: Value, i: Value) -> None:
        n_runs = (a["capacity"] + (LANES - 1)) // LANES
        run = head * n_runs + place // LANES
        at = (run * a["head_dim"] + i) * LANES + place % LANES
        for lane in range(part.type.lanes):
            a["cache"].store(part[lane], (at + lane * LANES) * self.type.bytes)

    def reference(self, **a: Any) -> None:
        run, lane = np.divmod(a["positions"] % a["capacity"], LANES)
        a["cache"][a["slots"], :, run, :, lane] = self._heads(a)
