"""F32, F16 and BF16: one number a weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import Pointer, Value, f16, f32, u16, u32
from linnet.kernels.quants.base import Bytes, Floats, FloatType
from linnet.kernels.quants.search import HALF_MAX, check_range


class F32(FloatType):
    """IEEE 754 single precision."""

    name, id = "F32", 0
    fields = {"w": ("<f4", 1)}

    def load(self, packed: Pointer, lanes: int) -> Value:
        return packed.load(f32[lanes])

    def decode(self, blocks: npt.NDArray[Any]) -> Floats:
        return blocks["w"]

    def quantize(self, rows: Floats) -> Bytes:
        return np.ascontiguousarray(rows, np.float32).view(np.uint8)


class F16(FloatType):
    """IEEE 754 half precision."""

    name, id = "F16", 1
    fields = {"w": ("<f2", 1)}

    def load(self, packed: Pointer, lanes: int) -> Value:
        return packed.load(f16[lanes]).to(f32)

    def decode(self, blocks: npt.NDArray[Any]) -> Floats:
        return blocks["w"].astype(np.float32)

    def quantize(self, rows: Floats) -> Bytes:
        check_range(rows, self.name, HALF_MAX)
        return rows.astype("<f2", order="C").view(np.uint8)


class BF16(FloatType):
    """The upper half of a single: eight bits of exponent, seven of fraction."""

    name, id = "BF16", 30
    fields = {"w": ("<u2", 1)}

    def load(self, packed: Pointer, lanes: int) -> Value:
        return (packed.load(u16[lanes]).to(u32) << 16).bits(f32[lanes])

    def decode(self, blocks: npt.NDArray[Any]) -> Floats:
        return (blocks["w"].astype(np.uint32) << 16).view(np.float32)

    def quantize(self, rows: Floats) -> Bytes:
        """To the nearest, and of two as near to the even one."""
        check_range(rows, self.name, 3.38e38)
        bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").view(np.uint8)
