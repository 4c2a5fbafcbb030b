"""Rows of queries on their way through attention, in a thread's scratch memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from linnet.kernels.ir import Pointer, Value, f32, i32, i64
from linnet.kernels.ir.functions import exp_or_zero, tanh
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Numbers, OpKernel
from linnet.kernels.ops.cache_types import LANES, CacheType

RUN = 64  # positions whose scores are turned to weights together
AHEAD = 2048  # bytes that few rows, which wait for memory, ask for what they read next
LOWEST = -3e38  # below any score, and yet a number


class QueryRows:
    """The query rows of one item in a thread's scratch memory: (token, head of the group) each.

    sums: f32 (n, head_dim); scores, which become weights: (n, RUN); total: (n, LANES);
    largest, shrink: (n,); q: (n, bytes of a query), as keys of their type are multiplied by;
    scaled: (query_rows, RUN), weights times the scales of values in blocks.
    """

    def __init__(
        self, k: OpKernel, key_type: CacheType, value_type: CacheType, head_dim: int, group: int,
        n_tokens: int, position: Value, window: Value,
    ) -> None:  # fmt: skip
        """`position`: the first token's; the others' follow."""
        self.k, self.key_type, self.value_type = k, key_type, value_type
        self.head_dim, self.group = head_dim, group
        self.n, self.position, self.window = n_tokens * group, position, window
        self.lanes = min(k.isa.lanes, head_dim & -head_dim)
        self.block = min(self.n, k.isa.query_rows)
        sizes = [self.n * n for n in self._widths(head_dim)]
        scratch = Numbers(k.scratch, f32)
        sizes.append(k.isa.query_rows * RUN)
        self.sums, self.scores, self.total, self.largest, self.shrink, self.scaled, q = (
            scratch.at(sum(sizes[:i])) for i in range(len(sizes) + 1)
        )
        self.q, self.query_bytes = q.address, key_type.query_bytes(head_dim)

    @staticmethod
    def _widths(head_dim: int) -> tuple[int, ...]:
        return head_dim, RUN, LANES, 1, 1

    @classmethod
    def bytes(cls, isa: ISA, key_type: CacheType, head_dim: int, n: int) -> int:
        """What n rows take."""
        row = sum(cls._widths(head_dim)) * f32.bytes + key_type.query_bytes(head_dim)
        return n * row + isa.query_rows * RUN * f32.bytes

    def _each(self) -> Iterator[tuple[Value, Value, Value]]:
        """(row, its token's place in the block, its head's in the group)"""
        for row in self.k.range(self.n, name="row"):
            yield row, row // self.group, row % self.group

    def _blocks(self) -> Iterator[tuple[Value | int, int]]:
        """(first row, number of rows): as many whole blocks as there are, then what is left."""
        whole = self.n // self.block * self.block
        for row in self.k.range(whole, step=self.block, name="rows"):
            yield row, self.block
        if self.n > whole:
            yield self.k.constant(i64, whole), self.n - whole

    def begin(
        self, q: Numbers, heads: Value, stride: Value, sinks: Numbers | None, scale: Value
    ) -> None:
        """Set sums to those of no position, and put the queries, scaled, side by side.

        `heads`: the first query head of the first token, counted over all tokens; `stride`: heads
        from token to token.
        """
        k, size = self.k, self.key_type.query_size(self.lanes)
        for row, token, head in self._each():
            source, start = (heads + token * stride + head) * self.head_dim, row * self.head_dim
            for i in k.range(self.head_dim, step=size, name="column"):
                part = q.load(source + i, size) * scale
                self.key_type.store_query(self.q.at(row * self.query_bytes), i, part)
                self.sums.store(k.constant(part.type, 0), start + i)
            none = k.constant(f32, -np.inf)
            sink = none if sinks is None else sinks.load(head)
            self.largest.store(k.maximum(k.constant(f32, LOWEST), sink), row)
            one = k.constant(f32[LANES], [1, *[0] * (LANES - 1)])
            self.total.store((sink > -np.inf).splat(LANES).select(one, 0), row * LANES)

    def score(self, keys: Pointer, count: Value) -> None:
        """scores = q @ keys, for LANES positions at a time until `count` are done."""
        k, bytes_of_lanes = self.k, LANES * self.key_type.head_bytes(self.head_dim)
        for first, n in self._blocks():
            queries = self.q.at(first * self.query_bytes)
            for vector in k.range((count + (LANES - 1)) // LANES, name="keys"):
                key = keys.at(vector * bytes_of_lanes)
                self._prefetch(key, bytes_of_lanes)
                scores = self.key_type.scores(k, key, queries, n, self.head_dim)
                for row, score in enumerate(scores):
                    self.scores.store(score, (first + row) * RUN + vector * LANES)

    def weigh(self, run: Value, softcap: Value | None) -> None:
        """Turn scores of the positions from `run` on to weights."""
        k, parts = self.k, range(0, RUN, LANES)
        for row, token, _ in self._each():
            position = self.position + token
            newest = (position - run).to(i32)
            oldest = (k.maximum(position + 1 - self.window, 0) - run).to(i32)
            scores = []
            for i in parts:
                part = self.scores.load(row * RUN + i, LANES)
                if softcap is not None:
                    part = tanh(k, part / softcap) * softcap
                place = k.constant(i32[LANES], range(i, i + LANES))
                seen = (place <= newest) & (place >= oldest)
                scores.append(seen.select(part, -np.inf))
            before = self.largest.load(row)
            highest = scores[0]
            for part in scores[1:]:
                highest = k.maximum(highest, part)
            after = k.maximum(before, highest.max())
            shrink = exp_or_zero(k, before - after)
            total = self.total.load(row * LANES, LANES) * shrink
            for i, part in zip(parts, scores, strict=True):
                weights = exp_or_zero(k, part - after)
                self.scores.store(weights, row * RUN + i)
                total = total + weights
            self.total.store(total, row * LANES)
            self.largest.store(after, row)
            self.shrink.store(shrink, row)

    def add_values(self, values: Pointer, first_seen: Value, end_seen: Value) -> None:
        """sums = sums * shrink + weights @ values, of the positions of the run that are seen."""
        k, type, head_vectors = self.k, self.value_type, self.head_dim // self.lanes
        head_bytes = type.head_bytes(self.head_dim)
        at_once = min(head_vectors, max(1, 2 * k.isa.query_rows // self.block))
        in_block = max(1, type.block // self.lanes)
        at_once -= at_once % in_block if at_once > in_block else 0
        for first, n in self._blocks():
            sums = self.sums.at(first * self.head_dim)
            for start, n_vectors in self._column_runs(at_once):
                columns = [start + i * self.lanes for i in range(n_vectors)]
                totals = []
                for row in range(n):
                    shrink = self.shrink.load(first + row)
                    places = [column + row * self.head_dim for column in columns]
                    totals.append(
                        [k.cell(sums.load(at, self.lanes) * shrink, "sum") for at in places]
                    )
                weights = [
                    type.weights(
                        k, self.scores.at(first * RUN), n, RUN,
                        values, head_bytes, columns[i], first_seen, end_seen,
                        self.scaled.at(i // in_block * n * RUN),
                    )
                    for i in range(0, n_vectors, in_block)
                ]  # fmt: skip
                first_byte = start * head_bytes // self.head_dim
                n_bytes = n_vectors * self.lanes * head_bytes // self.head_dim
                for position in k.range(end_seen, first_seen, name="value"):
                    value = values.at(position * head_bytes)
                    self._prefetch(value.at(first_byte), n_bytes)
                    for i, part in enumerate(type.load_values(value, start, self.lanes, n_vectors)):
                        for row in range(n):
                            weight = weights[i // in_block].load(position + row * RUN)
                            total = totals[row][i]
                            total.set(k.fma(part, weight.splat(self.lanes), total.get()))
                for row in range(n):
                    for i, column in enumerate(columns):
                        sums.store(totals[row][i].get(), column + row * self.head_dim)

    def _prefetch(self, address: Pointer, n_bytes: int) -> None:
        """Ask for what comes behind so many bytes of the cache, if rows are few."""
        if self.n == self.block:
            for line in range(0, n_bytes, 64):
                address.prefetch(AHEAD + line)

    def _column_runs(self, at_once: int) -> Iterator[tuple[Value, int]]:
        """(first column, number of vectors): as many whole runs as there are, then what is left."""
        n = self.head_dim // self.lanes
        whole = n // at_once * at_once
        for vector in self.k.range(whole, step=at_once, name="columns"):
            yield vector * self.lanes, at_once
        if n > whole:
            yield self.k.constant(i64, whole * self.lanes), n - whole

    def leave(self, parts: Numbers) -> None:
        """Write what there is so far as `parts`: sums (n, head_dim), largest (n,), total (n,)."""
        n_sums = self.n * self.head_dim
        for row, _, _ in self._each():
            for i in self.k.range(self.head_dim, step=self.lanes, name="column"):
                at = row * self.head_dim + i
                parts.store(self.sums.load(at, self.lanes), at)
            parts.store(self.largest.load(row), row + n_sums)
            parts.store(self.total.load(row * LANES, LANES).sum(), row + (n_sums + self.n))

    def finish(self, out: Numbers, heads: Value, stride: Value) -> Value:
        """out = sums / total; returns whether all of it is finite."""
        nothing = self.k.cell(f32[self.lanes], "nothing")  # 0, or NaN as x - x is
        for row, token, head in self._each():
            target, start = (heads + token * stride + head) * self.head_dim, row * self.head_dim
            scale = 1.0 / self.total.load(row * LANES, LANES).sum()
            for i in self.k.range(self.head_dim, step=self.lanes, name="column"):
                mean = self.sums.load(start + i, self.lanes) * scale
                out.store(mean, target + i)
                nothing.set(nothing.get() + (mean - mean))
        return nothing.get().sum().equals(0.0)
