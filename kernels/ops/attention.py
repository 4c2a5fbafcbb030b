"""Attention over a cache of keys and values, with grouped heads (arXiv:1706.03762, 2305.13245)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Type, Value, f32, i32, i64, pointer, u32
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Op, OpKernel
from linnet.kernels.ops.kv_cache import LANES
from linnet.kernels.ops.query_rows import RUN, QueryRows

ROWS = 16  # of queries that share what is read of the cache, if tokens of a prompt are as many
NO_WINDOW = 1 << 30


@dataclass(frozen=True)
class Attend(Op):
    """out = softmax(scale * q @ keys) @ values over the positions a token can see.

    q, out: f32 (n_tokens, n_kv_heads, group, head_dim); keys, values: see
    `linnet.kernels.ops.kv_cache`; a capacity that positions go beyond is a multiple of
    RUN, so that no run comes around within it.
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
        "capacity": i64,
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
        return 4 * self.group * self.n_together * QueryRows.floats(self.head_dim)

    def emit(self, k: OpKernel, **a: Any) -> None:
        for item in k.items():
            self._attend(k, a, item // a["n_kv_heads"], item % a["n_kv_heads"], 1)

    def _attend(
        self, k: OpKernel, a: dict[str, Any], token: Value, head: Value, n_tokens: int
    ) -> Value:
        """One KV head, and `n_tokens` tokens from `token` on; returns whether all is finite."""
        n_heads, head_bytes = a["n_kv_heads"], self.head_dim * self.type.bytes
        slot, position = (a[n].load(i32, token * 4).to(i64) for n in ("slots", "positions"))
        n_runs = (a["capacity"] + (LANES - 1)) // LANES
        keys = a["keys"].at((slot * n_heads + head) * n_runs * (LANES * head_bytes))
        values = a["values"].at((slot * n_heads + head) * a["capacity"] * head_bytes)
        rows = QueryRows(k, self, n_tokens, position, a["window"])
        heads = (token * n_heads + head) * self.group  # of the first token's queries
        stride = n_heads * self.group  # from token to token, in heads
        rows.begin(a["q"], heads, stride, a["sinks"].at(head * (4 * self.group)), a["scale"])
        first = k.maximum(position + 1 - a["window"], 0)
        end = position + n_tokens
        for run in k.range(end, first & -RUN, RUN, name="run"):
            place = run % a["capacity"] * head_bytes
            rows.score(keys.at(place), k.minimum(end - run, RUN))
            rows.weigh(run, a["softcap"] if self.capped else None)
            seen = k.maximum(first - run, 0), k.minimum(end - run, RUN)
            rows.add_values(values.at(place), seen)
        return rows.finish(a["out"], heads, stride)

    def reference(self, **a: Any) -> None:
        q = a["q"].reshape(-1, a["n_kv_heads"], self.group, self.head_dim).astype(np.float64)
        out = a["out"].reshape(q.shape)
        sinks = np.reshape(a["sinks"], (a["n_kv_heads"], self.group, 1)).astype(np.float64)
        for token, (slot, position) in enumerate(zip(a["slots"], a["positions"], strict=True)):
            seen = np.arange(max(position + 1 - a["window"], 0), position + 1) % a["capacity"]
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
    """`Attend` for any number of tokens, which as a rule follow each other in one sequence.

    A row's weight for what it does not see is 0, and 0 times NaN or infinity is NaN: a block whose
    results are not all finite is done again, token by token.
    """

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
                together.set(self._attend(k, a, first, head, n))
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
