"""x86 with AVX2, FMA and F16C (2013 on), and with AVX-VNNI (2021 on): 256-bit vectors."""

from __future__ import annotations

from collections.abc import Sequence

from linnet.kernels.ir import Value, i16, i32
from linnet.kernels.isa.base import ISA, dot_in_registers
from linnet.kernels.isa.families import X86

MULTIPLY_ADD = {  # by bytes in a register: bytes to pairs of words, words to pairs of longs
    32: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
    64: ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"),
}

SHUFFLE_BYTES = {  # by bytes in a register: every 16 looked up among themselves
    16: "llvm.x86.ssse3.pshuf.b.128",
    32: "llvm.x86.avx2.pshuf.b",
    64: "llvm.x86.avx512.pshuf.b.512",
}


class AVX2(ISA):
    """Four-byte dot products by pmaddubsw and pmaddwd."""

    name = "avx2"
    needs = frozenset({"avx2", "fma", "f16c"})
    family = X86()
    bits = 256

    def dot(self, accumulator: Value, weights: Value, activations: Value, largest: int) -> Value:
        def dot(accumulator: Value, weights: Value, activations: Value) -> Value:
            if largest < 128:
                return multiply_add(accumulator, weights, activations)
            # Pairs of products saturate at 32767 unless one factor stays within 7 bits or is 128.
            low = multiply_add(accumulator, weights & 127, activations)
            return multiply_add(low, weights & 128, activations)

        return dot_in_registers(dot, self.bits // 8, accumulator, weights, activations)

    def lookup(self, table: Sequence[int], indices: Value) -> Value:
        k, n_bytes = indices.k, min(indices.type.lanes, self.bits // 8)
        found = []
        for part in k.regroup([indices], n_bytes):
            numbers = k.constant(part.type, list(table) * (n_bytes // 16))
            found.append(k.intrinsic(SHUFFLE_BYTES[n_bytes], part.type, numbers, part))
        return k.concat(found)


class AVXVNNI(AVX2):
    """AVX2 with the four-byte dot product in one instruction."""

    name = "avxvnni"
    needs = AVX2.needs | {"avxvnni"}

    def dot(self, accumulator: Value, weights: Value, activations: Value, largest: int) -> Value:
        return dot_in_registers(vpdpbusd, self.bits // 8, accumulator, weights, activations)


def multiply_add(accumulator: Value, weights: Value, activations: Value) -> Value:
    """accumulator + products in fours, on registers of 32 or 64 bytes."""
    k, lanes = weights.k, weights.type.lanes
    bytes_to_words, words_to_longs = MULTIPLY_ADD[lanes]
    words = k.intrinsic(bytes_to_words, i16[lanes // 2], weights, activations)
    ones = k.constant(words.type, 1)
    return accumulator + k.intrinsic(words_to_longs, i32[lanes // 4], words, ones)


def vpdpbusd(accumulator: Value, weights: Value, activations: Value) -> Value:
    """accumulator + products in fours, in one instruction on registers of 32 or 64 bytes."""
    name = f"llvm.x86.avx512.vpdpbusd.{weights.type.lanes * 8}"
    return weights.k.intrinsic(name, accumulator.type, accumulator, weights, activations)
