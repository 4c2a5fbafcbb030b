"""Products with packed weights as programs record them: few or many rows is chosen on lowering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from linnet.kernels.matmul import FloatMatMul, MatMul
from linnet.kernels.matvec import FloatMatVec, MatVec
from linnet.kernels.op import Op
from linnet.kernels.quants import QuantType, WeightType

MOST_FEW_ROWS = 8


@dataclass(frozen=True)
class Linear(Op):
    """out (rows, n_out) = x (rows, n_columns) @ weights.T with x quantised to int8."""

    type: QuantType

    parameters = MatVec.parameters

    def lowered(self, n_rows: int | None) -> Op:
        if n_rows is not None and n_rows <= MOST_FEW_ROWS:
            return MatVec(self.type, n_rows)
        return MatMul(self.type)

    def reference(self, **a: Any) -> None:
        MatVec(self.type, 1).reference(**a)


@dataclass(frozen=True)
class FloatLinear(Op):
    """out (rows, n_out) = x (rows, n_columns) @ weights.T with x in f32."""

    type: WeightType

    parameters = FloatMatVec.parameters

    def lowered(self, n_rows: int | None) -> Op:
        if n_rows is not None and n_rows <= MOST_FEW_ROWS:
            return FloatMatVec(self.type, n_rows)
        return FloatMatMul(self.type)

    def reference(self, **a: Any) -> None:
        FloatMatVec(self.type, 1).reference(**a)
