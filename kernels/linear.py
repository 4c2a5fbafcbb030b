"""Products with packed weights as programs record them: few or many rows is chosen on lowering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from linnet.kernels.matmul import FloatMatMul, MatMul
from linnet.kernels.matvec import FloatMatVec, MatVec
from linnet.kernels.op import Op
from linnet.kernels.quants import WeightType

MOST_FEW_ROWS = 8


@dataclass(frozen=True)
class Linear(Op):
    """out (rows, n_out) = x (rows, n_columns) @ weights.T with x packed by `Quantize`."""

    type: WeightType

    few_rows: ClassVar[Callable[..., Op]] = MatVec
    many_rows: ClassVar[Callable[..., Op]] = MatMul
    parameters = MatVec.parameters

    def lowered(self, n_rows: int | None) -> Op:
        if n_rows is not None and n_rows <= MOST_FEW_ROWS:
            return self.few_rows(self.type, n_rows)
        return self.many_rows(self.type)

    def reference(self, **a: Any) -> None:
        self.few_rows(self.type, 1).reference(**a)


@dataclass(frozen=True)
class FloatLinear(Linear):
    """out (rows, n_out) = x (rows, n_columns) @ weights.T with x in f32."""

    few_rows = FloatMatVec
    many_rows = FloatMatMul
    parameters = FloatMatVec.parameters
