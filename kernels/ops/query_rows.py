"""Rows of queries on their way through attention, in a thread's scratch memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from linnet.kernels.ir import Pointer, Value, f32, i32, i64
from linnet.kernels.ir.functions import exp_or_zero, tanh
from linnet.kernels.ops.base import Numbers, OpKernel
from linnet.kernels.ops.cache_types import LANES, CacheType

RUN = 64  # positions whose scores are turned to weights together
LOWEST = -3e38  # below any score, and yet a number


class QueryRows:
    """The query rows of one item in a thread's scratch memory: (token, head of the group) each.

    q, sums: f32 (n, head_dim); scores, which become weights: (n, RUN); total: (n, LANES);
    largest, shrink: (n,).
    """

    def __init__(
        self, k: OpKernel, type: CacheType, head_dim: int, group: int, n_tokens: int,
        position: Value, window: Value,
    ) -> None:  # fmt: skip
        """`position`: the first token's; the others' follow."""
        self.k, self.type, self.head_dim, self.group = k, type, head_dim, group
        self.n, self.position, self.window = n_tokens * group, position, window
        self.lanes = min(k.isa.lanes, head_dim & -head_dim)
        self.block = min(self.n, k.isa.query_rows)
        sizes = [self.n * n for n in self._widths(head_dim)]
        scratch = Numbers(k.scratch, f32)
        self.q, self.sums, self.scores, self.total, self.largest, self.shrink = (
            scratch.at(sum(sizes[:i])) for i in range(len(sizes))
        )

    @staticmethod
    def _widths(head_dim: int) -> tuple[int, ...]:
        return head_dim, head_dim, RUN, LANES, 1, 1

    @classmethod
    def floats(cls, head_dim: int) -> int:
        """What a row takes."""
        return sum(cls._widths(head_dim))

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

    def begin(self, q: Numbers, heads: Value, stride: Value, sinks: Numbers, scale: Value) -> None:
        """Set sums to those of no position, and copy the queries, scaled, side by side.

        `heads`: the first query head of the first token, counted over all tokens; `stride`: heads
        from token to token.
        """
        k = self.k
        for row, token, head in self._each():
            source, start = (heads + token * stride + head) * self.head_dim, row * self.head_dim
            for i in k.range(self.head_dim, step=self.lanes, name="column"):
                part = q.load(source + i, self.lanes) * scale
                self.q.store(part, start + i)
                self.sums.store(k.constant(part.type, 0), start + i)
            sink = sinks.load(head)
            self.largest.store(k.maximum(k.constant(f32, LOWEST), sink), row)
            one = k.constant(f32[LANES], [1, *[0] * (LANES - 1)])
            self.total.store((sink > -np.inf).splat(LANES).select(one, 0), row * LANES)

    def score(self, keys: Pointer, count: Value) -> None:
        """scores = q @ keys, for LANES positions at a time until `count` are done."""
        k, even = self.k, self.head_dim & -2
        for first, n in self._blocks():
            for vector in k.range((count + (LANES - 1)) // LANES, name="keys"):
                key = keys.at(vector * (LANES * self.type.head_bytes(self.head_dim)))
                q = self.q.at(first * self.head_dim)
                # Two sums a row, so that one multiply-add need not wait for the last.
                totals = [[k.cell(f32[LANES], "score") for _ in range(2)] for _ in range(n)]
                for start, end, step in ((0, even, 2), (even, self.head_dim, 1)):
                    if start == end:
                        continue
                    for i in k.range(end, start, step, name="column"):
                        for chain in range(step):
                            column = i + chain
                            part = self.type.load_keys(key, column)
                            for row in range(n):
                                number = q.load(column + row * self.head_dim)
                                total = totals[row][chain]
                                total.set(k.fma(part, number, total.get()))
                for row in range(n):
                    at = (first + row) * RUN + vector * LANES
                    self.scores.store(totals[row][0].get() + totals[row][1].get(), at)

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
        k, head_vectors = self.k, self.head_dim // self.lanes
        head_bytes = self.type.head_bytes(self.head_dim)
        at_once = min(head_vectors, max(1, 2 * k.isa.query_rows // self.block))
        for first, n in self._blocks():
            weights, sums = self.scores.at(first * RUN), self.sums.at(first * self.head_dim)
            for start, n_vectors in self._column_runs(at_once):
                columns = [start + i * self.lanes for i in range(n_vectors)]
                totals = []
                for row in range(n):
                    shrink = self.shrink.load(first + row)
                    places = [column + row * self.head_dim for column in columns]
                    totals.append(
                        [k.cell(sums.load(at, self.lanes) * shrink, "sum") for at in places]
                    )
                for position in k.range(end_seen, first_seen, name="value"):
                    value = values.at(position * head_bytes)
                    for i, column in enumerate(columns):
                        part = self.type.load_values(value, column, self.lanes)
                        for row in range(n):
                            weight = weights.load(position + row * RUN).splat(self.lanes)
                            total = totals[row][i]
                            total.set(k.fma(part, weight, total.get()))
                for row in range(n):
                    for i, column in enumerate(columns):
                        sums.store(totals[row][i].get(), column + row * self.head_dim)

    def _column_runs(self, at_once: int) -> Iterator[tuple[Value, int]]:
        """(first column, number of vectors): as many whole runs as there are, then what is left."""
        n = self.head_dim // self.lanes
        whole = n // at_once * at_once
        for vector in self.k.range(whole, step=at_once, name="columns"):
            yield vector * self.lanes, at_once
        if n > whole:
            yield self.k.constant(i64, whole * self.lanes), n - whole

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
