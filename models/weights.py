"""A model's tensors, taken by name and checked against the role they play."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from linnet.kernels.quants import WEIGHT_TYPES, WeightType
from linnet.models.errors import ModelError

Floats = npt.NDArray[np.float32]


class NamedType(Protocol):
    @property
    def name(self) -> str: ...


class Tensor(Protocol):
    """What a file reader gives: shape slowest first, data as flat bytes."""

    @property
    def type(self) -> NamedType: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data(self) -> npt.NDArray[np.uint8]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """A packed matrix (n_out, n_columns) where it lies in the file, with what may go with it.

    `packed`: uint8 (n_out, row_bytes). The product is `scale` * packed @ x + `bias`.
    """

    name: str
    type: WeightType
    n_out: int
    n_columns: int
    packed: npt.NDArray[np.uint8]
    bias: Floats | None = None
    scale: float = 1.0


class Weights:
    """A file's tensors by role. Every method raises ModelError naming the tensor."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def n_rows(self, name: str) -> int:
        """Rows of a matrix, before anything else about it is known."""
        shape = self._tensor(name).shape
        if len(shape) != 2:
            raise ModelError(f"{name}: shape {shape} is not that of a matrix")
        return shape[0]

    def vector(self, name: str, length: int) -> Floats:
        """An F32 vector (length,), used where it lies."""
        tensor = self._tensor(name)
        if tensor.type.name != "F32" or tensor.shape != (length,):
            found = f"{tensor.type.name} of shape {tensor.shape}"
            raise ModelError(f"{name}: {found} should be F32 of shape {(length,)}")
        return np.frombuffer(tensor.data, np.float32)

    def linear(
        self, name: str, n_out: int, n_columns: int, *, scale_after_bias: bool = False
    ) -> Matrix:
        """`name`.weight (n_out, n_columns) of any type we compute with; `.bias`, `.scale` if there.

        `scale_after_bias`: the file's scale multiplies its bias, too.
        """
        weight = f"{name}.weight"
        tensor = self._tensor(weight)
        if tensor.shape != (n_out, n_columns):
            raise ModelError(f"{weight}: shape {tensor.shape} should be {(n_out, n_columns)}")
        type = WEIGHT_TYPES.get(tensor.type.name)
        if type is None:
            known = ", ".join(WEIGHT_TYPES)
            raise ModelError(f"{weight}: no kernels for type {tensor.type.name}; known: {known}")
        bias = self.vector(f"{name}.bias", n_out) if f"{name}.bias" in self else None
        scale = self.vector(f"{name}.scale", 1)[0] if f"{name}.scale" in self else np.float32(1)
        if bias is not None and scale_after_bias:
            bias = bias * scale
        return Matrix(
            name=weight,
            type=type,
            n_out=n_out,
            n_columns=n_columns,
            packed=tensor.data.reshape(n_out, type.row_bytes(n_columns)),
            bias=bias,
            scale=float(scale),
        )

    def _tensor(self, name: str) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ModelError(f"{name} is missing")
        return tensor
