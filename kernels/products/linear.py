"""Products with packed weights as programs record them: which kernel serves is chosen on lowering.

Few rows, as decoding has, take kernels that read the weights once, in order. For many, as a prompt
has, weights are unpacked once and multiplied in matrix registers where a CPU has them.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

import numpy as np
import numpy.typing as npt

from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Op
from linnet.kernels.products.activations import Quantize
from linnet.kernels.products.matmul import FloatMatMul, MatMul
from linnet.kernels.products.matvec import FloatMatVec, MatVec, RowsOfWeights
from linnet.kernels.products.tilemul import RoundToBF16, TileMatMul
from linnet.kernels.quants import QuantType, WeightType

MOST_FEW_ROWS = 8


@dataclass(frozen=True)
class Pack(Op):
    """x f32 (rows, width) -> out u8 (rows, packed_bytes(width)), as `Linear` takes it."""

    parameters = Quantize.parameters

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        return Quantize() if _are_few(n_rows) or isa.tiles is None else RoundToBF16()

    def reference(self, **a: Any) -> None:
        Quantize().reference(**a)


@dataclass(frozen=True)
class Product(Op):
    """An op that multiplies by packed weights: x as `packing` packs it, or in f32 for None.

    Every product is two ops: with packed x, and `in_f32` for the exact mode and for weights that
    are numbers in themselves.
    """

    type: WeightType

    parameters = RowsOfWeights.parameters
    packing: ClassVar[Op | None] = None
    in_f32: ClassVar[builtins.type[Product]]

    @classmethod
    def of(cls, type: WeightType, *, exact: bool) -> Product:
        """This product, which takes packed x, or the one that takes x in f32."""
        return cls(type) if isinstance(type, QuantType) and not exact else cls.in_f32(type)

    def read(self, n_rows: int, **a: Any) -> npt.NDArray[np.uint8]:
        """Of a step's weights, as many as `n_rows` rows, at least one, multiply by."""
        weights: npt.NDArray[np.uint8] = a["weights"]
        return weights


@dataclass(frozen=True)
class FloatLinear(Product):
    """out (rows, n_out) = x (rows, n_columns) @ weights.T with x in f32."""

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        return FloatMatVec(self.type, n_rows) if _are_few(n_rows) else FloatMatMul(self.type)

    def reference(self, **a: Any) -> None:
        FloatMatVec(self.type, 1).reference(**a)


@dataclass(frozen=True)
class Linear(Product):
    """out (rows, n_out) = x (rows, n_columns) @ weights.T with packed x."""

    type: QuantType

    packing = Pack()
    in_f32 = FloatLinear

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        if _are_few(n_rows):
            return MatVec(self.type, n_rows)
        return MatMul(self.type) if isa.tiles is None else TileMatMul(self.type)

    def reference(self, **a: Any) -> None:
        MatVec(self.type, 1).reference(**a)


def _are_few(n_rows: int | None) -> TypeGuard[int]:
    return n_rows is not None and n_rows <= MOST_FEW_ROWS
