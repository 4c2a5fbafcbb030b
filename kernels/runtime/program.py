"""A forward pass as a list of steps: recorded once, run natively or, as reference, in numpy.

Recording names buffers and steps. `Program.lower` then fills an array of step records, one native
function and its arguments each, which a `Team` of threads walks once per pass. What changes from
pass to pass (how many tokens, their ids, positions, cache slots) lies in input buffers that the
steps read, so a lowered program serves every pass.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import Type
from linnet.kernels.memory import aligned, in_huge_pages
from linnet.kernels.ops.base import Op
from linnet.kernels.ops.work import Work
from linnet.kernels.runtime.step_record import RECORD_BYTES, STEP_RECORD

Array = npt.NDArray[Any]
ALIGNMENT = 64


class Rows(enum.IntEnum):
    """What a buffer has a row for; the value is the index of the row count in `Program.state`."""

    TOKENS = 0
    OUTPUTS = 1


@dataclass(eq=False, slots=True)
class Buffer:
    """An array (rows, width), or (rows,) where width is 0, placed when the program is laid out.

    `most_rows`: what it has room for, if not for all of a pass.
    """

    name: str
    rows: Rows
    width: int
    dtype: np.dtype[Any]
    array: Array | None = None
    most_rows: int | None = None

    @property
    def data(self) -> Array:
        """The array (most rows, width). Raises RuntimeError before the program is laid out."""
        if self.array is None:
            raise RuntimeError(f"buffer {self.name!r} is not laid out")
        return self.array

    def shape(self, n_rows: int) -> tuple[int, ...]:
        return (n_rows, self.width) if self.width else (n_rows,)


@dataclass(eq=False, slots=True)
class Persistent:
    """An array that holds from pass to pass, placed before the program is lowered.

    `shape`: what each slot has of it, or, of what slots share, all.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    array: Array | None = None

    @property
    def data(self) -> Array:
        """The array (n_slots, *shape), or (*shape). Raises RuntimeError before it is placed."""
        if self.array is None:
            raise RuntimeError(f"{self.name!r} is not placed")
        return self.array

    @property
    def n_bytes(self) -> int:
        """What `shape` takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def place(self, *n_slots: int) -> None:
        """Take memory of zeros, for so many slots or for what they share. Raises MemoryError."""
        memory = aligned(math.prod(n_slots) * self.n_bytes)
        self.array = memory.view(self.dtype).reshape(*n_slots, *self.shape)


Argument = Buffer | Persistent | Array | int | float


@dataclass(frozen=True, slots=True)
class Step:
    """One op with its arguments; `name` is for reports and errors."""

    name: str
    op: Op
    arguments: dict[str, Argument]

    @property
    def rows(self) -> Rows:
        """What the op's items count: rows of what it writes, or of what it reads into a cache.

        Raises TypeError for a step without buffers.
        """
        written = [self.arguments[name] for name in self.op.writes]
        buffers = [a for a in (*written, *self.arguments.values()) if isinstance(a, Buffer)]
        if not buffers:
            raise TypeError(f"{self.name}: none of its arguments is a buffer")
        return buffers[0].rows

    def sizes(self) -> dict[str, Any]:
        """The arguments, with buffers given as their widths: what item counts depend on."""
        return {n: a.width if isinstance(a, Buffer) else a for n, a in self.arguments.items()}


@dataclass(frozen=True, slots=True)
class Lowered:
    """Native step records (n_steps,) of `STEP_RECORD`, and what must live as long as they do.

    `arguments`: for each step, by name, the eight bytes (1,) in which it finds an argument: a
    number, or the address of an array, which may be pointed to another of the same shape.
    """

    records: Array
    steps: Sequence[Step]
    arguments: Sequence[dict[str, npt.NDArray[np.uint64]]]
    scratch_bytes: int
    owned: Sequence[Any]


@dataclass(frozen=True, slots=True)
class _Placed:
    """What of a step is the same for every number of rows, once its buffers are laid out.

    `words`: its arguments as kernels take them, by name, and `n_rows`: the address at which rows
    are counted. `barrier`: whether it needs what the steps since the last barrier make, or writes
    what they use.
    """

    step: Step
    rows: Rows
    sizes: dict[str, Any]
    words: dict[str, int]
    barrier: bool


@dataclass(slots=True)
class Program:
    """The steps of one forward pass of up to `max_tokens` tokens and `max_outputs` outputs.

    Inputs: `tokens`, `positions`, `slots` i32 (one a token), `outputs` i32 (rows whose logits are
    wanted), and `state` i64: the number of tokens and of outputs in this pass.
    """

    max_tokens: int
    max_outputs: int
    steps: list[Step] = field(default_factory=list)
    state: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(8, np.int64))
    tokens: Buffer = field(init=False)
    positions: Buffer = field(init=False)
    slots: Buffer = field(init=False)
    outputs: Buffer = field(init=False)
    _placed: list[_Placed] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        for name in ("tokens", "positions", "slots", "outputs"):
            rows = Rows.OUTPUTS if name == "outputs" else Rows.TOKENS
            size = self.max_outputs if name == "outputs" else self.max_tokens
            buffer = Buffer(name, rows, 0, np.dtype(np.int32), np.zeros(size, np.int32))
            setattr(self, name, buffer)

    # -- recording ------------------------------------------------------------------------------
    def buffer(
        self, name: str, width: int, *, rows: Rows = Rows.TOKENS, dtype: Any = np.float32,
        most_rows: int | None = None,
    ) -> Buffer:  # fmt: skip
        """A new array (rows, width); outside of its live range, others have its memory."""
        return Buffer(name, rows, width, np.dtype(dtype), most_rows=most_rows)

    def step(self, name: str, op: Op, **arguments: Argument) -> None:
        """Record an op. Raises TypeError unless the arguments are exactly its parameters.

        `n_rows`, where rows are counted, is not given: it is the program's own.
        """
        parameters = op.parameters.keys() - {"n_rows"}
        if arguments.keys() != parameters:
            raise TypeError(f"{name}: takes {sorted(parameters)}, given {sorted(arguments)}")
        self.steps.append(Step(name, op, arguments))
        self._placed = []

    def layout_bytes(self, keep: Sequence[Buffer]) -> int:
        """What `lay_out` will allocate."""
        places, _ = self._places(keep)
        return max((end for _, end in places.values()), default=0)

    def lay_out(self, keep: Sequence[Buffer]) -> None:
        """Give every buffer its memory; `keep`: those that must still hold after the last step."""
        self._placed = []
        places, reused = self._places(keep)
        arena = in_huge_pages(max((end for _, end in places.values()), default=0))
        for buffer in (*places, *reused):
            start, _ = places[reused.get(buffer, buffer)]
            shape = buffer.shape(self._rows_of(buffer))
            view = arena[start : start + self._n_bytes(buffer)]
            buffer.array = view.view(buffer.dtype).reshape(shape)

    def _places(
        self, keep: Sequence[Buffer]
    ) -> tuple[dict[Buffer, tuple[int, int]], dict[Buffer, Buffer]]:
        """(start, end) of buffers in the memory they share, by their live ranges; and those that
        are written in place, each with the buffer whose memory it reuses."""
        lives: dict[Buffer, list[int]] = {}  # the first and the last step that uses it
        for i, step in enumerate(self.steps):
            for argument in step.arguments.values():
                if isinstance(argument, Buffer) and argument.array is None:
                    lives.setdefault(argument, [i, i])[1] = i
        for buffer in keep:
            lives[buffer][1] = len(self.steps)
        reused = self._reused(lives)
        for buffer, home in reused.items():
            lives[home][1] = max(lives[home][1], lives[buffer][1])
        places: dict[Buffer, tuple[int, int]] = {}
        for buffer in (b for b in lives if b not in reused):
            size = -(-self._n_bytes(buffer) // ALIGNMENT) * ALIGNMENT
            start = 0
            for other, (other_start, other_end) in sorted(places.items(), key=lambda p: p[1]):
                meet = lives[buffer][0] <= lives[other][1] and lives[other][0] <= lives[buffer][1]
                if meet and start < other_end and other_start < start + size:
                    start = other_end
            places[buffer] = start, start + size
        return places, reused

    def _reused(self, lives: dict[Buffer, list[int]]) -> dict[Buffer, Buffer]:
        """Buffers that an op writes in place -> the first buffer in whose memory they lie."""
        reused: dict[Buffer, Buffer] = {}
        for i, step in enumerate(self.steps):
            x, out = (step.arguments.get(name) for name in (step.op.in_place, "out"))
            if not (isinstance(x, Buffer) and isinstance(out, Buffer) and {x, out} <= lives.keys()):
                continue
            if lives[x][1] == i == lives[out][0] and self._n_bytes(x) == self._n_bytes(out):
                reused[out] = reused.get(x, x)
        return reused

    def _most(self, rows: Rows) -> int:
        return self.max_tokens if rows == Rows.TOKENS else self.max_outputs

    def _rows_of(self, buffer: Buffer) -> int:
        return buffer.most_rows or self._most(buffer.rows)

    def _n_bytes(self, buffer: Buffer) -> int:
        return self._rows_of(buffer) * max(buffer.width, 1) * buffer.dtype.itemsize

    # -- running --------------------------------------------------------------------------------
    def lower(
        self, library: Library, *, n_tokens: int | None = None, n_outputs: int | None = None
    ) -> Lowered:
        """Native records for passes of exactly so many tokens and outputs; of any number for None.

        May be called from any thread, also while others lower or run passes. Raises CompileError,
        and RuntimeError where a buffer is not laid out.
        """
        n_rows, isa = {Rows.TOKENS: n_tokens, Rows.OUTPUTS: n_outputs}, library.isa
        self._placed = placed_steps = self._placed or list(self._place())
        kernels: dict[tuple[Op, Rows], tuple[Op, int]] = {}  # which layers have in common
        records: list[tuple[int, ...]] = []  # with an index into `words` for an address
        words: list[int] = []
        ops, scratch_bytes = [], 0
        for placed in placed_steps:
            key, sizes = (placed.step.op, placed.rows), placed.sizes
            if key not in kernels:
                op = placed.step.op.lowered(n_rows[placed.rows], isa)
                kernels[key] = op, library.address(op)
            op, function = kernels[key]
            items, chunk = op.items(isa, **sizes), op.chunk(isa, **sizes)
            counted = placed.words["n_rows"]
            records.append((function, len(words), *items, counted, placed.barrier, *chunk))
            words += [placed.words[name] for name in op.parameters]
            scratch_bytes = max(scratch_bytes, op.scratch_bytes(isa, self._most(placed.rows)))
            ops.append(op)
        memory = np.array(words, np.uint64)
        native = aligned(len(records) * RECORD_BYTES).view(STEP_RECORD)
        native.view(np.uint64)[:] = np.array(records, np.uint64).reshape(-1)
        native["arguments"] = memory.ctypes.data + 8 * native["arguments"]
        arguments = [
            dict(zip(op.parameters, memory[record[1] :].reshape(-1, 1), strict=False))
            for op, record in zip(ops, records, strict=True)
        ]
        scratch_bytes = -(-scratch_bytes // ALIGNMENT) * ALIGNMENT
        return Lowered(native, self.steps, arguments, scratch_bytes, owned=[library, self.state])

    def _place(self) -> Iterator[_Placed]:
        """The steps of a program whose buffers are laid out."""
        since_barrier: list[tuple[int, int, bool]] = []  # first address, end, whether written
        for step in self.steps:
            given = {
                n: a.data if isinstance(a, Buffer | Persistent) else a
                for n, a in step.arguments.items()
            }
            accesses = [
                (a.ctypes.data, a.ctypes.data + a.nbytes, name in step.op.writes)
                for name, a in given.items()
                if isinstance(a, np.ndarray)
            ]
            barrier = any(_conflict(a, b) for a in accesses for b in since_barrier)
            since_barrier = accesses if barrier else since_barrier + accesses
            words = {name: _word(step.op.parameters[name], a) for name, a in given.items()}
            words["n_rows"] = self.state.ctypes.data + 8 * step.rows
            yield _Placed(step, step.rows, step.sizes(), words, barrier)

    def reference(self, after: Callable[[Step, dict[str, Any]], None] | None = None) -> None:
        """Run the steps in numpy on the same buffers; `after` sees each with its arguments."""
        for step in self.steps:
            arguments = self.arguments(step)
            step.op.reference(**arguments)
            if after:
                after(step, arguments)

    def work(self, step: Step) -> Work:
        """What a step costs in the pass that the inputs describe."""
        return step.op.work(**self.arguments(step)) if self.state[step.rows] else Work(0, 0)

    def arguments(self, step: Step) -> dict[str, Any]:
        """A step's arguments: of buffers their arrays, cut to the rows of this pass."""
        return {name: self._current(argument) for name, argument in step.arguments.items()}

    def _current(self, argument: Argument) -> Any:
        if isinstance(argument, Buffer):
            return argument.data[: int(self.state[argument.rows])]
        return argument.data if isinstance(argument, Persistent) else argument


def _word(type: Type, argument: Any) -> int:
    """An argument as kernels find it in 8 bytes: an address, an i64, or an f32 in the first 4."""
    if isinstance(argument, np.ndarray):
        return int(argument.ctypes.data)
    if type.kind == "f":
        return int(np.array([argument, 0], np.float32).view(np.uint64)[0])
    return index(argument)


def _conflict(a: tuple[int, int, bool], b: tuple[int, int, bool]) -> bool:
    return a[0] < b[1] and b[0] < a[1] and (a[2] or b[2])
