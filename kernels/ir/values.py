"""Values of a kernel under construction, and what makes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from llvmlite import ir

from linnet.kernels.ir.types import Type, i64, u1

Number = int | float


class Operand(Protocol):
    """A value or an address, as llvmlite has it."""

    ir: Any


class Family:
    """A family of CPUs; this one knows only what all have.

    `vector_register`: the letter that stands for one in LLVM's inline assembly, if it is known.
    `triple`: a machine of the family, as LLVM calls it.
    """

    vector_register: ClassVar[str] = ""
    triple: ClassVar[str] = ""

    def pause(self, k: Emitter) -> None:
        """Emit the instruction for loops that wait, if there is one."""

    def ticks(self, k: Emitter) -> Value:
        """i64, an even clock that all threads share; always 0 where LLVM knows of none."""
        return k.intrinsic("llvm.readsteadycounter", i64)


class Prefetch(Protocol):
    """How many bytes ahead of itself a stream of weights asks for memory; 0: not at all."""

    @property
    def prefetch_bytes(self) -> int: ...


class Target(Protocol):
    """What the language, and the types written in it, ask of an instruction set: see `ISA`."""

    @property
    def lanes(self) -> int: ...
    @property
    def registers(self) -> int: ...
    @property
    def tuning(self) -> Prefetch: ...
    @property
    def family(self) -> Family: ...
    @property
    def dots_bytes(self) -> bool: ...
    @property
    def signed_weights(self) -> bool: ...
    @property
    def shifts_bytes(self) -> bool: ...
    @property
    def interleaves(self) -> bool: ...
    def fma(self, a: Value, b: Value, c: Value) -> Value: ...
    def dot(
        self, accumulator: Value, weights: Value, activations: Value, largest: int
    ) -> Value: ...
    def dots(
        self, weights: Sequence[Value], activations: Sequence[Value], largest: int
    ) -> Value: ...
    def set_bits(self, bytes: Value) -> Value: ...
    def lookup(self, table: Sequence[int], indices: Value) -> Value: ...
    def f16_to_f32(self, half: Value) -> Value: ...
    def f32_to_f16(self, value: Value) -> Value: ...


class Emitter:
    """Instructions one after the other, for one instruction set: what values are made with."""

    def __init__(self, name: str, module: ir.Module, builder: ir.IRBuilder, isa: Target) -> None:
        self.name, self.module, self.builder, self.isa = name, module, builder, isa

    def declare(self, name: str, result: Any, kinds: Sequence[Any]) -> Any:
        known = self.module.globals.get(name)
        return known or ir.Function(self.module, ir.FunctionType(result, kinds), name)

    def intrinsic(self, name: str, type: Type, *arguments: Value) -> Value:
        """Call an LLVM intrinsic by its full name."""
        function = self.declare(name, type.llvm, [a.type.llvm for a in arguments])
        return Value(self, self.builder.call(function, [a.ir for a in arguments]), type)

    def command(self, name: str, *arguments: Operand | int) -> None:
        """Call an LLVM intrinsic that returns nothing; ints are bytes known when it is compiled."""
        given = [ir.Constant(ir.IntType(8), a) if isinstance(a, int) else a.ir for a in arguments]
        kinds = [a.type for a in given]
        self.builder.call(self.declare(name, ir.VoidType(), kinds), given)

    def read_register(self, name: str) -> Value:
        """i64 from a register that the CPU may change at any time, by its name in assembly."""
        function = self.declare("llvm.read_volatile_register.i64", i64.llvm, [ir.MetaDataType()])
        return Value(self, self.builder.call(function, [self.module.add_metadata([name])]), i64)

    def opaque(self, value: Value) -> Value:
        """The same vector, of which LLVM knows nothing any more; takes no instruction.

        Raises NotImplementedError where the ISA does not say what vector registers are called.
        """
        register = self.isa.family.vector_register
        if not register:
            raise NotImplementedError(f"{self.name}: the ISA does not name its vector registers")
        kind = ir.FunctionType(value.type.llvm, [value.type.llvm])
        passed = self.builder.asm(kind, "", f"={register},0", [value.ir], side_effect=True)
        return Value(self, passed, value.type)

    def constant(self, type: Type, value: Number | Sequence[Number]) -> Value:
        """A number in every lane, or a list of one number a lane."""
        convert = float if type.kind == "f" else int
        if isinstance(value, int | float):
            value = convert(value)
            return Value(self, ir.Constant(type.llvm, [value] * type.lanes or value), type)
        return Value(self, ir.Constant(type.llvm, [convert(v) for v in value]), type)

    def match(self, left: Value, right: Value | Number) -> tuple[Value, Value]:
        """Both as values of one type: numbers become constants, scalars spread over lanes."""
        if not isinstance(right, Value):
            return left, self.constant(left.type, right)
        if left.type.lanes and not right.type.lanes:
            right = right.splat(left.type.lanes)
        elif right.type.lanes and not left.type.lanes:
            left = left.splat(right.type.lanes)
        if left.type != right.type:
            raise TypeError(f"{self.name}: {left.type} and {right.type} do not mix")
        return left, right

    def vector(self, scalars: Sequence[Value]) -> Value:
        """Scalars side by side."""
        type = scalars[0].type[len(scalars)]
        value: Any = ir.Constant(type.llvm, ir.Undefined)
        for lane, scalar in enumerate(scalars):
            value = self.builder.insert_element(value, scalar.ir, ir.Constant(ir.IntType(32), lane))
        return Value(self, value, type)

    def concat(self, parts: Sequence[Value]) -> Value:
        """Vectors end to end; joined in pairs, so their number is a power of two."""
        joined = list(parts)
        while len(joined) > 1:
            joined = [
                a.shuffle(range(2 * a.type.lanes), b)
                for a, b in zip(joined[::2], joined[1::2], strict=True)
            ]
        return joined[0]

    def regroup(self, parts: Sequence[Value], lanes: int) -> list[Value]:
        """Vectors of one length, end to end, as vectors of another; lengths are powers of two."""
        n = parts[0].type.lanes
        if n > lanes:
            return [part[i : i + lanes] for part in parts for i in range(0, n, lanes)]
        step = lanes // n
        return [self.concat(parts[i : i + step]) for i in range(0, len(parts), step)]

    def maximum(self, a: Value, b: Value | Number) -> Value:
        """The larger; a where either is NaN."""
        a, b = self.match(a, b)
        return (a < b).select(b, a)

    def minimum(self, a: Value, b: Value | Number) -> Value:
        """The smaller; a where either is NaN."""
        a, b = self.match(a, b)
        return (b < a).select(b, a)


class Value:
    """A number or vector of numbers; operators emit instructions, scalars spread over vectors."""

    __slots__ = ("ir", "k", "type")

    def __init__(self, k: Emitter, value: Any, type: Type) -> None:
        self.k, self.ir, self.type = k, value, type

    # -- arithmetic -----------------------------------------------------------------------------
    def _binary(self, other: Value | Number, names: dict[str, str], *, swap: bool = False) -> Value:
        left, right = self.k.match(self, other)
        if swap:
            left, right = right, left
        emit = getattr(self.k.builder, names[left.type.kind])
        return Value(self.k, emit(left.ir, right.ir), left.type)

    def __add__(self, other: Value | Number) -> Value:
        return self._binary(other, {"i": "add", "u": "add", "f": "fadd"})

    def __sub__(self, other: Value | Number) -> Value:
        return self._binary(other, {"i": "sub", "u": "sub", "f": "fsub"})

    def __rsub__(self, other: Number) -> Value:
        return self._binary(other, {"i": "sub", "u": "sub", "f": "fsub"}, swap=True)

    def __mul__(self, other: Value | Number) -> Value:
        return self._binary(other, {"i": "mul", "u": "mul", "f": "fmul"})

    def __truediv__(self, other: Value | Number) -> Value:
        return self._binary(other, {"f": "fdiv"})

    def __rtruediv__(self, other: Number) -> Value:
        return self._binary(other, {"f": "fdiv"}, swap=True)

    def __floordiv__(self, other: Value | Number) -> Value:
        return self._binary(other, {"i": "sdiv", "u": "udiv"})

    def __mod__(self, other: Value | Number) -> Value:
        return self._binary(other, {"i": "srem", "u": "urem"})

    def __and__(self, other: Value | Number) -> Value:
        return self._binary(other, {"i": "and_", "u": "and_"})

    def __or__(self, other: Value | Number) -> Value:
        return self._binary(other, {"i": "or_", "u": "or_"})

    def __xor__(self, other: Value | Number) -> Value:
        return self._binary(other, {"i": "xor", "u": "xor"})

    def __lshift__(self, other: Value | Number) -> Value:
        return self._binary(other, {"i": "shl", "u": "shl"})

    def __rshift__(self, other: Value | Number) -> Value:
        return self._binary(other, {"i": "ashr", "u": "lshr"})

    def __neg__(self) -> Value:
        b = self.k.builder
        return Value(
            self.k, b.fneg(self.ir) if self.type.kind == "f" else b.neg(self.ir), self.type
        )

    __radd__, __rmul__, __ror__, __rand__ = __add__, __mul__, __or__, __and__

    # -- comparison: lanes of u1 ----------------------------------------------------------------
    def _compare(self, operator: str, other: Value | Number) -> Value:
        left, right = self.k.match(self, other)
        b = self.k.builder
        compare = {"f": b.fcmp_ordered, "i": b.icmp_signed, "u": b.icmp_unsigned}[left.type.kind]
        return Value(self.k, compare(operator, left.ir, right.ir), u1[left.type.lanes])

    def __lt__(self, other: Value | Number) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Value | Number) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Value | Number) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Value | Number) -> Value:
        return self._compare(">=", other)

    def equals(self, other: Value | Number) -> Value:
        """Lanes of u1: whether each lane equals the other's (`==` is left to Python)."""
        return self._compare("==", other)

    def select(self, yes: Value, no: Value | Number) -> Value:
        """Where this u1 is set `yes`, elsewhere `no`."""
        yes, no = self.k.match(yes, no)
        return Value(self.k, self.k.builder.select(self.ir, yes.ir, no.ir), yes.type)

    # -- conversion -----------------------------------------------------------------------------
    def to(self, type: Type) -> Value:
        """The same numbers as another type (its lanes are this value's)."""
        type, b = type[self.type.lanes], self.k.builder
        source, target = self.type.kind, type.kind
        if self.type == type:
            return self
        if source == "f" and target == "f":
            if self.type.bits == 16:
                return self.k.isa.f16_to_f32(self)
            if type.bits == 16:
                return self.k.isa.f32_to_f16(self)
            name = "fpext" if type.bits > self.type.bits else "fptrunc"
        elif source == "f":
            name = "fptosi" if target == "i" else "fptoui"
        elif target == "f":
            name = "sitofp" if source == "i" else "uitofp"
        elif type.bits == self.type.bits:
            return Value(self.k, self.ir, type)
        elif type.bits < self.type.bits:
            name = "trunc"
        else:
            name = "sext" if source == "i" else "zext"
        return Value(self.k, getattr(b, name)(self.ir, type.llvm), type)

    def bits(self, type: Type) -> Value:
        """The same bits read as another type of the same size."""
        if self.type.llvm == type.llvm:
            return Value(self.k, self.ir, type)
        return Value(self.k, self.k.builder.bitcast(self.ir, type.llvm), type)

    # -- lanes ----------------------------------------------------------------------------------
    def shuffle(self, indices: Sequence[int], other: Value | None = None) -> Value:
        """Lanes picked by number, from this vector and, past its end, from `other`."""
        second = ir.Constant(self.type.llvm, ir.Undefined) if other is None else other.ir
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(indices)), list(indices))
        picked = self.k.builder.shuffle_vector(self.ir, second, mask)
        return Value(self.k, picked, self.type[len(indices)])

    def __getitem__(self, index: int | slice) -> Value:
        if isinstance(index, slice):
            return self.shuffle(range(*index.indices(self.type.lanes)))
        lane = ir.Constant(ir.IntType(32), index)
        return Value(self.k, self.k.builder.extract_element(self.ir, lane), self.type.scalar)

    def repeat_lanes(self, times: int) -> Value:
        """a b c -> a a b b c c."""
        return self.shuffle([lane // times for lane in range(self.type.lanes * times)])

    def repeat(self, times: int) -> Value:
        """a b c -> a b c a b c."""
        return self.shuffle(list(range(self.type.lanes)) * times)

    def splat(self, lanes: int) -> Value:
        """This scalar in every lane."""
        vector = self.type[lanes]
        undefined = ir.Constant(vector.llvm, ir.Undefined)
        zero = ir.Constant(ir.IntType(32), 0)
        return Value(
            self.k, self.k.builder.insert_element(undefined, self.ir, zero), vector
        ).shuffle([0] * lanes)

    def _halve(self, combine: Any) -> Value:
        value = self
        while value.type.lanes > 1:
            half = value.type.lanes // 2
            value = combine(value[:half], value[half:])
        return value[0]

    def sum(self) -> Value:
        """The sum of the lanes (a power of two of them), halving: always the same order."""
        return self._halve(lambda a, b: a + b)

    def max(self) -> Value:
        """The largest lane (a power of two of them)."""
        return self._halve(self.k.maximum)
