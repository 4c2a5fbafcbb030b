"""x86 with AVX-512 (F, BW, DQ, VL), and with VNNI: 512-bit vectors, 32 registers."""

from __future__ import annotations

from linnet.kernels.ir import Value
from linnet.kernels.isa.avx2 import AVX2, vpdpbusd
from linnet.kernels.isa.base import DotSum, dot_in_registers
from linnet.kernels.isa.tuning import Tuning


class AVX512(AVX2):
    """Skylake-X and its like."""

    name = "avx512"
    needs = AVX2.needs | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
    attributes = ("-prefer-256-bit",)
    bits = 512
    registers = 32
    query_rows = 8
    defaults = Tuning(tile=(4, 3))
    tiles_to_try = (
        (8, 1), (12, 1), (4, 2), (5, 2), (6, 2), (7, 2), (3, 3), (4, 3), (2, 4), (3, 4),
    )  # fmt: skip

    def permute(self, table: Value, indices: Value) -> Value:
        """table[index] for u16[32] lanes of indices below 32."""
        return table.k.intrinsic("llvm.x86.avx512.permvar.hi.512", table.type, table, indices)


class AVX512VNNI(AVX512):
    """Cascade Lake, Ice Lake, Sapphire Rapids, Zen 4 and what came after."""

    name = "avx512vnni"
    needs = AVX512.needs | {"avx512vnni"}
    dot_sum = DotSum
    dots_bytes = True

    def dot(self, accumulator: Value, weights: Value, activations: Value, largest: int) -> Value:
        return dot_in_registers(vpdpbusd, self.bits // 8, accumulator, weights, activations)
