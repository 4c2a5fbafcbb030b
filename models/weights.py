"""A model's tensors, taken by name and checked against the role they play."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
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

    def split(self, *n_rows: int) -> tuple[Matrix, ...]:
        """So many rows each, one part after the other, all where they lie."""
        ends = list(itertools.accumulate(n_rows))
        return tuple(
            replace(
                self,
                n_out=n,
                packed=self.packed[end - n : end],
                bias=None if self.bias is None else self.bias[end - n : end],
            )
            for n, end in zip(n_rows, ends, strict=True)
        )


class Weights:
    """A file's tensors by role, under names that begin with `prefix`.

    Every method raises ModelError naming the tensor.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
        self._tensors, self._prefix = tensors, prefix

    def layer(self, i: int) -> Weights:
        """The tensors of one block."""
        return Weights(self._tensors, f"blk.{i}.")

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._tensors

    def n_rows(self, name: str) -> int:
        """Rows of a matrix, before anything else about it is known."""
        shape = self._tensor(name).shape
        if len(shape) != 2:
            raise ModelError(f"{self._prefix}{name}: shape {shape} is not that of a matrix")
        return shape[0]

    def vector(self, name: str, *shape: int) -> Floats:
        """F32 numbers of this shape, used where they lie."""
        tensor = self._tensor(name)
        if tensor.type.name != "F32" or tensor.shape != shape:
            found = f"{tensor.type.name} of shape {tensor.shape}"
            raise ModelError(f"{self._prefix}{name}: {found} should be F32 of shape {shape}")
        return np.frombuffer(tensor.data, np.float32).reshape(shape)

    def optional(self, name: str, *shape: int) -> Floats | None:
        """The same, or None where the file has no such tensor."""
        return self.vector(name, *shape) if name in self else None

    def linear(
        self, name: str, n_out: int, n_columns: int, *,
        scaled: bool = True, scale_after_bias: bool = False,
    ) -> Matrix:  # fmt: skip
        """`name`.weight (n_out, n_columns) of any type we compute with; `.bias`, `.scale` if there.

        `scaled`: whether the architecture knows of a scale here; `scale_after_bias`: the file's
        scale multiplies its bias, too.
        """
        weight = f"{name}.weight"
        tensor = self._tensor(weight)
        if tensor.shape != (n_out, n_columns):
            found = f"shape {tensor.shape} should be {(n_out, n_columns)}"
            raise ModelError(f"{self._prefix}{weight}: {found}")
        type = WEIGHT_TYPES.get(tensor.type.name)
        if type is None:
            known = ", ".join(WEIGHT_TYPES)
            found = f"no kernels for type {tensor.type.name}"
            raise ModelError(f"{self._prefix}{weight}: {found}; known: {known}")
        bias = self.optional(f"{name}.bias", n_out)
        scales = self.optional(f"{name}.scale", 1) if scaled else None
        scale = float(scales[0]) if scales is not None else 1.0
        if bias is not None and scale_after_bias:
            bias = bias * np.float32(scale)
        return Matrix(
            name=self._prefix + weight,
            type=type,
            n_out=n_out,
            n_columns=n_columns,
            packed=tensor.data.reshape(n_out, type.row_bytes(n_columns)),
            bias=bias,
            scale=scale,
        )

    def _tensor(self, name: str) -> Tensor:
        tensor = self._tensors.get(self._prefix + name)
        if tensor is None:
            raise ModelError(f"{self._prefix}{name} is missing")
        return tensor
