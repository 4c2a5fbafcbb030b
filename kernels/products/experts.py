"""Products with the packed weights of the experts that were chosen, and of no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from linnet.kernels.ir import Pointer
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Float32s, Int, Int32s, Int64s, Op, OpKernel
from linnet.kernels.products.activations import Quantize, packed_bytes
from linnet.kernels.products.base import ExpertProduct, by_matrix
from linnet.kernels.products.expert_matmul import ExpertMatMul
from linnet.kernels.products.matmul import FloatMatMul, Gemm, MatMul
from linnet.kernels.products.matvec import FloatMatVec, Gemv, MatVec, rows_at_a_time
from linnet.kernels.quants import QuantType, WeightType


@dataclass(frozen=True)
class FloatExpertLinear(ExpertProduct):
    """Each product alone, with x in f32; an item is a row of one product.

    for product t, j of which items has rows:
        for row of these:
            out[t][j][row] = weights[experts[t][j]][row] @ x[product / n_sharing]
    """

    gemv: ClassVar[Callable[..., Gemv]] = FloatMatVec
    gemm: ClassVar[Callable[..., Gemm]] = FloatMatMul

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        if n_rows is not None:
            return self
        return ExpertMatMul(self.type, self.n_columns, self.gemm(self.type))

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_used"] * sizes["n_out"], 1

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return rows_at_a_time(self.type, isa, self.n_columns)

    def emit(
        self, k: OpKernel, weights: Pointer, x: Pointer, out: Float32s, n_columns: Int, n_out: Int,
        experts: Int32s, order: Int32s, starts: Int64s, n_experts: Int, n_used: Int,
        n_sharing: Int, expert_bytes: Int,
    ) -> None:  # fmt: skip
        x_bytes = 4 * n_columns if self.packing is None else packed_bytes(n_columns)
        gemv = self.gemv(self.type, 1)
        for product, rows in by_matrix(k, n_out, "product"):
            matrix = weights.at(experts.index(product) * expert_bytes)
            x_row, results = x.at(product // n_sharing * x_bytes), out.at(product * n_out)
            for row, (total,) in gemv.products(k, matrix, rows, x_row, n_columns):
                results.store(total, row)


@dataclass(frozen=True)
class ExpertLinear(FloatExpertLinear):
    """The same with x packed by `Quantize`."""

    packing = Quantize()
    gemv = MatVec
    gemm = MatMul

    @staticmethod
    def of(type: WeightType, n_columns: int, *, activations: str) -> ExpertProduct:
        """With x packed; in f32 for "f32" `activations`, and for weights that are numbers."""
        packed = isinstance(type, QuantType) and activations != "f32"
        return (ExpertLinear if packed else FloatExpertLinear)(type, n_columns)
