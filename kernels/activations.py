"""Activations as products take them: int8 in groups of 32, under one scale each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import f32, i8, i32, pointer, u32
from linnet.kernels.isa import ISA
from linnet.kernels.op import Op, OpKernel

# Adding 1.5 * 2^23 leaves a small number's nearest integer, ties to even, in the low bits.
ROUNDING = 12582912.0
ROUNDING_BITS = 0x4B400000


@dataclass(frozen=True)
class Quantize(Op):
    """x f32 (n,) -> lanes i8 (n,), scales f32 (n/32,), sums f32 (n/16,); an item is 32 numbers.

        for group of 32 in items:
            lanes = round(x * 127 / max |x|)             # to nearest, ties to even
            scale = sum(x * lanes) / sum(lanes * lanes)  # least squares: a little off max |x| / 127
            sums  = scale * (sum of each 16 lanes)       # what a type's offset is multiplied by

    A NaN or infinity in a group makes every product with that group NaN.
    """

    parameters = {
        "x": pointer,
        "lanes": pointer,
        "scales": pointer,
        "sums": pointer,
    }
    writes = frozenset({"lanes", "scales", "sums"})

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 0, sizes["x"] // 32

    def chunk(self, **sizes: Any) -> tuple[int, int]:
        return 16, 16

    def emit(self, k: OpKernel, **a: Any) -> None:
        for group in k.items("group"):
            at = group * 32
            x = a["x"].load(f32[32], at * 4)
            # As integers, magnitudes order like the floats, and NaN is above them all.
            largest = (x.bits(u32[32]) & 0x7FFFFFFF).bits(i32[32]).max().bits(f32)
            inverse = (largest > 0.0).select(127.0 / largest, 0.0)
            rounded = (x * inverse + ROUNDING).bits(i32[32]) - ROUNDING_BITS
            lanes = rounded.to(f32)
            scale = (x * lanes).sum() / k.maximum((lanes * lanes).sum(), 1.0)
            a["lanes"].store(rounded.to(i8), at)
            a["scales"].store(scale, group * 4)
            for half in range(2):
                total = rounded[16 * half : 16 * half + 16].sum().to(f32) * scale
                a["sums"].store(total, group * 8 + 4 * half)

    def reference(self, **a: Any) -> None:
        groups = a["x"].reshape(*a["scales"].shape, 32)
        largest = np.abs(groups).max(axis=-1)
        inverse = np.zeros_like(largest)
        np.divide(np.float32(127), largest, out=inverse, where=largest > 0)
        lanes = np.rint(groups * inverse[..., None])
        squares = np.maximum((lanes * lanes).sum(axis=-1), 1)
        a["scales"][...] = (groups * lanes).sum(axis=-1) / squares
        a["lanes"][...] = lanes.reshape(a["lanes"].shape)
        totals = lanes.reshape(*a["scales"].shape, 2, 16).sum(axis=-1) * a["scales"][..., None]
        a["sums"][...] = totals.reshape(a["sums"].shape)


def dequantized(lanes: npt.NDArray[np.int8], scales: npt.NDArray[np.float32]) -> Any:
    """The float64 activations that int8 lanes (..., n) and scales (..., n / 32) stand for."""
    spread = np.repeat(scales.astype(np.float64), 32, axis=-1)
    return lanes * spread
