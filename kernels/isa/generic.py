"""Any CPU LLVM knows: 128-bit vectors, no assumption beyond the base instruction set."""

from __future__ import annotations

from linnet.kernels.ir import Value, f16, f32, u16, u32
from linnet.kernels.isa.base import ISA
from linnet.kernels.isa.families import family

EXPONENT_SHIFT = 2.0**112  # between the exponent biases of f16 (15) and f32 (127)


class Generic(ISA):
    """Halves are converted by integer arithmetic: without F16C, LLVM would call a libgcc function
    that is not there for compiled code to find."""

    name = "generic"
    family = family()

    def f16_to_f32(self, half: Value) -> Value:
        bits = half.bits(u16[half.type.lanes]).to(u32)
        magnitude = (bits & 0x7FFF) << 13
        finite = (magnitude.bits(f32[half.type.lanes]) * EXPONENT_SHIFT).bits(magnitude.type)
        wide = (magnitude >= 0x7C00 << 13).select(magnitude | 0x7F800000, finite)
        return (wide | ((bits & 0x8000) << 16)).bits(f32[half.type.lanes])

    def f32_to_f16(self, value: Value) -> Value:
        lanes = value.type.lanes
        bits = value.bits(u32[lanes])
        magnitude = bits & 0x7FFFFFFF
        # Normal halves: round the 13 dropped bits to even, then move the exponent's bias.
        normal = ((magnitude + 0xFFF + ((magnitude >> 13) & 1)) >> 13) - (112 << 10)
        # Subnormal halves count units of 2^-24, which is the last bit of a float near 0.5.
        half = magnitude.k.constant(f32[lanes], 0.5)
        subnormal = (magnitude.bits(f32[lanes]) + half).bits(u32[lanes]) - half.bits(u32[lanes])
        small = (magnitude < 113 << 23).select(subnormal, normal)
        finite = (magnitude >= 0x477FF000).select(magnitude.k.constant(u32[lanes], 0x7C00), small)
        result = (magnitude > 0x7F800000).select(magnitude.k.constant(u32[lanes], 0x7E00), finite)
        return (result | ((bits >> 16) & 0x8000)).to(u16).bits(f16[lanes])
