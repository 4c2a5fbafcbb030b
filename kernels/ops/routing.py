"""Mixtures of experts: each token is sent to a few of many networks (arXiv:1701.06538).

`TopExperts` chooses them and `GroupByExpert` lists the products with their weights, which
`linnet.kernels.products.experts` makes; `PerExpert` and `SumExperts` apply what belongs to each and
add them up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import f32, i32, i64, pointer
from linnet.kernels.ir.functions import exp_or_zero, sigmoid
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import ALL_ROWS, Op, OpKernel

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

    parameters = {
        "logits": pointer,
        "bias": pointer,
        "experts": pointer,
        "weights": pointer,
        "n_experts": i64,
        "n_used": i64,
        "scale": f32,
    }
    writes = frozenset({"experts", "weights"})

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return 2 * 4 * MOST_EXPERTS

    def emit(self, k: OpKernel, **a: Any) -> None:
        n, n_used = a["n_experts"], a["n_used"]
        scores, rank = k.scratch, k.scratch.at(4 * MOST_EXPERTS)
        for token in k.items("token"):
            logits = a["logits"].at(token * n * 4)
            largest, total = k.cell(k.constant(f32, -np.inf), "largest"), k.cell(f32, "total")
            for i in k.range(n, name="largest"):
                largest.set(k.maximum(logits.load(f32, i * 4), largest.get()))
            for size, i in k.strips(n, (k.isa.lanes, 1)):
                x = logits.load(f32[size], i * 4)
                score = sigmoid(k, x) if self.scores == "sigmoid" else exp_or_zero(
                    k, x - largest.get()
                )  # fmt: skip
                scores.store(score, i * 4)
                total.set(total.get() + score.sum())
            share = k.constant(f32, 1) if self.scores == "sigmoid" else 1.0 / total.get()
            for size, i in k.strips(n, (k.isa.lanes, 1)):
                score = scores.load(f32[size], i * 4) * share
                scores.store(score, i * 4)
                rank.store(score + a["bias"].load(f32[size], i * 4), i * 4)
            experts, weights = (a[name].at(token * n_used * 4) for name in ("experts", "weights"))
            total.set(0)
            for place in k.range(n_used, name="place"):
                best, best_score = k.cell(i64, "best"), k.cell(k.constant(f32, -np.inf), "score")
                for i in k.range(n, name="expert"):
                    score = rank.load(f32, i * 4)
                    better = score > best_score.get()
                    best.set(better.select(i, best.get()))
                    best_score.set(better.select(score, best_score.get()))
                chosen = best.get()
                weight = scores.load(f32, chosen * 4)
                rank.store(k.constant(f32, -np.inf), chosen * 4)
                experts.store(chosen.to(i32), place * 4)
                weights.store(weight, place * 4)
                total.set(total.get() + weight)
            factor = a["scale"]
            if self.normalised:
                factor = factor / k.maximum(total.get(), SMALLEST_SUM)
            for place in k.range(n_used, name="place"):
                weights.store(weights.load(f32, place * 4) * factor, place * 4)

    def reference(self, **a: Any) -> None:
        logits = a["logits"].astype(np.float64)
        if self.scores == "sigmoid":
            scores = 1 / (1 + np.exp(-logits))
        else:
            scores = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
        order = np.argsort(-(scores + a["bias"]), axis=1, kind="stable")[:, : a["n_used"]]
        weights = np.take_along_axis(scores, order, axis=1)
        if self.normalised:
            weights /= np.maximum(weights.sum(axis=1, keepdims=True), SMALLEST_SUM)
        a["experts"][...] = order
        a["weights"][...] = weights * a["scale"]


@dataclass(frozen=True)
class GroupByExpert(Op):
    """List the products of a pass by their experts; one item.

    experts: i32 (n_products,), n_used for each token; order: i32 (n_products,), numbers of products
    by expert, and in order for each; starts: i64 (n_experts + 1,), where each expert's begin.
    """

    parameters = {
        "experts": pointer,
        "order": pointer,
        "starts": pointer,
        "n_used": i64,
        "n_experts": i64,
        "n_rows": pointer,
    }
    writes = frozenset({"order", "starts"})

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, ALL_ROWS

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return 8 * MOST_EXPERTS

    def emit(self, k: OpKernel, **a: Any) -> None:
        n_products = a["n_rows"].load(i64) * a["n_used"]
        starts, next_place = a["starts"], k.scratch
        for expert in k.range(a["n_experts"] + 1, name="clear"):
            starts.store(k.constant(i64, 0), expert * 8)
        for product in k.range(n_products, name="count"):
            at = (a["experts"].load(i32, product * 4).to(i64) + 1) * 8
            starts.store(starts.load(i64, at) + 1, at)
        for expert in k.range(a["n_experts"], name="add"):
            start = starts.load(i64, expert * 8)
            next_place.store(start, expert * 8)
            starts.store(starts.load(i64, expert * 8 + 8) + start, expert * 8 + 8)
        for product in k.range(n_products, name="place"):
            at = a["experts"].load(i32, product * 4).to(i64) * 8
            place = next_place.load(i64, at)
            a["order"].store(product.to(i32), place * 4)
            next_place.store(place + 1, at)

    def reference(self, **a: Any) -> None:
        experts = a["experts"].reshape(-1)
        a["order"].reshape(-1)[...] = np.argsort(experts, kind="stable")
        a["starts"][0] = 0
        a["starts"][1:] = np.bincount(experts, minlength=a["n_experts"]).cumsum()


@dataclass(frozen=True)
class PerExpert(Op):
    """out[t][j] = x[t][j] * scales[e] + biases[e] for e = experts[t][j]; an item is one j.

    x, out: f32 (n_tokens, n_used, width); scales: f32 (n_experts,); biases: f32 (n_experts, width).
    """

    parameters = {
        "x": pointer,
        "experts": pointer,
        "scales": pointer,
        "biases": pointer,
        "out": pointer,
        "n_used": i64,
        "width": i64,
    }

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_used"], 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        width = a["width"]
        for pair in k.items("product"):
            expert = a["experts"].load(i32, pair * 4).to(i64)
            x, out = (a[name].at(pair * width * 4) for name in ("x", "out"))
            scale, biases = a["scales"].load(f32, expert * 4), a["biases"].at(expert * width * 4)
            for size, i in k.strips(width, (k.isa.lanes, 1)):
                y = x.load(f32[size], i * 4) * scale + biases.load(f32[size], i * 4)
                out.store(y, i * 4)

    def reference(self, **a: Any) -> None:
        x = a["x"].reshape(*a["experts"].shape, a["width"])
        out = x * a["scales"][a["experts"], None] + a["biases"][a["experts"]]
        a["out"][...] = out.reshape(a["out"].shape)


@dataclass(frozen=True)
class SumExperts(Op):
    """out[t] = sum over j of weights[t][j] * x[t][j], in the order of j; an item is a token.

    x: f32 (n_tokens, n_used, width); weights: f32 (n_tokens, n_used); out: f32 (n_tokens, width).
    """

    parameters = {"x": pointer, "weights": pointer, "out": pointer, "n_used": i64, "width": i64}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        width, n_used = a["width"], a["n_used"]
        for token in k.items("token"):
            x, weights = a["x"].at(token * n_used * width * 4), a["weights"].at(token * n_used * 4)
            for size, i in k.strips(width, (k.isa.lanes, 1)):
                total = k.cell(f32[size], "total")
                for j in k.range(n_used, name="expert"):
                    weight = weights.load(f32, j * 4)
                    total.set(k.fma(x.load(f32[size], (j * width + i) * 4), weight, total.get()))
                a["out"].store(total.get(), (token * width + i) * 4)

    def reference(self, **a: Any) -> None:
        x = a["x"].reshape(*a["weights"].shape, a["width"]).astype(np.float64)
        a["out"][...] = (x * a["weights"][..., None]).sum(axis=1)
