"""The vocabulary an instruction set gives to kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Self

from linnet.kernels.ir import Family, Pointer, Value, f16, f32, i16, i32, u1, u16, u32
from linnet.kernels.isa.tiles import Tiles
from linnet.kernels.isa.tuning import Tuning


class ISAError(ValueError):
    """An instruction set that is unknown, or that this CPU cannot run."""


class DotSum:
    """A sum of four-byte dot products, exact: i32[n], for registers of weights and activations.

    `times_is_free`: whether `times` takes no more than `total` does.
    """

    times_is_free: ClassVar[bool] = False

    def __init__(self, start: Value, largest: int) -> None:
        """No weight that is added is above `largest`."""
        self._total, self._largest = start, largest

    def add(self, weights: Value, activations: Value) -> None:
        """weights: u8[4n]; activations: i8[4n] in -127..127."""
        k = weights.k
        self._total = k.isa.dot(self._total, weights, activations, self._largest)

    def total(self) -> Value:
        """The sum; nothing can be added any more."""
        return self._total

    def times(self, factors: Value) -> Value:
        """The sum times `factors`: i32[n], of which each is an i16 twice.

        For sums, and what they begin with, of so few products that an i16 holds those of two bytes.
        """
        return self.total() * (factors >> 16)


class ISA:
    """An instruction set: plain LLVM IR here; subclasses override what they do better.

    `needs`: LLVM feature names the CPU must have. `attributes`: what else LLVM is told. `fused`:
    whether `fma` rounds once. `dots_bytes`: whether `dot` is as fast for weights above 127, so that
    some may stay where they are in their bytes. `signed_weights`: whether `dot` takes weights up to
    127 as signed bytes. `shifts_bytes`: whether bytes are shifted lane by lane. `interleaves`:
    whether weights are brought to the order of products, which pays where a register holds several
    groups; else activations are brought to that of columns. `bits`: the width of a vector register.
    `registers`: how many of them there are. `family`: what it shares with other instruction sets of
    such CPUs. `query_rows`: queries that attention takes together, with two sums in registers for
    each. `dot_sum`: how the dot products of registers are summed. `tiles`: matrix registers, if
    there are. `squares`: whether there is `square_dot`. `defaults`: the tuning where nobody
    measured a better one, and `tiles_to_try` what `linnet tune` tries as its tile: each takes two
    registers for every sum, and some for factors. These and `query_rows` change speed, never
    results.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    attributes: ClassVar[tuple[str, ...]] = ()
    fused: ClassVar[bool] = False
    dots_bytes: ClassVar[bool] = False
    signed_weights: ClassVar[bool] = False
    shifts_bytes: ClassVar[bool] = False
    interleaves: ClassVar[bool] = True
    bits: ClassVar[int] = 128
    registers: ClassVar[int] = 16
    family: ClassVar[Family] = Family()
    query_rows: ClassVar[int] = 2
    dot_sum: ClassVar[type[DotSum]] = DotSum
    tiles: ClassVar[type[Tiles] | None] = None
    squares: ClassVar[bool] = False
    defaults: ClassVar[Tuning] = Tuning()
    tiles_to_try: ClassVar[Sequence[tuple[int, int]]] = (
        (2, 1), (3, 1), (4, 1), (6, 1), (2, 2), (3, 2),
    )  # fmt: skip

    def __init__(self, tuning: Tuning | None = None) -> None:
        self.tuning = self.defaults if tuning is None else tuning

    def tuned(self, tuning: Tuning) -> Self:
        """This instruction set with another tuning."""
        return type(self)(tuning)

    @property
    def target_attributes(self) -> str:
        """What LLVM may use at least, in a fixed order."""
        return ",".join([*sorted(f"+{name}" for name in self.needs), *self.attributes])

    @property
    def lanes(self) -> int:
        """How many f32 a register holds."""
        return self.bits // 32

    def permitted(self) -> bool:
        """Whether the system lets this process use it, where the CPU can."""
        return True

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c: rounded once with FMA hardware; without, twice (libm's is far slower)."""
        if self.fused:
            lanes = a.type.lanes
            return a.k.intrinsic(f"llvm.fma.{f'v{lanes}' if lanes else ''}f32", a.type, a, b, c)
        return a * b + c

    def dot(self, accumulator: Value, weights: Value, activations: Value, largest: int) -> Value:
        """accumulator + products summed in fours, exactly.

        accumulator i32[n]; weights u8[4n], none above `largest`; activations i8[4n] in -127..127.
        """
        products = weights.to(i16) * activations.to(i16)  # 255 * 127 fits an i16
        total = accumulator
        for part in range(4):
            total = total + products.shuffle(range(part, weights.type.lanes, 4)).to(i32)
        return total

    def dots(self, weights: Sequence[Value], activations: Sequence[Value], largest: int) -> Value:
        """The products of some pairs of vectors of one length, summed in fours and over the pairs.

        See `dot_sum`; vectors may be longer than registers.
        """
        k, lanes = weights[0].k, weights[0].type.lanes
        n = min(lanes, self.bits // 8)
        sums = [self.dot_sum(k.constant(i32[n // 4], 0), largest) for _ in range(lanes // n)]
        for pair in zip(weights, activations, strict=True):
            parts = (k.regroup([vector], n) for vector in pair)
            for total, w, x in zip(sums, *parts, strict=True):
                total.add(w, x)
        return k.concat([total.total() for total in sums])

    def broadcast(self, run: Pointer, at: int) -> Value:
        """Four of a run's eight bytes, from byte `at` (0 or 4) on, in every lane: i32."""
        return run.load(i32, at).splat(self.lanes)

    def set_bits(self, bytes: Value) -> Value:
        """Whether each bit of u8 lanes is set, from the lowest of the first on: u1 lanes."""
        return bytes.bits(u1[8 * bytes.type.lanes])

    def square_dot(
        self, accumulator: Value, weights: Value, activations: Value, largest: int
    ) -> Value:
        """accumulator i32[4] + [w0 x0, w0 x1, w1 x0, w1 x1], of two rows of eight weights, u8[16],
        by eight columns of two tokens, i8[16]; `largest` as for `dot`."""
        raise NotImplementedError(f"{self.name} multiplies no two rows by two tokens")

    def lookup(self, table: Sequence[int], indices: Value) -> Value:
        """table[index] for u8 lanes of indices; `table`: 16 numbers in 0..255, indices below 16."""
        k, type = indices.k, indices.type
        numbers = [k.constant(type, number) for number in table]
        for bit in (1, 2, 4, 8):
            is_set = (indices & bit) > 0
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            numbers = [is_set.select(odd, even) for even, odd in pairs]
        return numbers[0]

    def permute(self, table: Value, indices: Value) -> Value:
        """table[index] for u16[32] lanes of indices below 32; where there are vectors that long."""
        raise NotImplementedError(f"{self.name} has no look-up in 32 numbers of 16 bits")

    def f16_to_f32(self, half: Value) -> Value:
        """Exact, subnormals and infinities included."""
        wide = f32[half.type.lanes]
        return Value(half.k, half.k.builder.fpext(half.ir, wide.llvm), wide)

    def f32_to_f16(self, value: Value) -> Value:
        """Rounded to nearest, ties to even."""
        narrow = f16[value.type.lanes]
        return Value(value.k, value.k.builder.fptrunc(value.ir, narrow.llvm), narrow)

    def f32_to_bf16(self, value: Value) -> Value:
        """u16 lanes, rounded to nearest, ties to even."""
        bits = value.bits(u32[value.type.lanes])
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
        return (is_nan.select(bits | 0x400000, rounded) >> 16).to(u16)


def dot_in_registers(
    dot: Callable[[Value, Value, Value], Value],
    register_bytes: int,
    accumulator: Value,
    weights: Value,
    activations: Value,
) -> Value:
    """Apply a `dot` for registers of up to `register_bytes` to vectors of any length."""
    k, n_bytes = weights.k, weights.type.lanes
    if n_bytes <= register_bytes:
        return dot(accumulator, weights, activations)
    lanes = register_bytes // 4
    return k.concat(
        [
            dot(
                accumulator[i * lanes : (i + 1) * lanes],
                weights[i * register_bytes : (i + 1) * register_bytes],
                activations[i * register_bytes : (i + 1) * register_bytes],
            )
            for i in range(n_bytes // register_bytes)
        ]
    )
