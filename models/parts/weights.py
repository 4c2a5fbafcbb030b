"""A model's tensors, taken by name and checked against the role they play."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from linnet.kernels.quants import WEIGHT_TYPES, WeightType
from linnet.models.parts.errors import ModelError

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
    """A packed matrix (n_out, n_columns), or one for each expert, where it lies in the file.

    `packed`: uint8 (n_out, row_bytes); `bias`: f32 (n_out,); `scale`: f32 (). Of experts, all have
    a dimension (n_experts,) before these. The product is `scale` * packed @ x + `bias`.
    """

    name: str
    type: WeightType
    n_out: int
    n_columns: int
    packed: npt.NDArray[np.uint8]
    bias: Floats | None = None
    scale: Floats | None = None

    def split(self, *n_rows: int) -> tuple[Matrix, ...]:
        """So many rows each, one part after the other, all where they lie."""
        ends = list(itertools.accumulate(n_rows))
        return tuple(
            replace(
                self,
                n_out=n,
                packed=self.packed[..., end - n : end, :],
                bias=None
                if self.bias is None
                else np.ascontiguousarray(self.bias[..., end - n : end]),
            )
            for n, end in zip(n_rows, ends, strict=True)
        )


class Weights:
    """A file's tensors by role, under names that begin with `prefix`; remembers those asked for.

    Every method raises ModelError naming the tensor. `left_out`: tensors of these names are not to
    be used, whatever they hold.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors, self._prefix = tensors, ""
        self._asked, self.left_out = set[str](), set[str]()

    def layer(self, i: int) -> Weights:
        """The tensors of one block."""
        layer = copy(self)
        layer._prefix = f"blk.{i}."
        return layer

    def leave_out(self, name: str) -> None:
        """Have a tensor count as missing, as another engine does that loads it."""
        self.left_out.add(self._prefix + name)

    def unasked(self) -> dict[str, Tensor]:
        """All tensors that nobody has asked for, by their full names."""
        return {name: t for name, t in self._tensors.items() if name not in self._asked}

    def is_all(self, name: str, value: float | None) -> bool:
        """Whether a tensor is F32 and every number in it this one."""
        tensor = self._tensors[self._prefix + name]
        is_f32 = tensor.type.name == "F32" and value is not None
        return is_f32 and bool((np.frombuffer(tensor.data, np.float32) == value).all())

    def __contains__(self, name: str) -> bool:
        name = self._prefix + name
        return name in self._tensors and name not in self.left_out

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

    def matrix(
        self, name: str, *shape: int, scaled: bool = True, scale_after_bias: bool = False
    ) -> Matrix:
        """`name`.weight (n_out, n_columns) or (n_experts, n_out, n_columns), of any type we compute
        with; `name`.bias (n_out,) or (n_experts, n_out) and `name`.scale (1,) or (n_experts,), if
        there.

        `scaled`: the architecture has a scale here, as any has for NVFP4, of whose numbers it is a
        part; `scale_after_bias`: which multiplies the bias.
        """
        *experts, n_out, n_columns = shape
        type, packed = self._packed(f"{name}.weight", *shape)
        bias = self.optional(f"{name}.bias", *experts, n_out)
        scaled = scaled or type.name == "NVFP4"
        scale = self.optional(f"{name}.scale", *(experts or [1])) if scaled else None
        if scale is not None:
            scale = scale.reshape(experts)
            if bias is not None and scale_after_bias:
                bias = bias * scale[..., np.newaxis]
        weight = f"{self._prefix}{name}.weight"
        return Matrix(weight, type, n_out, n_columns, packed, bias, scale)

    def row(self, name: str, n_columns: int) -> Matrix:
        """`name`.weight (n_columns,): a matrix of one row."""
        type, packed = self._packed(f"{name}.weight", n_columns)
        return Matrix(f"{self._prefix}{name}.weight", type, 1, n_columns, packed.reshape(1, -1))

    def _packed(self, name: str, *shape: int) -> tuple[WeightType, npt.NDArray[np.uint8]]:
        """A tensor of this shape and of a type we compute with: packed rows (..., row_bytes)."""
        tensor = self._tensor(name)
        of_one = shape[1:] if shape[0] == 1 else shape  # a slowest dimension of 1 may be left out
        if tensor.shape not in (shape, of_one):
            raise ModelError(f"{self._prefix}{name}: shape {tensor.shape} should be {shape}")
        if 0 in shape:
            raise ModelError(f"{self._prefix}{name}: shape {shape} holds no weights")
        type = WEIGHT_TYPES.get(tensor.type.name)
        if type is None:
            found = f"no kernels for type {tensor.type.name}; known: {', '.join(WEIGHT_TYPES)}"
            raise ModelError(f"{self._prefix}{name}: {found}")
        return type, tensor.data.reshape(*shape[:-1], type.row_bytes(shape[-1]))

    def _tensor(self, name: str) -> Tensor:
        tensor = self._tensors.get(self._prefix + name)
        self._asked.add(self._prefix + name)
        if tensor is None:
            raise ModelError(f"{self._prefix}{name} is missing")
        return tensor
