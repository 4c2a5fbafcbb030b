"""A native function under construction: constants, vectors, calls, loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from linnet.kernels.ir.memory import Cell, Pointer
from linnet.kernels.ir.types import Type, i64, pointer
from linnet.kernels.ir.values import Emitter, Target, Value


class Kernel(Emitter):
    """One native function under construction: `void name(parameters)`."""

    def __init__(self, name: str, parameters: dict[str, Type], isa: Target) -> None:
        """`parameters`: names and types (`pointer` for an address), in calling order."""
        module = ir.Module(name)
        kinds = [ir.PointerType() if t == pointer else t.llvm for t in parameters.values()]
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
        builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        super().__init__(name, module, builder, isa)
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

    def pause(self) -> None:
        """Tell the CPU that this is a loop that waits."""
        self.isa.family.pause(self)

    def ticks(self) -> Value:
        """i64, a clock of the CPU that runs evenly, the same for all threads, in its own unit."""
        return self.isa.family.ticks(self)

    def call(self, function: Pointer, *arguments: Value | Pointer) -> None:
        """Call `void function(arguments)` by address."""
        kinds = [a.type.llvm if isinstance(a, Value) else ir.PointerType() for a in arguments]
        callee = _Callee(function.ir, ir.FunctionType(ir.VoidType(), kinds))
        self.builder.call(callee, [a.ir for a in arguments])

    # -- values ---------------------------------------------------------------------------------
    def transpose(self, rows: Sequence[Value]) -> list[Value]:
        """n vectors (a power of two) -> of every n lanes by themselves, vector i holds lane i of
        each."""
        n, turned = len(rows), list(rows)
        distance = 1
        while distance < n:
            # Swap the off-diagonal blocks of every square of 2 x `distance` rows and lanes.
            for i in (i for i in range(n) if not i & distance):
                a, b = turned[i], turned[i + distance]
                lanes, other = range(a.type.lanes), a.type.lanes
                low = [j if not j & distance else other + j - distance for j in lanes]
                high = [j + distance if not j & distance else other + j for j in lanes]
                turned[i], turned[i + distance] = a.shuffle(low, b), a.shuffle(high, b)
            distance *= 2
        return turned

    def reduce(
        self,
        vectors: Sequence[Value],
        combine: Callable[[Value, Value], Value],
        lanes: int | None = None,
    ) -> Value:
        """Every `lanes` lanes, or every vector, reduced to a number; in their order, side by side.

        `lanes`, the lanes of a vector and the number of vectors are powers of two. Halves are
        combined as in `Value.sum`, those of two vectors side by side: the same numbers in fewer
        instructions than one vector after the other takes.
        """
        parts, lanes = list(vectors), lanes or vectors[0].type.lanes  # that many still to combine
        while lanes > 1:
            lanes //= 2
            mates: list[Value | None] = [*parts[1::2]] or [None]
            parts = [combine(*_halves(a, b, lanes)) for a, b in zip(parts[::2], mates, strict=True)]
        return self.concat(parts)

    def cell(self, initial: Value | Type, name: str = "cell", mark: Any = None) -> Cell:
        """A mutable register; set to a value, or to zero, here or at a mark made by `here`."""
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
        """A mark of this place, for `cell` to set a register here later."""
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


def _halves(a: Value, b: Value | None, half: int) -> tuple[Value, Value]:
    """The first halves, and the second, of every 2 * `half` lanes of a, and of b behind them."""
    n = a.type.lanes * (1 if b is None else 2)
    first = [i for i in range(n) if i % (2 * half) < half]
    return a.shuffle(first, b), a.shuffle([i + half for i in first], b)


def _suffix(type: Type) -> str:
    """How LLVM names a type in an intrinsic: v16f32, i64."""
    return (
        f"v{type.lanes}" if type.lanes else ""
    ) + f"{'f' if type.kind == 'f' else 'i'}{type.bits}"
