"""F32, F16 and BF16: one number a weight."""

from __future__ import annotations

import numpy as np

from linnet.kernels.ir import Pointer, Value, f16, f32, u16, u32
from linnet.kernels.quants.base import Bytes, Floats, FloatType, Records


class F32(FloatType):
    """IEEE 754 single precision."""

    name, id = "F32", 0
    fields = {"w": ("<f4", 1)}
    limit = 3.4028235e38

    def load(self, packed: Pointer, lanes: int) -> Value:
        return packed.load(f32[lanes])

    def decode(self, blocks: Records) -> Floats:
        return blocks["w"]

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        return weights.astype("<f4").view(self.dtype)[:, 0]


class F16(FloatType):
    """IEEE 754 half precision."""

    name, id = "F16", 1
    fields = {"w": ("<f2", 1)}

    def load(self, packed: Pointer, lanes: int) -> Value:
        return packed.load(f16[lanes]).to(f32)

    def decode(self, blocks: Records) -> Floats:
        return blocks["w"].astype(np.float32)

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        return weights.astype("<f2").view(self.dtype)[:, 0]


class BF16(FloatType):
    """The upper half of a single: eight bits of exponent, seven of fraction."""

    name, id = "BF16", 30
    fields = {"w": ("<u2", 1)}
    limit = 3.38e38

    def load(self, packed: Pointer, lanes: int) -> Value:
        return (packed.load(u16[lanes]).to(u32) << 16).bits(f32[lanes])

    def decode(self, blocks: Records) -> Floats:
        return (blocks["w"].astype(np.uint32) << 16).view(np.float32)

    def n_not_finite(self, packed: Bytes) -> int:
        exponents = packed.reshape(-1).view("<u2") & 0x7F80
        return int(np.count_nonzero(exponents == 0x7F80))

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        """To the nearest, and of two as near to the even one."""
        bits = weights.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").view(self.dtype)[:, 0]
