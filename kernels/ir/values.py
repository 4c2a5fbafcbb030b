"""Values, addresses and registers of a kernel under construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from linnet.kernels.ir.types import Type, u1

if TYPE_CHECKING:
    from linnet.kernels.ir.kernel import Kernel

Number = int | float


class Value:
    """A number or vector of numbers; operators emit instructions, scalars spread over vectors."""

    __slots__ = ("ir", "k", "type")

    def __init__(self, k: Kernel, value: Any, type: Type) -> None:
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


class Pointer:
    """An address; loads and stores take a type and an offset in bytes, and need no alignment."""

    __slots__ = ("ir", "k")

    def __init__(self, k: Kernel, value: Any) -> None:
        self.k, self.ir = k, value

    def at(self, offset: Value | int) -> Pointer:
        """This address plus an offset in bytes."""
        step = offset.ir if isinstance(offset, Value) else ir.Constant(ir.IntType(64), offset)
        return Pointer(self.k, self.k.builder.gep(self.ir, [step], source_etype=ir.IntType(8)))

    def load(self, type: Type, offset: Value | int = 0) -> Value:
        loaded = self.k.builder.load(self.at(offset).ir, typ=type.llvm, align=1)
        return Value(self.k, loaded, type)

    def load_pointer(self, offset: Value | int = 0) -> Pointer:
        loaded = self.k.builder.load(self.at(offset).ir, typ=ir.PointerType(), align=1)
        return Pointer(self.k, loaded)

    def store(self, value: Value, offset: Value | int = 0) -> None:
        self.k.builder.store(value.ir, self.at(offset).ir, align=1)

    def store_pointer(self, value: Pointer, offset: Value | int = 0) -> None:
        self.k.builder.store(value.ir, self.at(offset).ir, align=1)

    def prefetch(self, offset: Value | int) -> None:
        """Ask for the cache line `offset` bytes ahead; never faults, changes no result."""
        constants = [ir.Constant(ir.IntType(32), n) for n in (0, 3, 1)]  # read, keep, data
        kinds = [ir.PointerType(), *[ir.IntType(32)] * 3]
        function = self.k.declare("llvm.prefetch.p0", ir.VoidType(), kinds)
        self.k.builder.call(function, [self.at(offset).ir, *constants])

    # -- what threads share: u32 or u64 words, naturally aligned ---------------------------------
    def atomic_load(self, type: Type, offset: int = 0) -> Value:
        address = self.at(offset).ir
        loaded = self.k.builder.load_atomic(address, "acquire", type.bytes, typ=type.llvm)
        return Value(self.k, loaded, type)

    def atomic_store(self, value: Value, offset: int = 0) -> None:
        builder, address = self.k.builder, self.at(offset).ir
        # llvmlite's own store_atomic asks an opaque pointer for its pointee and fails.
        builder._insert(
            ir.instructions.StoreAtomicInstr(
                builder.block, value.ir, address, "release", value.type.bytes
            )
        )

    def atomic_add(self, value: Value, offset: int = 0) -> Value:
        """Add, and return what was there before."""
        before = self.k.builder.atomic_rmw("add", self.at(offset).ir, value.ir, "acq_rel")
        return Value(self.k, before, value.type)

    def atomic_replace(self, old: Value, new: Value, offset: int = 0) -> Value:
        """Store `new` where `old` still is (compare and swap); u1: whether it was."""
        b = self.k.builder
        outcome = b.cmpxchg(self.at(offset).ir, old.ir, new.ir, "acq_rel", "acquire")
        return Value(self.k, b.extract_value(outcome, 1), u1)


class Cell:
    """A mutable register; LLVM turns it into the phi nodes of the loops it lives through."""

    __slots__ = ("k", "place", "type")

    def __init__(self, k: Kernel, type: Type, name: str) -> None:
        self.k, self.type = k, type
        with k.builder.goto_entry_block():
            self.place = k.builder.alloca(type.llvm, name=name)

    def get(self) -> Value:
        loaded = self.k.builder.load(self.place, typ=self.type.llvm)
        return Value(self.k, loaded, self.type)

    def set(self, value: Value | Number) -> None:
        stored = value if isinstance(value, Value) else self.k.constant(self.type, value)
        self.k.builder.store(stored.ir, self.place)
