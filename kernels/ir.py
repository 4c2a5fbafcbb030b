"""The vector-expression language kernels are written in; the only file that spells llvmlite.ir.

A `Kernel` is one native function under construction. Its `Value`s carry a type with a sign and a
lane count, so that `+`, `>>` or `.to(f32)` know which instruction they mean:

    q = block.load(u8[32], 16)                  # 32 bytes, 16 bytes into the block
    low, high = q & 15, q >> 4                  # logical shift: the lanes are unsigned
    total = k.cell(f32[8])                      # a mutable register, zero at first
    for i in k.range(n_blocks):                 # a native loop; its body is traced once
        total.set(k.fma(x.load(f32[8], i * 32), scale, total.get()))
    out.store(total.get().sum())

Floating-point results are reproducible: nothing here lets LLVM reassociate or contract. A fused
multiply-add happens where a kernel says `k.fma`, and only on CPUs that have one.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llvmlite import ir

if TYPE_CHECKING:
    from linnet.kernels.isa import ISA

Number = int | float


@dataclass(frozen=True, slots=True)
class Type:
    """A number type: kind "i" (signed), "u" (unsigned) or "f"; bits; lanes (0 for a scalar)."""

    kind: str
    bits: int
    lanes: int = 0

    def __getitem__(self, lanes: int) -> Type:
        return Type(self.kind, self.bits, lanes)

    @property
    def scalar(self) -> Type:
        return Type(self.kind, self.bits)

    @property
    def bytes(self) -> int:
        return self.bits // 8 * max(self.lanes, 1)

    @property
    def llvm(self) -> Any:
        floats = {16: ir.HalfType, 32: ir.FloatType, 64: ir.DoubleType}
        scalar = floats[self.bits]() if self.kind == "f" else ir.IntType(self.bits)
        return ir.VectorType(scalar, self.lanes) if self.lanes else scalar

    def __str__(self) -> str:
        return f"{self.kind}{self.bits}" + (f"[{self.lanes}]" if self.lanes else "")


u1, u8, u16, u32, u64 = (Type("u", bits) for bits in (1, 8, 16, 32, 64))
i8, i16, i32, i64 = (Type("i", bits) for bits in (8, 16, 32, 64))
f16, f32 = Type("f", 16), Type("f", 32)
pointer = Type("p", 64)


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


class Kernel:
    """One native function under construction: `void name(parameters)`."""

    def __init__(self, name: str, parameters: dict[str, Type], isa: ISA) -> None:
        """`parameters`: names and types (`pointer` for an address), in calling order."""
        self.name, self.isa = name, isa
        self.module = ir.Module(name)
        kinds = [ir.PointerType() if t == pointer else t.llvm for t in parameters.values()]
        self.function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), kinds), name)
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.parameters: dict[str, Any] = {}
        for argument, (key, type) in zip(self.function.args, parameters.items(), strict=True):
            argument.name = key
            self.parameters[key] = (
                Pointer(self, argument) if type == pointer else Value(self, argument, type)
            )

    def finish(self) -> str:
        """Close the function and return the module's IR as text."""
        self.builder.ret_void()
        return str(self.module)

    def declare(self, name: str, result: Any, kinds: Sequence[Any]) -> Any:
        known = self.module.globals.get(name)
        return known or ir.Function(self.module, ir.FunctionType(result, kinds), name)

    def intrinsic(self, name: str, type: Type, *arguments: Value) -> Value:
        """Call an LLVM intrinsic by its full name."""
        function = self.declare(name, type.llvm, [a.type.llvm for a in arguments])
        return Value(self, self.builder.call(function, [a.ir for a in arguments]), type)

    def pause(self) -> None:
        """Tell the CPU that this is a loop that waits."""
        if platform.machine() in {"x86_64", "AMD64"}:
            function = self.declare("llvm.x86.sse2.pause", ir.VoidType(), [])
            self.builder.call(function, [])

    def call(self, function: Pointer, *arguments: Value | Pointer) -> None:
        """Call `void function(arguments)` by address."""
        kinds = [a.type.llvm if isinstance(a, Value) else ir.PointerType() for a in arguments]
        callee = _Callee(function.ir, ir.FunctionType(ir.VoidType(), kinds))
        self.builder.call(callee, [a.ir for a in arguments])

    # -- values ---------------------------------------------------------------------------------
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

    def transpose(self, rows: Sequence[Value]) -> list[Value]:
        """n vectors of n lanes (a power of two) -> vector i holds lane i of each."""
        n, turned = len(rows), list(rows)
        distance = 1
        while distance < n:
            # Swap the off-diagonal blocks of every square of 2 x `distance` rows and lanes.
            for i in (i for i in range(n) if not i & distance):
                a, b = turned[i], turned[i + distance]
                low = [j if not j & distance else n + j - distance for j in range(n)]
                high = [j + distance if not j & distance else n + j for j in range(n)]
                turned[i], turned[i + distance] = a.shuffle(low, b), a.shuffle(high, b)
            distance *= 2
        return turned

    def cell(self, initial: Value | Type, name: str = "cell", mark: Any = None) -> Cell:
        """A mutable register, set here (or after the code marked) to a value, or to zero."""
        if isinstance(initial, Type):
            initial = self.constant(initial, 0)
        cell = Cell(self, initial.type, name)
        with self.builder.goto_block(mark or self.here()):
            cell.set(initial)
        return cell

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once where the CPU can, twice elsewhere."""
        a, b = self.match(a, b)
        a, c = self.match(a, c)
        return self.isa.fma(a, b, c)

    def maximum(self, a: Value, b: Value | Number) -> Value:
        """The larger; a where either is NaN."""
        a, b = self.match(a, b)
        return (a < b).select(b, a)

    def minimum(self, a: Value, b: Value | Number) -> Value:
        """The smaller; a where either is NaN."""
        a, b = self.match(a, b)
        return (b < a).select(b, a)

    def square_root(self, a: Value) -> Value:
        return self.intrinsic(f"llvm.sqrt.{_suffix(a.type)}", a.type, a)

    # -- control --------------------------------------------------------------------------------
    def range(
        self, stop: Value | int, start: Value | int = 0, step: Value | int = 1, name: str = "loop"
    ) -> Iterator[Value]:
        """`for i in k.range(n)`: a native loop over i64; the body is traced once."""
        first, last, stride = (
            v if isinstance(v, Value) else self.constant(i64, v) for v in (start, stop, step)
        )
        index = self.cell(first, name)
        body, done = (
            self.function.append_basic_block(f"{name}.{part}") for part in ("body", "end")
        )
        self.builder.cbranch((first < last).ir, body, done)
        self.builder.position_at_end(body)
        yield index.get()
        following = index.get() + stride
        index.set(following)
        self.builder.cbranch((following < last).ir, body, done)
        self.builder.position_at_end(done)

    def here(self) -> Any:
        """A mark of this place, at which a cell can be zeroed from further on."""
        return self.builder.block

    def strips(self, count: Value, sizes: Sequence[int]) -> Iterator[tuple[int, Value]]:
        """Walk `count` elements in strips: as many of the first size as fit, then of the next.

        Yields (size, first element), once for each size. Sizes are powers of two.
        """
        done = self.constant(i64, 0)
        for size in sizes:
            n_strips = (count - done) >> (size.bit_length() - 1)
            for i in self.range(n_strips, name=f"strip{size}"):
                yield size, done + i * size
            done = done + n_strips * size

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """`with k.when(c)`: run the body where the u1 is set."""
        with self.builder.if_then(condition.ir):
            yield

    @contextmanager
    def loop(self, name: str = "loop") -> Iterator[Loop]:
        """`with k.loop() as loop`: repeat until `loop.leave(condition)`."""
        body, done = (
            self.function.append_basic_block(f"{name}.{part}") for part in ("body", "end")
        )
        self.builder.branch(body)
        self.builder.position_at_end(body)
        yield Loop(self, done)
        self.builder.branch(body)
        self.builder.position_at_end(done)


@dataclass(frozen=True, slots=True)
class Loop:
    """An endless loop's way out."""

    k: Kernel
    done: Any

    def leave(self, condition: Value) -> None:
        """Leave the loop where the u1 is set."""
        stay = self.k.function.append_basic_block("stay")
        self.k.builder.cbranch(condition.ir, self.done, stay)
        self.k.builder.position_at_end(stay)


@dataclass(frozen=True)
class _Callee:
    """A function known by its address: as much of one as llvmlite's `call` looks at."""

    address: Any
    function_type: Any

    def get_reference(self) -> str:
        return str(self.address.get_reference())


def _suffix(type: Type) -> str:
    """How LLVM names a type in an intrinsic: v16f32, i64."""
    return (
        f"v{type.lanes}" if type.lanes else ""
    ) + f"{'f' if type.kind == 'f' else 'i'}{type.bits}"
