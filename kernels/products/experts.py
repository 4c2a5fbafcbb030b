"""Products with the packed weights of the experts that were chosen, and of no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import Pointer, Value, f32, i32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import ALL_ROWS, Op, OpKernel
from linnet.kernels.products.activations import Quantize, packed_bytes
from linnet.kernels.products.linear import Product
from linnet.kernels.products.matvec import FloatMatVec, MatVec, RowsOfWeights
from linnet.kernels.quants import WeightType

TOGETHER = 8  # products that share an expert's unpacked rows
WORTH_COPYING = 2  # products; so few are made one by one
ROWS = 128  # of weights, whose results are copied at a time


@dataclass(frozen=True)
class FloatExpertLinear(RowsOfWeights, Product):
    """out[t][j] = weights[experts[t][j]] @ x, with x in f32; an item is a row of one product.

    weights: packed (n_experts, n_out, row_bytes), `expert_bytes` from one expert to the next;
    experts: i32 (n_tokens, n_used), with `order` and `starts` of `GroupByExpert`; out: f32
    (n_tokens, n_used, n_out). Rows of x: one for every `n_sharing` products that follow each other.

        for product t, j of which items has rows:
            out[t][j][rows] = FloatMatVec of weights[experts[t][j]][rows] and x[product / n_sharing]
    """

    type: WeightType
    n_columns: int = 0  # as the step says, too

    few_rows: ClassVar[Callable[..., Op]] = FloatMatVec
    parameters = {
        **FloatMatVec.parameters,
        "experts": pointer,
        "order": pointer,
        "starts": pointer,
        "n_experts": i64,
        "n_used": i64,
        "n_sharing": i64,
        "expert_bytes": i64,
    }

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        return self if n_rows is not None else GroupedLinear(self.type, self.n_columns, self)

    @property
    def x_bytes(self) -> int:
        """What a row of x takes."""
        return 4 * self.n_columns

    def read(self, n_rows: int, **a: Any) -> npt.NDArray[np.uint8]:
        """The matrices of as many experts as there are if no two rows choose the same."""
        weights: npt.NDArray[np.uint8] = a["weights"][: n_rows * a["n_used"]]
        return weights

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_used"] * sizes["n_out"], 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        n_out, first, last = a["n_out"], k.first, k.last
        for product in k.range((last + (n_out - 1)) // n_out, first // n_out, name="product"):
            # The rows of this product among our items are the items of a kernel within ours.
            k.first = k.maximum(first - product * n_out, 0)
            k.last = k.minimum(last - product * n_out, n_out)
            expert = a["experts"].load(i32, product * 4).to(i64)
            self.multiply(k, a, a["weights"].at(expert * a["expert_bytes"]), product)
        k.first, k.last = first, last

    def multiply(self, k: OpKernel, a: dict[str, Any], weights: Pointer, product: Value) -> None:
        """The rows `k.first` to `k.last` of one product."""
        x = a["x"].at(product // a["n_sharing"] * self.x_bytes)
        out = a["out"].at(product * a["n_out"] * 4)
        sizes = {"n_columns": a["n_columns"], "n_out": a["n_out"]}
        self.few_rows(self.type, 1).emit(k, weights=weights, x=x, out=out, **sizes)

    def reference(self, **a: Any) -> None:
        product, out = self.few_rows(self.type, 1), a["out"].reshape(-1, 1, a["n_out"])
        rows = a["x"].reshape(len(out) // a["n_sharing"], -1)
        own = {name: a[name] for name in product.parameters}
        for i, expert in enumerate(a["experts"].reshape(-1)):
            x = rows[i // a["n_sharing"]][None]
            product.reference(**own | {"weights": a["weights"][expert], "x": x, "out": out[i]})


@dataclass(frozen=True)
class ExpertLinear(FloatExpertLinear):
    """The same with x packed by `Quantize`."""

    packing = Quantize()
    in_f32 = FloatExpertLinear
    few_rows = MatVec

    @property
    def x_bytes(self) -> int:
        return int(packed_bytes(self.n_columns))


@dataclass(frozen=True)
class GroupedLinear(RowsOfWeights):
    """`ExpertLinear` for many products: those of an expert eight at a time; an item is a row of an
    expert. An expert's rows are unpacked once for eight products, and each comes out as it would
    alone.

        for expert of which items has rows:
            for eight of its products:
                copy their x side by side
                for 128 of the rows:
                    MatVec of weights[expert][rows] and the eight; copy to out[product][rows]
    """

    type: WeightType
    n_columns: int
    single: FloatExpertLinear

    parameters = FloatExpertLinear.parameters

    @property
    def symbol(self) -> str:
        return f"grouped_{self.single.symbol}"

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_experts"] * sizes["n_out"], ALL_ROWS

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return TOGETHER * (self.single.x_bytes + 4 * ROWS)

    def emit(self, k: OpKernel, **a: Any) -> None:
        n_out, first, last = a["n_out"], k.first, k.last
        for expert in k.range((last + (n_out - 1)) // n_out, first // n_out, name="expert"):
            rows = k.maximum(first - expert * n_out, 0), k.minimum(last - expert * n_out, n_out)
            start, end = (a["starts"].load(i64, expert * 8 + at) for at in (0, 8))
            weights = a["weights"].at(expert * a["expert_bytes"])
            for place in k.range(end, start, TOGETHER, name="products"):
                count = k.minimum(end - place, TOGETHER)
                order = a["order"].at(place * 4)
                with k.when(count > WORTH_COPYING):
                    self._together(k, a, weights, rows, order, count)
                with k.when(count <= WORTH_COPYING):
                    for i in k.range(count, name="product"):
                        k.first, k.last = rows
                        self.single.multiply(k, a, weights, order.load(i32, i * 4).to(i64))
        k.first, k.last = first, last

    def _together(
        self, k: OpKernel, a: dict[str, Any], weights: Pointer, rows: tuple[Value, Value],
        order: Pointer, count: Value,
    ) -> None:  # fmt: skip
        """Up to eight products; what is missing of eight is left as the last eight had it."""
        x_bytes, x = self.single.x_bytes, k.scratch
        out = k.scratch.at(TOGETHER * x_bytes)
        for i in k.range(TOGETHER, name="copy"):
            product = order.load(i32, k.minimum(i, count - 1) * 4).to(i64)
            source = a["x"].at(product // a["n_sharing"] * x_bytes)
            for size, at in k.strips(k.constant(i64, x_bytes // 4), (k.isa.lanes, 1)):
                x.at(i * x_bytes).store(source.load(f32[size], at * 4), at * 4)
        kernel = self.single.few_rows(self.type, TOGETHER)
        sizes = {"n_columns": a["n_columns"], "n_out": k.constant(i64, ROWS)}
        for row in k.range(rows[1], rows[0], ROWS, name="rows"):
            k.first, k.last = row, k.minimum(row + ROWS, rows[1])
            n_rows = k.last - row
            kernel.emit(k, weights=weights, x=x, out=out.at(row * -4), **sizes)
            for i in k.range(count, name="copy"):
                product = order.load(i32, i * 4).to(i64)
                target = a["out"].at((product * a["n_out"] + row) * 4)
                for size, at in k.strips(n_rows, (k.isa.lanes, 1)):
                    target.store(out.at(i * (4 * ROWS)).load(f32[size], at * 4), at * 4)

    def reference(self, **a: Any) -> None:
        self.single.reference(**a)
