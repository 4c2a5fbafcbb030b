"""Mixtures of experts: each token is sent to a few of many networks (arXiv:1701.06538).

`TopExperts` chooses them and `GroupByExpert` lists the products with their weights, which
`linnet.kernels.products.experts` makes; `PerExpert` and `SumExperts` apply what belongs to each and
add them up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import f32, i32, i64
from linnet.kernels.ir.functions import exp_or_zero, sigmoid
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import (
    ALL_ROWS,
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

MOST_EXPERTS = 4096
SMALLEST_SUM = 2.0**-14  # of the chosen experts' weights, where they are divided by it


@dataclass(frozen=True)
class TopExperts(Op):
    """The `n_used` best of each token's experts, and their weights; an item is a token.

    logits: f32 (n_tokens, n_experts); bias: f32 (n_experts,), added for choosing alone; experts:
    i32 (n_tokens, n_used), best first, of equals the first; weights: f32 (n_tokens, n_used).

        for token in items:
            scores = softmax(logits[token]), or sigmoid
            chosen = top n_used of scores + bias
            weights = scale * scores[chosen]          # / sum(scores[chosen]), if `normalised`
    """

    scores: str  # "softmax" or "sigmoid"
    normalised: bool

    writes = frozenset({"experts", "weights"})

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return 2 * 4 * MOST_EXPERTS

    def emit(
        self, k: OpKernel, logits: Float32s, bias: Float32s, experts: Int32s, weights: Float32s,
        n_experts: Int, n_used: Int, scale: Float,
    ) -> None:  # fmt: skip
        scores = Numbers(k.scratch, f32)
        rank = scores.at(MOST_EXPERTS)
        for token in k.items("token"):
            of_token = logits.at(token * n_experts)
            largest, total = k.cell(k.constant(f32, -np.inf), "largest"), k.cell(f32, "total")
            for i in k.range(n_experts, name="largest"):
                largest.set(k.maximum(of_token.load(i), largest.get()))
            for size, i in k.strips(n_experts, (k.isa.lanes, 1)):
                x = of_token.load(i, size)
                is_sigmoid = self.scores == "sigmoid"
                score = sigmoid(k, x) if is_sigmoid else exp_or_zero(k, x - largest.get())
                scores.store(score, i)
                total.set(total.get() + score.sum())
            share = k.constant(f32, 1) if self.scores == "sigmoid" else 1.0 / total.get()
            for size, i in k.strips(n_experts, (k.isa.lanes, 1)):
                score = scores.load(i, size) * share
                scores.store(score, i)
                rank.store(score + bias.load(i, size), i)
            chosen, chosen_weights = experts.at(token * n_used), weights.at(token * n_used)
            total.set(0)
            for place in k.range(n_used, name="place"):
                best, best_rank = k.cell(i64, "best"), k.cell(k.constant(f32, -np.inf), "rank")
                for i in k.range(n_experts, name="expert"):
                    of_expert = rank.load(i)
                    better = of_expert > best_rank.get()
                    best.set(better.select(i, best.get()))
                    best_rank.set(better.select(of_expert, best_rank.get()))
                weight = scores.load(best.get())
                rank.store(k.constant(f32, -np.inf), best.get())
                chosen.store(best.get().to(i32), place)
                chosen_weights.store(weight, place)
                total.set(total.get() + weight)
            factor = scale / k.maximum(total.get(), SMALLEST_SUM) if self.normalised else scale
            for place in k.range(n_used, name="place"):
                chosen_weights.store(chosen_weights.load(place) * factor, place)

    def reference(
        self, logits: Array, bias: Array, experts: Array, weights: Array,
        n_experts: int, n_used: int, scale: float,
    ) -> None:  # fmt: skip
        wide = logits.astype(np.float64)
        if self.scores == "sigmoid":
            scores = 1 / (1 + np.exp(-wide))
        else:
            scores = np.exp(wide - wide.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
        order = np.argsort(-(scores + bias), axis=1, kind="stable")[:, :n_used]
        chosen = np.take_along_axis(scores, order, axis=1)
        if self.normalised:
            chosen /= np.maximum(chosen.sum(axis=1, keepdims=True), SMALLEST_SUM)
        experts[...] = order
        weights[...] = chosen * scale


@dataclass(frozen=True)
class GroupByExpert(Op):
    """Sort the products of a pass by expert: a counting sort, and one item.

    experts: i32 (n_tokens, n_used), whose place is the product's number; order: i32 (n_products,),
    where order[starts[e] : starts[e + 1]] are the products of expert e, in order; starts: i64
    (n_experts + 1,).

        starts[e] = how many products have an expert below e
        for product:  order[next place of its expert] = product
    """

    writes = frozenset({"order", "starts"})

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, ALL_ROWS

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return 8 * MOST_EXPERTS

    def emit(
        self, k: OpKernel, experts: Int32s, order: Int32s, starts: Int64s,
        n_used: Int, n_experts: Int, n_rows: Int64s,
    ) -> None:  # fmt: skip
        n_products, next_place = n_rows.load() * n_used, Numbers(k.scratch, i64)
        for expert in k.range(n_experts + 1, name="clear"):
            starts.store(k.constant(i64, 0), expert)
        for product in k.range(n_products, name="count"):
            after = experts.index(product) + 1
            starts.store(starts.load(after) + 1, after)
        for expert in k.range(n_experts, name="add"):
            start = starts.load(expert)
            next_place.store(start, expert)
            starts.store(starts.load(expert + 1) + start, expert + 1)
        for product in k.range(n_products, name="place"):
            expert = experts.index(product)
            place = next_place.load(expert)
            order.store(product.to(i32), place)
            next_place.store(place + 1, expert)

    def reference(
        self, experts: Array, order: Array, starts: Array, n_used: int, n_experts: int
    ) -> None:
        chosen = experts.reshape(-1)
        order.reshape(-1)[...] = np.argsort(chosen, kind="stable")
        starts[0] = 0
        starts[1:] = np.bincount(chosen, minlength=n_experts).cumsum()


@dataclass(frozen=True)
class PerExpert(Op):
    """out[t][j] = x[t][j] * scales[e] + biases[e] for e = experts[t][j]; an item is one j.

    x, out: f32 (n_tokens, n_used, width); scales: f32 (n_experts,); biases: f32 (n_experts, width).
    """

    picks = {"scales": "experts", "biases": "experts"}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_used"], 1

    def emit(
        self, k: OpKernel, x: Float32s, experts: Int32s, scales: Float32s, biases: Float32s,
        out: Float32s, n_used: Int, width: Int,
    ) -> None:  # fmt: skip
        for product in k.items("product"):
            expert, start = experts.index(product), product * width
            scale, bias = scales.load(expert), biases.at(expert * width)
            for size, i in k.strips(width, (k.isa.lanes, 1)):
                out.store(x.load(start + i, size) * scale + bias.load(i, size), start + i)

    def reference(
        self, x: Array, experts: Array, scales: Array, biases: Array, out: Array,
        n_used: int, width: int,
    ) -> None:  # fmt: skip
        products = x.reshape(*experts.shape, width)
        out[...] = (products * scales[experts, None] + biases[experts]).reshape(out.shape)


@dataclass(frozen=True)
class SumExperts(Op):
    """out[t] = sum over j of weights[t][j] * x[t][j], in the order of j; an item is a token.

    x: f32 (n_tokens, n_used, width); weights: f32 (n_tokens, n_used); out: f32 (n_tokens, width).
    """

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def emit(
        self, k: OpKernel, x: Float32s, weights: Float32s, out: Float32s, n_used: Int, width: Int
    ) -> None:
        for token in k.items("token"):
            results, of_token = x.at(token * n_used * width), weights.at(token * n_used)
            for size, i in k.strips(width, (k.isa.lanes, 1)):
                total = k.cell(f32[size], "total")
                for j in k.range(n_used, name="expert"):
                    result = results.load(j * width + i, size)
                    total.set(k.fma(result, of_token.load(j), total.get()))
                out.store(total.get(), token * width + i)

    def reference(self, x: Array, weights: Array, out: Array, n_used: int, width: int) -> None:
        products = x.reshape(*weights.shape, width).astype(np.float64)
        out[...] = (products * weights[..., None]).sum(axis=1)
