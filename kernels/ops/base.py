"""What every kernel is: an operation with named arguments, native code, and a numpy reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from inspect import signature
from typing import Annotated, Any, ClassVar, TypeAlias, TypeGuard, get_args, get_type_hints

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import Kernel, Pointer, Type, Value, f32, i32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.ops.work import Work

Array: TypeAlias = npt.NDArray[Any]
ALL_ROWS = 1 << 62
MOST_FEW_ROWS = 8  # that ops are lowered for by their number
SIGNATURE = {"arguments": pointer, "first": i64, "last": i64, "scratch": pointer}


@dataclass(frozen=True, slots=True)
class Numbers:
    """The address of numbers of one type, which offsets count: C's `float *`, for f32."""

    address: Pointer
    type: Type

    def at(self, i: Value | int) -> Numbers:
        """Those from the i-th on."""
        return Numbers(self.address.at(i * self.type.bytes), self.type)

    def load(self, i: Value | int = 0, lanes: int = 0) -> Value:
        """The i-th number, or a vector of it and what follows."""
        return self.address.load(self.type[lanes], i * self.type.bytes)

    def index(self, i: Value | int = 0) -> Value:
        """The i-th number, an integer, as i64: the type in which rows and places are counted."""
        return self.load(i).to(i64)

    def store(self, value: Value, i: Value | int = 0) -> None:
        """Write a number, or a vector, from the i-th on."""
        self.address.store(value, i * self.type.bytes)


# What `emit` takes, beside `Pointer`: arrays, and numbers.
Float32s: TypeAlias = Annotated[Numbers, f32]
Int32s: TypeAlias = Annotated[Numbers, i32]
Int64s: TypeAlias = Annotated[Numbers, i64]
Int: TypeAlias = Annotated[Value, i64]
Float: TypeAlias = Annotated[Value, f32]


class Op:
    """A frozen dataclass whose fields specialise the kernel (quant type, row count, ...).

    `parameters`: the arguments a step gives, by name, as 8-byte slots. They are what `emit` takes
    after `k`: an array (`Float32s`, `Int32s`, `Int64s`, or `Pointer` for bytes) or a number (`Int`,
    `Float`). `elements`: the types of what arrays of numbers hold.
    `writes`: which of them are written; the other pointers are only read.
    `in_place`: which of them may lie where `out` does, item by item.
    `picks`: arrays of which some rows are taken, and the argument that has their numbers.
    `scratch_bytes`: private memory a thread needs while it runs this kernel.
    """

    parameters: ClassVar[dict[str, Type]]
    elements: ClassVar[dict[str, Type]] = {}
    writes: ClassVar[frozenset[str]] = frozenset({"out"})
    in_place: ClassVar[str] = ""
    picks: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls) -> None:
        if "emit" in cls.__dict__ and "parameters" not in cls.__dict__:
            hints = _hints(cls.emit)
            if hints:
                cls.parameters = {n: t if of is Value else pointer for n, (of, t) in hints.items()}
                cls.elements = {n: t for n, (of, t) in hints.items() if of is Numbers}

    @property
    def symbol(self) -> str:
        """The native function's name, and the part of the cache key that is the op's own."""
        values = [str(getattr(self, field.name)) for field in fields(self)]  # type: ignore[arg-type]
        return "_".join([type(self).__name__, *values]).lower()

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return 0

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        """(How many items there are, for how many rows of the pass each time.)

        So many for each row: (n, 1); for each eight of them, the last few included: (n, 8); and
        (n, ALL_ROWS) where it is n whatever the rows. `sizes`: the arguments, with buffers given as
        their widths.
        """
        raise NotImplementedError

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        """The fewest and the most items that a thread takes at a time."""
        return 1, 1

    def lowered(self, n_rows: int | None, isa: ISA) -> Op:
        """The op for passes of exactly `n_rows` rows; of any number, as a prompt has, for None."""
        return self

    def emit(self, k: OpKernel, *args: Any, **kwargs: Any) -> None:
        """Trace the kernel: work on items `k.first` to `k.last`."""
        raise NotImplementedError

    def reference(self, *args: Any, **kwargs: Any) -> None:
        """The same in numpy, on whole arrays; what tests hold `emit` against."""
        raise NotImplementedError

    def work(self, *args: Any, **arguments: Any) -> Work:
        """What it costs, given what `reference` is given: arrays cut to the rows of the pass.

        By default an operation for each number of what is written, and the bytes of all arrays; of
        those in `picks`, of each row that is taken, once.
        """
        n_bytes = 0
        for name, array in arguments.items():
            if name in self.picks:
                n_bytes += array[:1].nbytes * np.unique(arguments[self.picks[name]]).size
            elif isinstance(array, np.ndarray):
                n_bytes += array.nbytes
        return Work(sum(arguments[name].size for name in self.writes), n_bytes)

    def ir(self, isa: ISA) -> str:
        k = OpKernel(self.symbol, isa)
        slots: Pointer = k.parameters["arguments"]
        arguments: dict[str, Any] = {}
        for i, (name, type) in enumerate(self.parameters.items()):
            if type != pointer:
                arguments[name] = slots.load(type, 8 * i)
            elif name in self.elements:
                arguments[name] = Numbers(slots.load_pointer(8 * i), self.elements[name])
            else:
                arguments[name] = slots.load_pointer(8 * i)
        self.emit(k, **arguments)
        return k.finish()


class OpKernel(Kernel):
    """The native function of an op: `void op(arguments, first item, last item, scratch)`."""

    isa: ISA

    def __init__(self, symbol: str, isa: ISA) -> None:
        super().__init__(symbol, SIGNATURE, isa)
        self.first: Value = self.parameters["first"]
        self.last: Value = self.parameters["last"]
        self.scratch: Pointer = self.parameters["scratch"]

    def items(self, name: str = "item") -> Any:
        """A loop over the items this call was given."""
        return self.range(self.last, self.first, name=name)


def are_few(n_rows: int | None) -> TypeGuard[int]:
    """Whether `Op.lowered` is asked for the few rows of decoding, and not for any number."""
    return n_rows is not None and n_rows <= MOST_FEW_ROWS


def _hints(emit: Callable[..., None]) -> dict[str, tuple[Any, Type]]:
    """What `emit` takes after `k`: of which class (`Pointer`, `Numbers`, `Value`) and type."""
    hints = get_type_hints(emit, include_extras=True)
    named = [
        p.name for p in signature(emit).parameters.values() if p.kind == p.POSITIONAL_OR_KEYWORD
    ]
    return {n: get_args(hints[n]) or (hints[n], pointer) for n in named[2:]}
