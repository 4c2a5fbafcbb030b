"""Products of many tokens with the experts they chose: the many-row kernels, expert by expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from linnet.kernels.ir import Pointer, Value, i64
from linnet.kernels.isa import ISA
from linnet.kernels.isa.tuning import MOST_TOKENS
from linnet.kernels.ops.base import (
    ALL_ROWS,
    Array,
    Float32s,
    Int,
    Int32s,
    Int64s,
    Numbers,
    OpKernel,
)
from linnet.kernels.products.activations import Doubles
from linnet.kernels.products.base import ExpertProduct, by_matrix
from linnet.kernels.products.matmul import Gemm
from linnet.kernels.products.panel import Tokens

TOGETHER = 512  # the most tokens that share an expert's unpacked rows: their sums stay in L2


@dataclass(frozen=True, slots=True)
class ExpertTokens(Tokens):
    """Those of an expert. `order`: the numbers of its products; `places`: where their x lie."""

    order: Int32s
    places: Int64s

    def x_of(self, i: Value) -> Pointer:
        return self.x.at(self.places.load(i))

    def out_of(self, i: Value) -> Numbers:
        return self.out.at(self.order.index(i) * self.n_out)

    def find(self, k: OpKernel, n_sharing: Value) -> None:
        """Fill `places`, and those of some more tokens, which are the last again."""
        for i in k.range(self.n + MOST_TOKENS, name="place"):
            product = self.order.index(k.minimum(i, self.n - 1))
            self.places.store(product // n_sharing * self.x_bytes, i)


@dataclass(frozen=True)
class ExpertMatMul(ExpertProduct):
    """What `gemm` computes, for the tokens of each expert; an item is a panel of an expert's rows.

    for expert of which items has panels:
        for 512 of its tokens:
            find their x
            for panel:  GEMM of weights[expert][panel] and them
    """

    gemm: Gemm

    @property
    def symbol(self) -> str:
        return f"experts_{self.gemm.symbol}"

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_experts"] * -(-sizes["n_out"] // self.gemm.width(isa)), ALL_ROWS

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return isa.tuning.items_of(self.gemm.width(isa) * self.type.row_bytes(self.n_columns))

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return self.gemm.scratch_bytes(isa, TOGETHER) + 8 * (TOGETHER + MOST_TOKENS)

    def emit(
        self, k: OpKernel, weights: Pointer, x: Pointer, out: Float32s, n_columns: Int, n_out: Int,
        experts: Int32s, order: Int32s, starts: Int64s, n_experts: Int, n_used: Int,
        n_sharing: Int, expert_bytes: Int,
    ) -> None:  # fmt: skip
        panel = self.gemm.panel(k, n_columns, n_out)
        places = Numbers(k.scratch.at(self.gemm.scratch_bytes(k.isa, TOGETHER)), i64)
        x_bytes = self.gemm.x_bytes(n_columns)
        n_panels = (n_out + (panel.width - 1)) // panel.width
        for expert, (start, end) in by_matrix(k, n_panels, "expert"):
            matrix = weights.at(expert * expert_bytes)
            first, last = starts.index(expert), starts.index(expert + 1)
            for product in k.range(last, first, TOGETHER, name="products"):
                n = k.minimum(last - product, TOGETHER)
                tokens = ExpertTokens(n, x, x_bytes, out, n_out, order.at(product), places)
                tokens.find(k, n_sharing)
                are_few = n <= self.gemm.few
                if self.gemm.few:
                    with k.when(are_few):
                        for i in k.range(end, start, name="panel"):
                            self.gemm.multiply_few(panel, matrix, i * panel.width, tokens)
                with k.when(are_few ^ 1):
                    for i in k.range(end, start, name="panel"):
                        self.gemm.multiply(panel, matrix, i * panel.width, tokens)

    def times(self, x: Array, weights: Array, n_columns: int) -> Doubles:
        return self.gemm.times(x, weights, n_columns)
