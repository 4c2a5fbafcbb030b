"""Mixtures of experts: each token is sent to a few of many networks (arXiv:1701.06538).

`TopExperts` chooses them, `ExpertLinear` multiplies by the chosen ones' weights alone, `PerExpert`
and `SumExperts` apply what belongs to each and add them up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from linnet.kernels.activations import Quantize, packed_bytes
from linnet.kernels.attention import exp_or_zero
from linnet.kernels.elementwise import sigmoid
from linnet.kernels.ir import f32, i32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.linear import Product
from linnet.kernels.matvec import FloatMatVec, MatVec, RowsOfWeights
from linnet.kernels.op import Op, OpKernel
from linnet.kernels.quants import WeightType

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
    MOST_EXPERTS: ClassVar[int] = 4096

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return 2 * 4 * self.MOST_EXPERTS

    def emit(self, k: OpKernel, **a: Any) -> None:
        n, n_used = a["n_experts"], a["n_used"]
        scores, rank = k.scratch, k.scratch.at(4 * self.MOST_EXPERTS)
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
class FloatExpertLinear(RowsOfWeights, Product):
    """out[t][j] = weights[experts[t][j]] @ x, with x in f32; an item is a row of one product.

    weights: packed (n_experts, n_out, row_bytes), `expert_bytes` from one expert to the next;
    experts: i32 (n_tokens, n_used); out: f32 (n_tokens, n_used, n_out). Rows of x: one for every
    `n_sharing` products that follow each other.

        for product t, j of which items has rows:
            out[t][j][rows] = FloatMatVec of weights[experts[t][j]][rows] and x[product / n_sharing]
    """

    type: WeightType

    few_rows: ClassVar[Callable[..., Op]] = FloatMatVec
    parameters = {
        **FloatMatVec.parameters,
        "experts": pointer,
        "n_used": i64,
        "n_sharing": i64,
        "expert_bytes": i64,
    }

    @staticmethod
    def bytes_of_x(n_columns: Any) -> Any:
        """What a row of x takes (of an int or a Value)."""
        return n_columns * 4

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_used"] * sizes["n_out"], 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        product, n_out, n_columns = self.few_rows(self.type, 1), a["n_out"], a["n_columns"]
        own = {name: a[name] for name in product.parameters}
        first, last = k.first, k.last
        for pair in k.range((last + (n_out - 1)) // n_out, first // n_out, name="product"):
            # The rows of this product among our items are the items of a kernel within ours.
            k.first = k.maximum(first - pair * n_out, 0)
            k.last = k.minimum(last - pair * n_out, n_out)
            expert, row = a["experts"].load(i32, pair * 4).to(i64), pair // a["n_sharing"]
            own["weights"] = a["weights"].at(expert * a["expert_bytes"])
            own["out"] = a["out"].at(pair * n_out * 4)
            own["x"] = a["x"].at(row * self.bytes_of_x(n_columns))
            product.emit(k, **own)
        k.first, k.last = first, last

    def reference(self, **a: Any) -> None:
        product = self.few_rows(self.type, 1)
        out = a["out"].reshape(-1, 1, a["n_out"])
        own = {name: a[name] for name in product.parameters}
        for pair, expert in enumerate(a["experts"].reshape(-1)):
            row = pair // a["n_sharing"]
            rows = a["x"].reshape(len(a["x"]) * a["n_used"] // a["n_sharing"], -1)
            own["x"] = rows[row : row + 1]
            product.reference(**own | {"weights": a["weights"][expert], "out": out[pair]})


@dataclass(frozen=True)
class ExpertLinear(FloatExpertLinear):
    """The same with x packed by `Quantize`."""

    packing = Quantize()
    in_f32 = FloatExpertLinear
    few_rows = MatVec

    @staticmethod
    def bytes_of_x(n_columns: Any) -> Any:
        return packed_bytes(n_columns)


@dataclass(frozen=True)
class PerExpert(Op):
    """out[t][j] = x[t][j] * scales[e] + biases[e] for e = experts[t][j]; an item is a token.

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
