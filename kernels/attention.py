"""Attention over a cache of keys and values, with grouped heads (arXiv:1706.03762, 2305.13245)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.elementwise import exp, tanh
from linnet.kernels.ir import Pointer, Type, Value, f16, f32, i32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.op import Op, OpKernel

RUN = 16  # positions whose scores are turned to weights together
NUMPY_TYPES = {f16: np.float16, f32: np.float32}
NO_WINDOW = 1 << 30


@dataclass(frozen=True)
class StoreCache(Op):
    """Put x (n_tokens, n_heads, head_dim) f32 into a cache; an item is a token.

    cache: `type` (n_slots, n_heads, n_ctx, head_dim); the token's slot and position say where.
    """

    type: Type

    parameters = {
        "x": pointer,
        "slots": pointer,
        "positions": pointer,
        "cache": pointer,
        "n_heads": i64,
        "n_ctx": i64,
        "head_dim": i64,
    }
    writes = frozenset({"cache"})

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 0, 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        n_heads, head_dim = a["n_heads"], a["head_dim"]
        for token in k.items("token"):
            slot, position = (a[n].load(i32, token * 4).to(i64) for n in ("slots", "positions"))
            for head in k.range(n_heads, name="head"):
                x = a["x"].at((token * n_heads + head) * head_dim * 4)
                row = (slot * n_heads + head) * a["n_ctx"] + position
                for size, i in k.strips(head_dim, (k.isa.lanes, 1)):
                    number = x.load(f32[size], i * 4).to(self.type)
                    a["cache"].store(number, (row * head_dim + i) * self.type.bytes)

    def reference(self, **a: Any) -> None:
        x = a["x"].reshape(-1, a["n_heads"], a["head_dim"])
        a["cache"][a["slots"], :, a["positions"]] = x


@dataclass(frozen=True)
class Attend(Op):
    """out = softmax(scale * q @ keys) @ values over the positions a token can see.

    q, out: f32 (n_tokens, n_kv_heads, group, head_dim); keys, values: `type` (n_slots, n_kv_heads,
    n_ctx, head_dim). An item is a (token, KV head): its `group` query heads share what is read.
    Softmax is taken online (arXiv:1805.02867), in runs of 16 positions from position 0, whatever
    the thread or the batch:

        for token, head in items:
            largest, total = sinks[group], 1             # of no sink, -inf: 0
            for run of positions position - window + 1 .. position of token:
                scores = cap(scale * q[group] @ keys[run])
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

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 0, sizes["n_kv_heads"]

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return 4 * self.group * (RUN + self.head_dim)

    def emit(self, k: OpKernel, **a: Any) -> None:
        group, head_dim, n_heads = range(self.group), self.head_dim, a["n_kv_heads"]
        weights, sums = k.scratch, k.scratch.at(4 * self.group * RUN)
        for item in k.items():
            token, head = item // n_heads, item % n_heads
            slot, position = (a[n].load(i32, token * 4).to(i64) for n in ("slots", "positions"))
            start = (slot * n_heads + head) * a["n_ctx"] * head_dim * self.type.bytes
            keys, values = a["keys"].at(start), a["values"].at(start)
            q = a["q"].at(item * (4 * self.group * head_dim))
            sinks = [a["sinks"].load(f32, (head * self.group + h) * 4) for h in group]
            largest = [k.cell(sink, "largest") for sink in sinks]
            one = k.constant(f32, 1)
            total = [k.cell((sink > -np.inf).select(one, 0), "total") for sink in sinks]
            for i in k.range(self.group * head_dim, name="clear"):
                sums.store(k.constant(f32, 0), i * 4)
            visible = k.maximum(position + 1 - a["window"], 0)
            for run in k.range(position + 1, visible & -RUN, RUN, name="run"):
                seen = k.maximum(visible - run, 0), k.minimum(position + 1 - run, RUN)
                first = run * (head_dim * self.type.bytes)
                self._scores(k, q, keys.at(first), seen, weights, a["scale"])
                shrink = []
                for h in group:
                    scores = weights.load(f32[RUN], 4 * RUN * h)
                    if self.capped:
                        capped = tanh(k, scores / a["softcap"]) * a["softcap"]
                        scores = (scores > -np.inf).select(capped, scores)
                    before = largest[h].get()
                    after = k.maximum(before, scores.max())
                    shrink.append(exp_or_zero(k, before - after))
                    run_weights = exp_or_zero(k, scores - after)
                    weights.store(run_weights, 4 * RUN * h)
                    total[h].set(k.fma(total[h].get(), shrink[h], run_weights.sum()))
                    largest[h].set(after)
                self._sums(k, weights, values.at(first), seen, sums, shrink)
            out = a["out"].at(item * (4 * self.group * head_dim))
            for h in group:
                scale = 1.0 / total[h].get()
                for size, i in k.strips(k.constant(i64, head_dim), (k.isa.lanes, 1)):
                    at = i * 4 + 4 * head_dim * h
                    out.store(sums.load(f32[size], at) * scale, at)

    def _lanes(self, k: OpKernel) -> int:
        """The longest vector that divides a head."""
        return min(k.isa.lanes, self.head_dim & -self.head_dim)

    def _scores(
        self, k: OpKernel, q: Pointer, keys: Pointer, seen: tuple[Value, Value], scores: Pointer,
        scale: Value,
    ) -> None:  # fmt: skip
        """scores [group][RUN] = scale * q @ keys[position], and -inf where it is not seen."""
        lanes = self._lanes(k)
        for h in range(self.group):
            scores.store(k.constant(f32[RUN], -np.inf), 4 * RUN * h)
        for position in k.range(seen[1], seen[0], name="key"):
            key = keys.at(position * (self.head_dim * self.type.bytes))
            totals = [k.constant(f32[lanes], 0) for _ in range(self.group)]
            for i in range(0, self.head_dim, lanes):
                part = key.load(self.type[lanes], i * self.type.bytes).to(f32)
                for h in range(self.group):
                    query = q.load(f32[lanes], 4 * (h * self.head_dim + i))
                    totals[h] = k.fma(part, query, totals[h])
            for h in range(self.group):
                scores.store(totals[h].sum() * scale, position * 4 + 4 * RUN * h)

    def _sums(
        self, k: OpKernel, weights: Pointer, values: Pointer, seen: tuple[Value, Value],
        sums: Pointer, shrink: list[Value],
    ) -> None:  # fmt: skip
        """sums [group][head_dim] = sums * shrink + weights @ values."""
        lanes, group = self._lanes(k), range(self.group)
        for i in range(0, self.head_dim, lanes):
            places = [4 * (h * self.head_dim + i) for h in group]
            totals = [k.cell(sums.load(f32[lanes], places[h]) * shrink[h], "sum") for h in group]
            for position in k.range(seen[1], seen[0], name="value"):
                at = (position * self.head_dim + i) * self.type.bytes
                part = values.load(self.type[lanes], at).to(f32)
                for h in group:
                    weight = weights.load(f32, position * 4 + 4 * RUN * h)
                    totals[h].set(k.fma(part, weight.splat(lanes), totals[h].get()))
            for h in group:
                sums.store(totals[h].get(), places[h])

    def reference(self, **a: Any) -> None:
        q = a["q"].reshape(-1, a["n_kv_heads"], self.group, self.head_dim).astype(np.float64)
        out = a["out"].reshape(q.shape)
        sinks = np.reshape(a["sinks"], (a["n_kv_heads"], self.group, 1)).astype(np.float64)
        for token, (slot, position) in enumerate(zip(a["slots"], a["positions"], strict=True)):
            seen = slice(max(position + 1 - a["window"], 0), position + 1)
            keys, values = (
                a[name][slot, :, seen].astype(np.float64) for name in ("keys", "values")
            )
            scores = q[token] @ keys.swapaxes(1, 2) * a["scale"]
            if self.capped:
                scores = np.tanh(scores / a["softcap"]) * a["softcap"]
            largest = np.maximum(scores.max(axis=-1, keepdims=True), sinks)
            weights = np.exp(scores - largest)
            total = weights.sum(axis=-1, keepdims=True) + np.exp(sinks - largest)
            out[token] = weights / total @ values


def exp_or_zero(k: OpKernel, x: Value) -> Value:
    """e to the power of x <= 0, and exactly 0 where that is below 1e-37."""
    return (x < -87.0).select(k.constant(x.type, 0), exp(k, x))
