"""Attention of few tokens split over positions, so that threads share a head, and what joins it
("Flash-Decoding", Dao et al. 2023).

Positions from 0 on are cut into pieces of PIECE, which `n_splits` items take in turn: piece p is in
split p % n_splits. What a split has seen is one part for each token and KV head:

    sums (group, head_dim), largest (group,), total (group,)         # f32, one after the other

where total = sum of exp(score - largest) and sums that of exp(score - largest) * value. So a
token's result depends on its position and window, and not on who took which item.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from linnet.kernels.ir import Pointer, Value, f32
from linnet.kernels.ir.functions import exp_or_zero
from linnet.kernels.isa import ISA
from linnet.kernels.ops.attention import Attend
from linnet.kernels.ops.base import (
    Array,
    Float,
    Float32s,
    Int,
    Int32s,
    Numbers,
    Op,
    OpKernel,
    are_few,
)
from linnet.kernels.ops.query_rows import LOWEST, RUN
from linnet.kernels.ops.work import Work

PIECE = 256  # positions, a multiple of RUN
MOST_SPLITS = 8
ITEMS = 32  # KV heads times splits, where there are fewer heads


def n_splits(n_kv_heads: int) -> int:
    """How many splits a token's positions are in: a power of two; 1 where heads are enough."""
    return max(1, min(MOST_SPLITS, 1 << (ITEMS // n_kv_heads).bit_length() >> 1))


def part_floats(head_dim: int, group: int) -> int:
    """What a part takes."""
    return group * (head_dim + 2)


@dataclass(frozen=True)
class SplitAttend(Attend):
    """`Attend` for few tokens, in parts that `JoinSplits` makes `out` of; for many it is `Attend`.

    parts: f32 (MOST_FEW_ROWS, n_kv_heads, n_splits, part_floats). An item is a token, a KV head and
    a split; one that sees no position writes nothing.

        for token, head, split in items:
            for piece of the split, run in it that the token sees:
                as `Attend`, without sinks
            parts[token][head][split] = sums, largest, total
    """

    n_splits: int = MOST_SPLITS

    writes = frozenset({"parts", "out"})

    @classmethod
    def of(cls, whole: Attend, n_splits: int) -> SplitAttend:
        """What is as `whole` for many tokens."""
        return cls(**_fields(whole), n_splits=n_splits)

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        return self if are_few(n_rows) else Attend(**_fields(self)).lowered(n_rows, isa)

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_kv_heads"] * self.n_splits, 1

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, self.n_splits

    def emit(  # type: ignore[override]
        self, k: OpKernel, q: Float32s, keys: Pointer, values: Pointer, slots: Int32s,
        positions: Int32s, parts: Float32s, out: Float32s, n_kv_heads: Int, capacity: Int,
        scale: Float, softcap: Float, sinks: Float32s, window: Int,
    ) -> None:  # fmt: skip
        for item in k.items():
            row, split = item // self.n_splits, item & (self.n_splits - 1)
            token, head = row // n_kv_heads, row % n_kv_heads
            position = positions.index(token)
            oldest, end = k.maximum(position + 1 - window, 0), position + 1
            first = oldest // PIECE
            start = (first + ((split - first) & (self.n_splits - 1))) * PIECE
            with k.when(start < end):
                rows = self._rows(k, 1, position, window)
                rows.begin(q, row * self.group, n_kv_heads * self.group, None, scale)
                cached = slots.index(token) * n_kv_heads + head
                for piece in k.range(end, start, self.n_splits * PIECE, name="piece"):
                    begin = k.maximum(piece, oldest & -RUN)
                    for run in k.range(k.minimum(piece + PIECE, end), begin, RUN, name="run"):
                        self._take(
                            k, rows, run, oldest, end, keys, values, cached, capacity, softcap
                        )
                rows.leave(parts.at(item * part_floats(self.head_dim, self.group)))

    def reference(  # type: ignore[override]
        self, q: Array, keys: Array, values: Array, slots: Array, positions: Array, parts: Array,
        out: Array, n_kv_heads: int, capacity: int, scale: float, softcap: float, sinks: Array,
        window: int,
    ) -> None:  # fmt: skip
        """`out` of all tokens, and parts of as many as there is room for."""
        super().reference(
            q, keys, values, slots, positions, out, n_kv_heads, capacity, scale, softcap, sinks,
            window,
        )  # fmt: skip
        queries = q.reshape(-1, n_kv_heads, self.group, self.head_dim).astype(np.float64)
        of_splits = _views(parts, n_kv_heads, self.n_splits, self.group, self.head_dim)
        for token in range(min(len(q), len(parts))):
            seen = np.arange(max(positions[token] + 1 - window, 0), positions[token] + 1)
            for split in range(self.n_splits):
                own = seen[seen // PIECE % self.n_splits == split]
                if not own.size:
                    continue
                scores, v = self._scores(
                    queries[token], keys, values, slots[token], own % capacity, scale, softcap
                )
                sums, largest, total = (view[token, :, split] for view in of_splits)
                largest[...] = scores.max(axis=-1)
                weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
                total[...] = weights.sum(axis=-1)
                sums[...] = weights @ v


@dataclass(frozen=True)
class JoinSplits(Op):
    """out = what the parts of `SplitAttend` come to, with sinks; nothing to do for many tokens.

    out: f32 (n_tokens, n_kv_heads, group, head_dim). An item is a token and a KV head.

        for token, head in items; row of the group:
            largest = max(sinks, largest of the splits that see a position)
            weights = exp(largest of each split - largest)
            total = exp(sinks - largest) + sum(weights * totals)
            out = sum(weights * sums) / total      # in order, from the split of the oldest piece on
    """

    head_dim: int
    group: int
    n_splits: int
    n_per_head: int = 1

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        few = int(are_few(n_rows))
        return JoinSplits(self.head_dim, self.group, self.n_splits, n_per_head=few)

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_kv_heads"] * self.n_per_head, 1

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 2, 8

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return f32.bytes * self.n_splits

    def emit(
        self, k: OpKernel, parts: Float32s, positions: Int32s, out: Float32s, n_kv_heads: Int,
        sinks: Float32s, window: Int,
    ) -> None:  # fmt: skip
        lanes = min(k.isa.lanes, self.head_dim & -self.head_dim)
        weights, n_sums = Numbers(k.scratch, f32), self.group * self.head_dim
        size = part_floats(self.head_dim, self.group)
        for item in k.items():
            position = positions.index(item // n_kv_heads)
            first = k.maximum(position + 1 - window, 0) // PIECE
            n = k.minimum(position // PIECE + 1 - first, self.n_splits)
            here = parts.at(item * (self.n_splits * size))

            for row in k.range(self.group, name="row"):
                sink = sinks.load(item % n_kv_heads * self.group + row)
                largest = k.cell(k.maximum(k.constant(f32, LOWEST), sink), "largest")
                for _, part in self._splits(k, first, n):
                    largest.set(k.maximum(largest.get(), here.load(part + (row + n_sums))))
                total = k.cell(exp_or_zero(k, sink - largest.get()), "total")
                for i, part in self._splits(k, first, n):
                    weight = exp_or_zero(k, here.load(part + (row + n_sums)) - largest.get())
                    weights.store(weight, i)
                    of_split = here.load(part + (row + n_sums + self.group))
                    total.set(k.fma(weight, of_split, total.get()))
                scale = 1.0 / total.get()
                for column in k.range(self.head_dim, step=lanes, name="column"):
                    mean = k.cell(f32[lanes], "mean")
                    for i, part in self._splits(k, first, n):
                        sums = here.load(part + (row * self.head_dim + column), lanes)
                        mean.set(k.fma(sums, weights.load(i).splat(lanes), mean.get()))
                    at = (item * self.group + row) * self.head_dim + column
                    out.store(mean.get() * scale, at)

    def _splits(self, k: OpKernel, first: Value, n: Value) -> Iterator[tuple[Value, Value]]:
        """(number in order, where its part begins), from that of the piece `first` on."""
        for i in k.range(n, name="split"):
            split = (first + i) & (self.n_splits - 1)
            yield i, split * part_floats(self.head_dim, self.group)

    def reference(
        self, parts: Array, positions: Array, out: Array, n_kv_heads: int, sinks: Array,
        window: int,
    ) -> None:  # fmt: skip
        """Of the tokens that there are parts of."""
        results = out.reshape(len(out), n_kv_heads, self.group, self.head_dim)
        of_splits = _views(parts, n_kv_heads, self.n_splits, self.group, self.head_dim)
        sink = np.reshape(sinks, (n_kv_heads, 1, self.group)).astype(np.float64)
        for token, position in enumerate(positions[: len(parts)]):
            first = max(position + 1 - window, 0) // PIECE
            seen = np.arange(first, position // PIECE + 1)[: self.n_splits] % self.n_splits
            sums, each, totals = (view[token][:, seen].astype(np.float64) for view in of_splits)
            largest = np.maximum(each.max(axis=1, keepdims=True), sink)
            weights = np.exp(each - largest)
            total = np.exp(sink - largest)[:, 0] + (weights * totals).sum(axis=1)
            results[token] = (weights[..., None] * sums).sum(axis=1) / total[..., None]

    def work(
        self, parts: Array, positions: Array, out: Array, n_kv_heads: int, sinks: Array,
        window: int,
    ) -> Work:  # fmt: skip
        """Parts, which caches of the CPU hold, are not counted."""
        return Work(out.size, 0)


def _fields(attend: Attend) -> dict[str, Any]:
    """Those of `Attend` alone."""
    return {field.name: getattr(attend, field.name) for field in fields(Attend)}


def _views(
    parts: Array, n_kv_heads: int, n_splits: int, group: int, head_dim: int
) -> tuple[Array, Array, Array]:
    """Sums (n_tokens, n_kv_heads, n_splits, group, head_dim), largest and total (..., group)."""
    each = parts.reshape(len(parts), n_kv_heads, n_splits, -1)
    n_sums = group * head_dim
    sums = each[..., :n_sums].reshape(*each.shape[:3], group, head_dim)
    return sums, each[..., n_sums : n_sums + group], each[..., n_sums + group :]
