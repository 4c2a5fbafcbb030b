"""x86 with AVX2, FMA and F16C (2013 on), and with AVX-VNNI (2021 on): 256-bit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from linnet.kernels.ir import Value, i16, i32, u16
from linnet.kernels.isa.base import ISA, DotSum, dot_in_registers
from linnet.kernels.isa.families import X86
from linnet.kernels.isa.tuning import Tuning

MULTIPLY_ADD = {  # by bytes in a register: bytes to pairs of words, words to pairs of longs
    32: ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd"),
    64: ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512"),
}

SHUFFLE_BYTES = {  # by bytes in a register: every 16 looked up among themselves
    16: "llvm.x86.ssse3.pshuf.b.128",
    32: "llvm.x86.avx2.pshuf.b",
    64: "llvm.x86.avx512.pshuf.b.512",
}


MOST_WORD, MOST_X = 32767, 127


class WordSums(DotSum):
    """Products are summed in twos as words, as many as these hold, and then in fours.

    Weights of eight bits are two numbers, of which each has words of its own: their low seven bits,
    and the highest.
    """

    times_is_free = True

    def __init__(self, start: Value, largest: int) -> None:
        self._total = start
        self._low = Words(min(largest, 127), 1)
        self._high = Words(1, 128) if largest > 127 else None

    def add(self, weights: Value, activations: Value) -> None:
        if self._high is not None:
            pairs = weights.bits(u16[weights.type.lanes // 2])
            self._add(self._high, (pairs >> 7).bits(weights.type) & 1, activations)
            weights = weights & 127
        self._add(self._low, weights, activations)

    def _add(self, words: Words, weights: Value, activations: Value) -> None:
        if words.full:
            self._total = words.take(self._total)
        words.add(weights, activations)

    def total(self) -> Value:
        total = self._low.take(self._total)
        return total if self._high is None else self._high.take(total)

    def times(self, factors: Value) -> Value:
        """What it begins with is the lower of two words."""
        return self._low.times(self._total & 0xFFFF, factors)


class Words:
    """Sums of two products each, of weights up to `largest` that count `unit`: i16[2n]."""

    def __init__(self, largest: int, unit: int) -> None:
        self._unit, self._most = unit, MOST_WORD // (2 * MOST_X * largest)
        self._words: Value | None = None
        self._count = 0

    @property
    def full(self) -> bool:
        """Whether one more product could be too large."""
        return self._count == self._most

    def add(self, weights: Value, activations: Value) -> None:
        """In this order: LLVM would find another, for which registers do not suffice."""
        k, lanes = weights.k, weights.type.lanes
        words = k.intrinsic(MULTIPLY_ADD[lanes][0], i16[lanes // 2], weights, activations)
        self._words = k.opaque(words if self._words is None else self._words + words)
        self._count += 1

    def take(self, total: Value) -> Value:
        """total + the sums of four, which begin anew."""
        if self._words is None:
            return total
        words, self._words, self._count = self._words, None, 0
        return total + _longs(words, words.k.constant(words.type, self._unit))

    def times(self, more: Value, factors: Value) -> Value:
        """The sums of four, and of `more`, times factors."""
        words = more.bits(i16[2 * more.type.lanes])
        words = words if self._words is None else self._words + words
        return _longs(words, factors.bits(words.type))


def _longs(words: Value, factors: Value) -> Value:
    """Words times factors, summed in twos: i32[n]."""
    name, lanes = MULTIPLY_ADD[2 * words.type.lanes][1], words.type.lanes
    return words.k.intrinsic(name, i32[lanes // 2], words, factors)


class AVX2(ISA):
    """Four-byte dot products by pmaddubsw and pmaddwd."""

    name = "avx2"
    needs = frozenset({"avx2", "fma", "f16c"})
    family = X86()
    fused = True
    bits = 256
    dot_sum: ClassVar[type[DotSum]] = WordSums
    defaults = Tuning(tile=(2, 2))

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
    dot_sum = DotSum
    defaults = Tuning(tile=(3, 2))
    dots_bytes = True

    def dot(self, accumulator: Value, weights: Value, activations: Value, largest: int) -> Value:
        return dot_in_registers(vpdpbusd, self.bits // 8, accumulator, weights, activations)


def multiply_add(accumulator: Value, weights: Value, activations: Value) -> Value:
    """accumulator + products in fours, on registers of 32 or 64 bytes."""
    k, lanes = weights.k, weights.type.lanes
    words = k.intrinsic(MULTIPLY_ADD[lanes][0], i16[lanes // 2], weights, activations)
    return accumulator + _longs(words, k.constant(words.type, 1))


def vpdpbusd(accumulator: Value, weights: Value, activations: Value) -> Value:
    """accumulator + products in fours, in one instruction on registers of 32 or 64 bytes."""
    name = f"llvm.x86.avx512.vpdpbusd.{weights.type.lanes * 8}"
    return weights.k.intrinsic(name, accumulator.type, accumulator, weights, activations)
