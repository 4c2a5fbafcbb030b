"""Products with packed weights as programs record them: which kernel serves is chosen on lowering.

Few rows, as decoding has, take kernels that read the weights once, in order. For many, as a prompt
has, weights are unpacked once and multiplied in matrix registers where a CPU has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

from linnet.kernels.activations import Quantize
from linnet.kernels.isa import ISA
from linnet.kernels.matmul import FloatMatMul, MatMul
from linnet.kernels.matvec import FloatMatVec, MatVec
from linnet.kernels.op import Op
from linnet.kernels.quants import QuantType, WeightType
from linnet.kernels.tilemul import RoundToBF16, TileMatMul

MOST_FEW_ROWS = 8


@dataclass(frozen=True)
class Pack(Op):
    """x f32 (rows, width) -> out u8 (rows, packed_bytes(width)), as `Linear` takes it."""

    parameters = Quantize.parameters

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        return Quantize() if _are_few(n_rows) or isa.tiles is None else RoundToBF16()

    def reference(self, **a: Any) -> None:
        Quantize().reference(**a)


class Product(Op):
    """out (rows, n_out) = x (rows, n_columns) @ weights.T, x being in f32 or packed by `Pack`."""

    type: WeightType

    @classmethod
    def of(cls, type: WeightType, *, exact: bool) -> Product:
        """`exact`: with x in f32, as all products are whose weights are numbers in themselves."""
        return Linear(type) if isinstance(type, QuantType) and not exact else FloatLinear(type)

    @property
    def takes_packed(self) -> bool:
        return isinstance(self, Linear)


@dataclass(frozen=True)
class Linear(Product):
    """A product with packed x."""

    type: QuantType

    parameters = MatVec.parameters

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        if _are_few(n_rows):
            return MatVec(self.type, n_rows)
        return MatMul(self.type) if isa.tiles is None else TileMatMul(self.type)

    def reference(self, **a: Any) -> None:
        MatVec(self.type, 1).reference(**a)


@dataclass(frozen=True)
class FloatLinear(Product):
    """A product with x in f32."""

    type: WeightType

    parameters = FloatMatVec.parameters

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        return FloatMatVec(self.type, n_rows) if _are_few(n_rows) else FloatMatMul(self.type)

    def reference(self, **a: Any) -> None:
        FloatMatVec(self.type, 1).reference(**a)


def _are_few(n_rows: int | None) -> TypeGuard[int]:
    return n_rows is not None and n_rows <= MOST_FEW_ROWS
