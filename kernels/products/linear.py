"""Products with packed weights as programs record them: which kernel serves is chosen on lowering.

Few rows, as decoding has, take GEMV kernels, which read the weights once, in order. For many, as a
prompt has, GEMM kernels unpack weights once, and multiply in matrix registers where a CPU has them.
"""

from __future__ import annotations

from dataclasses import dataclass

from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Op, are_few
from linnet.kernels.products.activations import Quantize
from linnet.kernels.products.base import MatrixProduct
from linnet.kernels.products.matmul import FloatMatMul, MatMul
from linnet.kernels.products.matvec import FloatMatVec, MatVec
from linnet.kernels.products.tilemul import RoundToBF16, TileMatMul
from linnet.kernels.quants import QuantType, WeightType

ACTIVATIONS = ("int8", "f32")


@dataclass(frozen=True)
class Pack(Quantize):
    """Activations as `Linear` takes them: in bf16 where it multiplies in matrix registers."""

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        return Quantize() if are_few(n_rows) or isa.tiles is None else RoundToBF16()


@dataclass(frozen=True)
class FloatLinear(MatrixProduct):
    """out (rows, n_out) = x (rows, n_columns) @ weights.T with x in f32."""

    parameters = FloatMatVec.parameters

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        return FloatMatVec(self.type, n_rows) if are_few(n_rows) else FloatMatMul(self.type)


@dataclass(frozen=True)
class Linear(MatrixProduct):
    """out (rows, n_out) = x (rows, n_columns) @ weights.T with x packed by `Pack`."""

    type: QuantType

    packing = Pack()
    parameters = MatVec.parameters

    @staticmethod
    def of(type: WeightType, *, activations: str) -> MatrixProduct:
        """With x packed; in f32 for "f32" `activations`, and for weights that are numbers."""
        if isinstance(type, QuantType) and activations != "f32":
            return Linear(type)
        return FloatLinear(type)

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        if are_few(n_rows):
            return MatVec(self.type, n_rows)
        return MatMul(self.type) if isa.tiles is None else TileMatMul(self.type)
