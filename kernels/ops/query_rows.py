"""Rows of queries on their way through attention, in a thread's scratch memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from linnet.kernels.ir import Pointer, Value, f32, i32, i64
from linnet.kernels.ir.functions import exp_or_zero, tanh
from linnet.kernels.ops.base import OpKernel
from linnet.kernels.ops.kv_cache import LANES

if TYPE_CHECKING:
    from linnet.kernels.ops.attention import Attend

RUN = 64  # positions whose scores are turned to weights together
LOWEST = -3e38  # below any score, and yet a number


class QueryRows:
    """The query rows of one item in a thread's scratch memory: (token, head of the group) each.

    q, sums: f32 (n, head_dim); scores, which become weights: (n, RUN); total: (n, LANES);
    largest, shrink: (n,).
    """

    def __init__(
        self, k: OpKernel, op: Attend, n_tokens: int, position: Value, window: Value
    ) -> None:
        self.k, self.type, self.head_dim, self.group = k, op.type, op.head_dim, op.group
        self.n, self.position, self.window = n_tokens * op.group, position, window
        self.lanes = min(k.isa.lanes, self.head_dim & -self.head_dim)
        self.block = min(self.n, k.isa.query_rows)
        self.row = 4 * self.head_dim
        sizes = [4 * self.n * n for n in self._widths(self.head_dim)]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        self.q, self.sums, self.scores, self.total, self.largest, self.shrink = (
            k.scratch.at(start) for start in starts
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

    def begin(self, q: Pointer, heads: Value, stride: Value, sinks: Pointer, scale: Value) -> None:
        """Nothing seen yet; queries are copied side by side, and scaled."""
        k = self.k
        for row, token, head in self._each():
            source = q.at((heads + token * stride + head) * self.row)
            for i in k.range(self.head_dim, step=self.lanes, name="column"):
                part = source.load(f32[self.lanes], i * 4) * scale
                self.q.store(part, row * self.row + i * 4)
                self.sums.store(k.constant(part.type, 0), row * self.row + i * 4)
            sink = sinks.load(f32, head * 4)
            self.largest.store(k.maximum(k.constant(f32, LOWEST), sink), row * 4)
            one = k.constant(f32[LANES], [1, *[0] * (LANES - 1)])
            self.total.store((sink > -np.inf).splat(LANES).select(one, 0), row * (4 * LANES))

    def score(self, keys: Pointer, count: Value) -> None:
        """scores = q @ keys, for 16 positions at a time until `count` are done."""
        k = self.k
        for first, n in self._blocks():
            for vector in k.range((count + (LANES - 1)) // LANES, name="keys"):
                key = keys.at(vector * (LANES * self.head_dim * self.type.bytes))
                q = self.q.at(first * self.row)
                # Two sums a row, so that one multiply-add need not wait for the last.
                totals = [[k.cell(f32[LANES], "score") for _ in range(2)] for _ in range(n)]
                for step in (2, 1):
                    start, end = (
                        (0, self.head_dim & -2)
                        if step == 2
                        else (self.head_dim & -2, self.head_dim)
                    )
                    if start == end:
                        continue
                    for i in k.range(end, start, step, name="column"):
                        for chain in range(step):
                            at = (i + chain) * (LANES * self.type.bytes)
                            part = key.load(self.type[LANES], at).to(f32)
                            for row in range(n):
                                number = q.load(f32, (i + chain) * 4 + row * self.row)
                                total = totals[row][chain]
                                total.set(k.fma(part, number, total.get()))
                for row in range(n):
                    at = (first + row) * (4 * RUN) + vector * (4 * LANES)
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
                part = self.scores.load(f32[LANES], row * (4 * RUN) + 4 * i)
                if softcap is not None:
                    part = tanh(k, part / softcap) * softcap
                place = k.constant(i32[LANES], range(i, i + LANES))
                seen = (place <= newest) & (place >= oldest)
                scores.append(seen.select(part, -np.inf))
            before = self.largest.load(f32, row * 4)
            highest = scores[0]
            for part in scores[1:]:
                highest = k.maximum(highest, part)
            after = k.maximum(before, highest.max())
            shrink = exp_or_zero(k, before - after)
            total = self.total.load(f32[LANES], row * (4 * LANES)) * shrink
            for i, part in zip(parts, scores, strict=True):
                weights = exp_or_zero(k, part - after)
                self.scores.store(weights, row * (4 * RUN) + 4 * i)
                total = total + weights
            self.total.store(total, row * (4 * LANES))
            self.largest.store(after, row * 4)
            self.shrink.store(shrink, row * 4)

    def add_values(self, values: Pointer, seen: tuple[Value, Value]) -> None:
        """sums = sums * shrink + weights @ values, of the positions of the run that are seen."""
        k, head_vectors = self.k, self.head_dim // self.lanes
        at_once = min(head_vectors, max(1, 2 * k.isa.query_rows // self.block))
        for first, n in self._blocks():
            weights, sums = self.scores.at(first * (4 * RUN)), self.sums.at(first * self.row)
            for start, n_vectors in self._column_runs(at_once):
                columns = [start + i * self.lanes for i in range(n_vectors)]
                totals = []
                for row in range(n):
                    shrink = self.shrink.load(f32, (first + row) * 4)
                    places = [c * 4 + row * self.row for c in columns]
                    totals.append(
                        [k.cell(sums.load(f32[self.lanes], at) * shrink, "sum") for at in places]
                    )
                for position in k.range(seen[1], seen[0], name="value"):
                    for i, column in enumerate(columns):
                        at = (position * self.head_dim + column) * self.type.bytes
                        part = values.load(self.type[self.lanes], at).to(f32)
                        for row in range(n):
                            weight = weights.load(f32, position * 4 + row * (4 * RUN))
                            total = totals[row][i]
                            total.set(k.fma(part, weight.splat(self.lanes), total.get()))
                for row in range(n):
                    for i, column in enumerate(columns):
                        sums.store(totals[row][i].get(), column * 4 + row * self.row)

    def _column_runs(self, at_once: int) -> Iterator[tuple[Value, int]]:
        """(first column, number of vectors): as many whole runs as there are, then what is left."""
        n = self.head_dim // self.lanes
        whole = n // at_once * at_once
        for vector in self.k.range(whole, step=at_once, name="columns"):
            yield vector * self.lanes, at_once
        if n > whole:
            yield self.k.constant(i64, whole * self.lanes), n - whole

    def finish(self, out: Pointer, heads: Value, stride: Value) -> Value:
        """out = sums / total; returns whether all of it is finite."""
        nothing = self.k.cell(f32[self.lanes], "nothing")  # 0, or NaN as x - x is
        for row, token, head in self._each():
            target = out.at((heads + token * stride + head) * self.row)
            scale = 1.0 / self.total.load(f32[LANES], row * (4 * LANES)).sum()
            for i in self.k.range(self.head_dim, step=self.lanes, name="column"):
                part = self.sums.load(f32[self.lanes], row * self.row + i * 4)
                mean = part * scale
                target.store(mean, i * 4)
                nothing.set(nothing.get() + (mean - mean))
        return nothing.get().sum().equals(0.0)
