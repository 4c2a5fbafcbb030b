"""Addresses, and the mutable registers of a kernel under construction."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from linnet.kernels.ir.types import Type, u1
from linnet.kernels.ir.values import Emitter, Number, Value


class Pointer:
    """An address; loads and stores take a type and an offset in bytes, and need no alignment."""

    __slots__ = ("ir", "k")

    def __init__(self, k: Emitter, value: Any) -> None:
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

    def prefetch(self, offset: Value | int, *, level: int = 1) -> None:
        """Ask for the cache line `offset` bytes ahead, to be in that level of cache; never faults,
        changes no result."""
        constants = [ir.Constant(ir.IntType(32), n) for n in (0, 4 - level, 1)]  # read, keep, data
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

    def __init__(self, k: Emitter, type: Type, name: str) -> None:
        self.k, self.type = k, type
        with k.builder.goto_entry_block():
            self.place = k.builder.alloca(type.llvm, name=name)

    def get(self) -> Value:
        loaded = self.k.builder.load(self.place, typ=self.type.llvm)
        return Value(self.k, loaded, self.type)

    def set(self, value: Value | Number) -> None:
        stored = value if isinstance(value, Value) else self.k.constant(self.type, value)
        self.k.builder.store(stored.ir, self.place)
