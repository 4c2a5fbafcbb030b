"""64-bit ARM: NEON, with the dot product of bytes (2017 on), and of mixed signs (2019 on).

SVE adds nothing where its registers have 128 bits, as on most CPUs that have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from linnet.kernels.ir import Pointer, Value, i8, i16, i32, u8
from linnet.kernels.isa.base import ISA, DotSum, dot_in_registers
from linnet.kernels.isa.families import ARM64
from linnet.kernels.isa.tuning import Tuning

MOST_WORD, MOST_X = 32767, 127


class WordSums(DotSum):
    """Products are words, which are summed as long as twos of them fit words, too."""

    def __init__(self, start: Value, largest: int) -> None:
        super().__init__(start, largest)
        self._most, self._count = MOST_WORD // (2 * MOST_X * largest), 0
        self._words: list[Value] = []

    def add(self, weights: Value, activations: Value) -> None:
        if not self._most:
            super().add(weights, activations)
            return
        if self._count == self._most:
            self._take()
        products = _words(weights, activations)
        words = self._words or [weights.k.constant(i16[8], 0)] * len(products)
        self._words = [a + b for a, b in zip(words, products, strict=True)]
        self._count += 1

    def total(self) -> Value:
        self._take()
        return self._total

    def _take(self) -> None:
        """Add the words' sums to the total, and begin anew."""
        if self._words:
            self._total = self._total + _fours(self._words)
            self._words, self._count = [], 0


class NEON(ISA):
    """Any 64-bit ARM CPU: products of bytes are words, which are summed in twos and fours."""

    name = "neon"
    needs = frozenset({"neon"})
    family = ARM64()
    fused = signed_weights = shifts_bytes = True
    interleaves = False
    dot_sum: ClassVar[type[DotSum]] = WordSums
    registers = 32
    query_rows = 2
    defaults = Tuning(tile=(3, 3))
    tiles_to_try: ClassVar[Sequence[tuple[int, int]]] = (
        (2, 2), (3, 2), (4, 2), (6, 2), (3, 3), (4, 3), (8, 1),
    )  # fmt: skip

    def dot(self, accumulator: Value, weights: Value, activations: Value, largest: int) -> Value:
        def dot(accumulator: Value, weights: Value, activations: Value) -> Value:
            if largest < 128:
                return accumulator + _fours(_words(weights, activations))
            # Bytes are taken as signed: w = (w & 127) - (-(w & 128)).
            low, high = (_fours(_words(weights & part, activations)) for part in (127, 128))
            return accumulator + low - high

        return dot_in_registers(dot, 16, accumulator, weights, activations)

    def broadcast(self, run: Pointer, at: int) -> Value:
        # The whole run in a register: products take any four bytes of one without a copy.
        return run.load(i32[2]).shuffle([at // 4] * self.lanes)

    def set_bits(self, bytes: Value) -> Value:
        spread = bytes.repeat_lanes(8)
        bits = [1 << i % 8 for i in range(spread.type.lanes)]
        return spread & bytes.k.constant(spread.type, bits) > 0

    def lookup(self, table: Sequence[int], indices: Value) -> Value:
        k, n_bytes = indices.k, min(indices.type.lanes, 16)
        numbers, name = k.constant(u8[16], table), f"llvm.aarch64.neon.tbl1.v{n_bytes}i8"
        parts = k.regroup([indices], n_bytes)
        return k.concat([k.intrinsic(name, part.type, numbers, part) for part in parts])


class NEONDot(NEON):
    """Cortex-A55, A75 and A76, Neoverse N1, Apple A13 and M1, and what came after."""

    name = "neondot"
    needs = NEON.needs | {"dotprod", "lse"}
    dot_sum = DotSum

    def dot(self, accumulator: Value, weights: Value, activations: Value, largest: int) -> Value:
        def dot(accumulator: Value, weights: Value, activations: Value) -> Value:
            if largest < 128:
                return _multiply_add("sdot", accumulator, weights, activations)
            # Bytes are taken as signed: w = (w - 128) + 2 * 64.
            total = _multiply_add("sdot", accumulator, weights ^ 128, activations)
            half = weights.k.constant(weights.type, 64)
            for _ in range(2):
                total = _multiply_add("sdot", total, half, activations)
            return total

        return dot_in_registers(dot, 16, accumulator, weights, activations)


class NEONI8MM(NEONDot):
    """Cortex-A510 and X2, Neoverse V1 and N2, Apple M2, and what came after."""

    name = "neoni8mm"
    needs = NEONDot.needs | {"i8mm"}
    squares = True
    defaults = Tuning(tile=(2, 4))
    tiles_to_try = (2, 2), (4, 2), (6, 2), (2, 3), (4, 3), (2, 4)

    def dot(self, accumulator: Value, weights: Value, activations: Value, largest: int) -> Value:
        def dot(accumulator: Value, weights: Value, activations: Value) -> Value:
            name = "sdot" if largest < 128 else "usdot"
            return _multiply_add(name, accumulator, weights, activations)

        return dot_in_registers(dot, 16, accumulator, weights, activations)

    def square_dot(
        self, accumulator: Value, weights: Value, activations: Value, largest: int
    ) -> Value:
        name = "smmla" if largest < 128 else "usmmla"
        return _multiply_add(name, accumulator, weights, activations)


def _words(weights: Value, activations: Value) -> list[Value]:
    """Products of signed bytes: i16[8] for every eight."""
    k, multiply = weights.k, "llvm.aarch64.neon.smull.v8i16"
    halves = (slice(i, i + 8) for i in range(0, weights.type.lanes, 8))
    return [
        k.intrinsic(multiply, i16[8], weights[half].bits(i8[8]), activations[half])
        for half in halves
    ]


def _fours(words: Sequence[Value]) -> Value:
    """Words i16[8], once or twice, summed in fours: those of two must fit words, too."""
    k, lanes = words[0].k, 4 * len(words)
    a, b = words if len(words) == 2 else (words[0][:4], words[0][4:])
    twos = k.intrinsic(f"llvm.aarch64.neon.addp.v{lanes}i16", i16[lanes], a, b)
    half = lanes // 2
    return k.intrinsic(f"llvm.aarch64.neon.saddlp.v{half}i32.v{lanes}i16", i32[half], twos)


def _multiply_add(name: str, accumulator: Value, weights: Value, activations: Value) -> Value:
    """accumulator + products in fours, in one instruction on registers of 8 or 16 bytes."""
    lanes = accumulator.type.lanes
    name = f"llvm.aarch64.neon.{name}.v{lanes}i32.v{4 * lanes}i8"
    return weights.k.intrinsic(name, accumulator.type, accumulator, weights, activations)
