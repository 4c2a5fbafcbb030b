"""Attention over a cache of keys and values, with grouped heads (arXiv:1706.03762, 2305.13245)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.cache import LANES
from linnet.kernels.elementwise import exp, tanh
from linnet.kernels.ir import Pointer, Type, Value, f32, i32, i64, pointer, u32
from linnet.kernels.isa import ISA
from linnet.kernels.op import Op, OpKernel

RUN = 64  # positions whose scores are turned to weights together
ROWS = 16  # of queries that share what is read of the cache, if tokens of a prompt are as many
NO_WINDOW = 1 << 30
LOWEST = -3e38  # below any score, and yet a number


@dataclass(frozen=True)
class Attend(Op):
    """out = softmax(scale * q @ keys) @ values over the positions a token can see.

    q, out: f32 (n_tokens, n_kv_heads, group, head_dim); keys, values: see `linnet.kernels.cache`.
    An item is a KV head and one token, or a block of tokens that follow each other in one sequence;
    their query heads are rows that share what is read. Softmax is taken online (arXiv:1805.02867),
    in runs of 64 positions, whatever the thread, the block or the batch:

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
    """

    type: Type
    head_dim: int
    group: int
    capped: bool = False

    parameters = {
        "q": pointer,
        "keys": pointer,
        "values": pointer,
        "slots": pointer,
        "positions": pointer,
        "out": pointer,
        "n_kv_heads": i64,
        "n_ctx": i64,
        "scale": f32,
        "softcap": f32,
        "sinks": pointer,
        "window": i64,
    }

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        if n_rows is not None:
            return self
        return AttendInBlocks(self.type, self.head_dim, self.group, self.capped)

    @property
    def n_together(self) -> int:
        """Tokens in a block."""
        return 1

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_kv_heads"], self.n_together

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return 4 * self.group * self.n_together * Rows.floats(self.head_dim)

    def emit(self, k: OpKernel, **a: Any) -> None:
        for item in k.items():
            self._attend(k, a, item // a["n_kv_heads"], item % a["n_kv_heads"], 1)

    def _attend(
        self, k: OpKernel, a: dict[str, Any], token: Value, head: Value, n_tokens: int
    ) -> None:
        """One KV head, and `n_tokens` tokens from `token` on."""
        n_heads, head_bytes = a["n_kv_heads"], self.head_dim * self.type.bytes
        slot, position = (a[n].load(i32, token * 4).to(i64) for n in ("slots", "positions"))
        n_runs = (a["n_ctx"] + (LANES - 1)) // LANES
        keys = a["keys"].at((slot * n_heads + head) * n_runs * (LANES * head_bytes))
        values = a["values"].at((slot * n_heads + head) * a["n_ctx"] * head_bytes)
        rows = Rows(k, self, n_tokens, position, a["window"])
        heads = (token * n_heads + head) * self.group  # of the first token's queries
        stride = n_heads * self.group  # from token to token, in heads
        rows.begin(a["q"], heads, stride, a["sinks"].at(head * (4 * self.group)), a["scale"])
        first = k.maximum(position + 1 - a["window"], 0)
        end = position + n_tokens
        for run in k.range(end, first & -RUN, RUN, name="run"):
            rows.score(keys.at(run * head_bytes), k.minimum(end - run, RUN))
            rows.weigh(run, a["softcap"] if self.capped else None)
            seen = k.maximum(first - run, 0), k.minimum(end - run, RUN)
            rows.add_values(values.at(run * head_bytes), seen)
        rows.finish(a["out"], heads, stride)

    def reference(self, **a: Any) -> None:
        q = a["q"].reshape(-1, a["n_kv_heads"], self.group, self.head_dim).astype(np.float64)
        out = a["out"].reshape(q.shape)
        sinks = np.reshape(a["sinks"], (a["n_kv_heads"], self.group, 1)).astype(np.float64)
        for token, (slot, position) in enumerate(zip(a["slots"], a["positions"], strict=True)):
            seen = slice(max(position + 1 - a["window"], 0), position + 1)
            keys = a["keys"][slot].swapaxes(2, 3).reshape(a["n_kv_heads"], -1, self.head_dim)
            keys, values = (x[:, seen].astype(np.float64) for x in (keys, a["values"][slot]))
            scores = q[token] @ keys.swapaxes(1, 2) * a["scale"]
            if self.capped:
                scores = np.tanh(scores / a["softcap"]) * a["softcap"]
            largest = np.maximum(scores.max(axis=-1, keepdims=True), sinks)
            weights = np.exp(scores - largest)
            total = weights.sum(axis=-1, keepdims=True) + np.exp(sinks - largest)
            out[token] = weights / total @ values


@dataclass(frozen=True)
class AttendInBlocks(Attend):
    """`Attend` for any number of tokens, which as a rule follow each other in one sequence."""

    parameters = {**Attend.parameters, "n_rows": pointer}

    @property
    def n_together(self) -> int:
        return max(1, ROWS // self.group)

    def emit(self, k: OpKernel, **a: Any) -> None:
        n = self.n_together
        for item in k.items():
            first, head = item // a["n_kv_heads"] * n, item % a["n_kv_heads"]
            end = k.minimum(first + n, a["n_rows"].load(i64))
            together = k.cell((end - first).equals(n), "together")
            with k.when(together.get()):
                together.set(self._follow(k, a, first))
            with k.when(together.get()):
                self._attend(k, a, first, head, n)
            with k.when(together.get() ^ 1):
                for token in k.range(end, first, name="token"):
                    self._attend(k, a, token, head, 1)

    def _follow(self, k: OpKernel, a: dict[str, Any], first: Value) -> Value:
        """Whether the block's tokens have one slot and positions that follow each other."""
        n = 1 << (
            self.n_together.bit_length() - 1
        )  # a vector's length: two of them cover the block
        slot, position = (a[name].load(i32, first * 4) for name in ("slots", "positions"))
        differs = k.constant(i32[n], 0)
        for start in (0, self.n_together - n):
            at = (first + start) * 4
            step = k.constant(i32[n], range(start, start + n))
            differs = differs | (a["slots"].load(i32[n], at) ^ slot)
            differs = differs | ((a["positions"].load(i32[n], at) - step) ^ position)
        return differs.bits(u32[n]).max().equals(0)


class Rows:
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
            for i in range(0, self.head_dim, self.lanes):
                part = source.load(f32[self.lanes], 4 * i) * scale
                self.q.store(part, row * self.row + 4 * i)
                self.sums.store(k.constant(part.type, 0), row * self.row + 4 * i)
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
            for start in range(0, head_vectors, at_once):
                columns = [i * self.lanes for i in range(start, min(start + at_once, head_vectors))]
                totals = []
                for row in range(n):
                    shrink = self.shrink.load(f32, (first + row) * 4)
                    totals.append(
                        [
                            k.cell(
                                sums.load(f32[self.lanes], row * self.row + 4 * c) * shrink, "sum"
                            )
                            for c in columns
                        ]
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
                        sums.store(totals[row][i].get(), row * self.row + 4 * column)

    def finish(self, out: Pointer, heads: Value, stride: Value) -> None:
        """out = sums / total"""
        for row, token, head in self._each():
            target = out.at((heads + token * stride + head) * self.row)
            scale = 1.0 / self.total.load(f32[LANES], row * (4 * LANES)).sum()
            for i in range(0, self.head_dim, self.lanes):
                part = self.sums.load(f32[self.lanes], row * self.row + 4 * i)
                target.store(part * scale, 4 * i)


def exp_or_zero(k: OpKernel, x: Value) -> Value:
    """e to the power of x <= 0, and exactly 0 where that is below 1e-37."""
    return (x < -87.0).select(k.constant(x.type, 0), exp(k, x))
