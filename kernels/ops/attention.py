"""Attention over a cache of keys and values, with grouped heads (arXiv:1706.03762, 2305.13245)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from linnet.kernels.ir import Pointer, Value, i32, u32
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import (
    Array,
    Float,
    Float32s,
    Int,
    Int32s,
    Int64s,
    Numbers,
    Op,
    OpKernel,
)
from linnet.kernels.ops.cache_types import CacheType
from linnet.kernels.ops.query_rows import RUN, QueryRows
from linnet.kernels.ops.work import Work

ROWS = 16  # of queries that share what is read of the cache, if tokens of a prompt are as many
NO_WINDOW = 1 << 30


@dataclass(frozen=True)
class Attend(Op):
    """out = softmax(scale * q @ keys) @ values over the positions a token can see.

    q, out: f32 (n_tokens, n_kv_heads, group, head_dim); keys, values: of `key_type` and
    `value_type`, see `linnet.kernels.ops.cache_types`; slots, positions: i32 (n_tokens,). A
    capacity that positions go beyond is a multiple of RUN, so that no run comes around within it.
    An item is a KV head and `n_together` tokens, whose query heads are rows that share what is
    read. Softmax is taken online (arXiv:1805.02867), in runs of 64 positions, so that a token's
    result is the same in any block and batch:

        for block of tokens, head in items:
            largest, total = sinks, 1                                # of no sink, LOWEST and 0
            for run of positions that a token of the block sees:
                scores[rows] = cap(scale * q[rows] @ keys[run])      # -inf where a row does not see
                largest' = max(largest, scores);  shrink = exp(largest - largest')
                weights = exp(scores - largest')
                total = total * shrink + sum(weights)
                sums  = sums * shrink + weights @ values[run]
            out = sums / total

    `window`: how many positions a token can see, its own included (arXiv:2004.05150); NO_WINDOW
    for all. `sinks`: f32 (n_kv_heads, group), a score that takes weight and gives no value
    (arXiv:2309.17453); -inf for none. `capped`: scores are softcap * tanh(score / softcap)
    (arXiv:2408.00118).

    Tokens of a block that do not follow each other in one sequence are taken one by one. So are
    those of a block whose results are not all finite: a row's weight for what it does not see is 0,
    and 0 times NaN or infinity is NaN.
    """

    key_type: CacheType
    value_type: CacheType
    head_dim: int
    group: int
    capped: bool = False
    n_together: int = 1

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        if n_rows is not None:
            return self
        return replace(self, n_together=max(1, ROWS // self.group))

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_kv_heads"], self.n_together

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        n = self.group * self.n_together
        return QueryRows.bytes(isa, self.key_type, self.head_dim, n)

    def emit(
        self, k: OpKernel, q: Float32s, keys: Pointer, values: Pointer, slots: Int32s,
        positions: Int32s, out: Float32s, n_kv_heads: Int, capacity: Int, scale: Float,
        softcap: Float, sinks: Float32s, window: Int, n_rows: Int64s,
    ) -> None:  # fmt: skip
        def attend(token: Value, head: Value, n_tokens: int) -> Value:
            """One KV head and `n_tokens` tokens from `token` on; whether all of it is finite."""
            position = positions.index(token)
            rows = self._rows(k, n_tokens, position, window)
            first_head, stride = (token * n_kv_heads + head) * self.group, n_kv_heads * self.group
            rows.begin(q, first_head, stride, sinks.at(head * self.group), scale)
            oldest, end = k.maximum(position + 1 - window, 0), position + n_tokens
            cached = slots.index(token) * n_kv_heads + head
            for run in k.range(end, oldest & -RUN, RUN, name="run"):
                self._take(k, rows, run, oldest, end, keys, values, cached, capacity, softcap)
            return rows.finish(out, first_head, stride)

        n = self.n_together
        for item in k.items():
            first, head = item // n_kv_heads * n, item % n_kv_heads
            if n == 1:
                attend(first, head, 1)
                continue
            end = k.minimum(first + n, n_rows.load())
            together = k.cell((end - first).equals(n), "together")
            with k.when(together.get()):
                together.set(_follow(k, slots.at(first), positions.at(first), n))
            with k.when(together.get()):
                together.set(attend(first, head, n))
            with k.when(together.get() ^ 1):
                for token in k.range(end, first, name="token"):
                    attend(token, head, 1)

    def _rows(self, k: OpKernel, n_tokens: int, position: Value, window: Value) -> QueryRows:
        """Room for the query rows of tokens that follow each other from `position` on."""
        types = self.key_type, self.value_type
        return QueryRows(k, *types, self.head_dim, self.group, n_tokens, position, window)

    def _take(
        self, k: OpKernel, rows: QueryRows, run: Value, oldest: Value, end: Value, keys: Pointer,
        values: Pointer, cached: Value, capacity: Value, softcap: Value,
    ) -> None:  # fmt: skip
        """Add the positions of a run, of which those from `oldest` to `end` are seen.

        `cached`: the KV head, counted over all slots.
        """
        place = cached, run % capacity, capacity, self.head_dim
        first_seen, end_seen = k.maximum(oldest - run, 0), k.minimum(end - run, RUN)
        rows.score(self.key_type.keys_at(keys, *place), end_seen)
        rows.weigh(run, softcap if self.capped else None)
        rows.add_values(self.value_type.values_at(values, *place), first_seen, end_seen)

    def reference(
        self, q: Array, keys: Array, values: Array, slots: Array, positions: Array, out: Array,
        n_kv_heads: int, capacity: int, scale: float, softcap: float, sinks: Array, window: int,
    ) -> None:  # fmt: skip
        queries = q.reshape(-1, n_kv_heads, self.group, self.head_dim).astype(np.float64)
        results = out.reshape(queries.shape)
        sink = np.reshape(sinks, (n_kv_heads, self.group, 1)).astype(np.float64)
        for token, (slot, position) in enumerate(zip(slots, positions, strict=True)):
            seen = np.arange(max(position + 1 - window, 0), position + 1)
            scores, v = self._scores(
                queries[token], keys, values, slot, seen % capacity, scale, softcap
            )
            largest = np.maximum(scores.max(axis=-1, keepdims=True), sink)
            weights = np.exp(scores - largest)
            total = weights.sum(axis=-1, keepdims=True) + np.exp(sink - largest)
            results[token] = weights / total @ v

    def _scores(
        self, q: Array, keys: Array, values: Array, slot: int, places: Array, scale: float,
        softcap: float,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Of a token's queries (n_kv_heads, group, head_dim) scores (n_kv_heads, group, n) at n
        places, and the values there (n_kv_heads, n, head_dim)."""
        k = self.key_type.read_keys(keys, slot, places).astype(np.float64)
        v = self.value_type.read_values(values, slot, places).astype(np.float64)
        scores = q @ k.swapaxes(1, 2) * scale
        return np.tanh(scores / softcap) * softcap if self.capped else scores, v

    def work(
        self, slots: Array, positions: Array, n_kv_heads: int, window: int, **others: Any
    ) -> Work:
        """Two multiply-adds for each number of a query head and position that it sees; of the
        cache, what a sequence's last token sees, once for all its tokens. Queries and results,
        which caches of the CPU hold, are not counted."""
        seen = np.minimum(positions.astype(np.int64) + 1, window)
        n_read = sum(int(seen[slots == slot].max()) for slot in np.unique(slots))
        types = self.key_type, self.value_type
        n_bytes = n_kv_heads * n_read * sum(type.head_bytes(self.head_dim) for type in types)
        return Work(4 * self.head_dim * self.group * n_kv_heads * int(seen.sum()), n_bytes)


def _follow(k: OpKernel, slots: Numbers, positions: Numbers, n_tokens: int) -> Value:
    """Whether n tokens have one slot and positions that follow each other."""
    n = 1 << (n_tokens.bit_length() - 1)  # a vector's length: two of them cover the block
    slot, position = slots.load(), positions.load()
    differs = k.constant(i32[n], 0)
    for start in (0, n_tokens - n):
        step = k.constant(i32[n], range(start, start + n))
        differs = differs | (slots.load(start, n) ^ slot)
        differs = differs | ((positions.load(start, n) - step) ^ position)
    return differs.bits(u32[n]).max().equals(0)
