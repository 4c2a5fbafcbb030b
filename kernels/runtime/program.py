"""A forward pass as a list of steps: recorded once, run natively or, as reference, in numpy.

Recording names buffers and steps. `Program.lower` then fills an array of step records, one native
function and its arguments each, which a `Team` of threads walks once per pass. What changes from
pass to pass (how many tokens, their ids, positions, cache slots) lies in input buffers that the
steps read, so a lowered program serves every pass.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import pointer
from linnet.kernels.ops.base import Op
from linnet.kernels.runtime.memory import aligned
from linnet.kernels.runtime.step_record import RECORD_BYTES, STEP_RECORD

Array = npt.NDArray[Any]
ALIGNMENT = 64


class Rows(enum.IntEnum):
    """What a buffer has a row for; the value is the index of their number in `Program.state`."""

    TOKENS = 0
    OUTPUTS = 1


@dataclass(eq=False, slots=True)
class Buffer:
    """An array (rows, width), or (rows,) where width is 0, placed when the program is laid out."""

    name: str
    rows: Rows
    width: int
    dtype: np.dtype[Any]
    array: Array | None = None

    @property
    def data(self) -> Array:
        """The array (most rows, width). Raises RuntimeError before the program is laid out."""
        if self.array is None:
            raise RuntimeError(f"buffer {self.name!r} is not laid out")
        return self.array

    def shape(self, n_rows: int) -> tuple[int, ...]:
        return (n_rows, self.width) if self.width else (n_rows,)


Argument = Buffer | Array | int | float


@dataclass(frozen=True, slots=True)
class Step:
    """One op with its arguments; `name` is for people."""

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
        """Buffers as their widths, arrays and numbers as they are: what item counts depend on."""
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

    def __post_init__(self) -> None:
        for name in ("tokens", "positions", "slots", "outputs"):
            rows = Rows.OUTPUTS if name == "outputs" else Rows.TOKENS
            size = self.max_outputs if name == "outputs" else self.max_tokens
            buffer = Buffer(name, rows, 0, np.dtype(np.int32), np.zeros(size, np.int32))
            setattr(self, name, buffer)

    # -- recording ------------------------------------------------------------------------------
    def buffer(
        self, name: str, width: int, *, rows: Rows = Rows.TOKENS, dtype: Any = np.float32
    ) -> Buffer:
        """A new array (rows, width), whose memory others share when no step needs it."""
        return Buffer(name, rows, width, np.dtype(dtype))

    def step(self, name: str, op: Op, **arguments: Argument) -> None:
        """Record an op. Raises TypeError unless the arguments are exactly its parameters.

        `n_rows`, where rows are counted, is not given: it is the program's own.
        """
        parameters = op.parameters.keys() - {"n_rows"}
        if arguments.keys() != parameters:
            raise TypeError(f"{name}: takes {sorted(parameters)}, given {sorted(arguments)}")
        self.steps.append(Step(name, op, arguments))

    def layout_bytes(self, keep: Sequence[Buffer]) -> int:
        """What `lay_out` will allocate."""
        places, _ = self._places(keep)
        return max((end for _, end in places.values()), default=0)

    def lay_out(self, keep: Sequence[Buffer]) -> None:
        """Give every buffer its memory; `keep`: those that must still hold after the last step."""
        places, heirs = self._places(keep)
        arena = aligned(max((end for _, end in places.values()), default=0))
        for buffer in (*places, *heirs):
            start, _ = places[heirs.get(buffer, buffer)]
            shape = buffer.shape(self._most(buffer.rows))
            view = arena[start : start + self._n_bytes(buffer)]
            buffer.array = view.view(buffer.dtype).reshape(shape)

    def _places(
        self, keep: Sequence[Buffer]
    ) -> tuple[dict[Buffer, tuple[int, int]], dict[Buffer, Buffer]]:
        """Where buffers start and end in the memory they share, and heirs, in others' places."""
        lives: dict[Buffer, list[int]] = {}
        for i, step in enumerate(self.steps):
            for argument in step.arguments.values():
                if isinstance(argument, Buffer) and argument.array is None:
                    lives.setdefault(argument, [i, i])[1] = i
        for buffer in keep:
            lives[buffer][1] = len(self.steps)
        heirs = self._heirs(lives)
        for buffer, home in heirs.items():
            lives[home][1] = max(lives[home][1], lives[buffer][1])
        places: dict[Buffer, tuple[int, int]] = {}  # (start, end)
        for buffer in (b for b in lives if b not in heirs):
            size = -(-self._n_bytes(buffer) // ALIGNMENT) * ALIGNMENT
            start = 0
            for other, (other_start, other_end) in sorted(places.items(), key=lambda p: p[1]):
                meet = lives[buffer][0] <= lives[other][1] and lives[other][0] <= lives[buffer][1]
                if meet and start < other_end and other_start < start + size:
                    start = other_end
            places[buffer] = start, start + size
        return places, heirs

    def _heirs(self, lives: dict[Buffer, list[int]]) -> dict[Buffer, Buffer]:
        """Buffers written where one was read for the last time, and whose memory they take over."""
        heirs: dict[Buffer, Buffer] = {}
        for i, step in enumerate(self.steps):
            x, out = (step.arguments.get(name) for name in (step.op.in_place, "out"))
            if not (isinstance(x, Buffer) and isinstance(out, Buffer) and {x, out} <= lives.keys()):
                continue
            if lives[x][1] == i == lives[out][0] and self._n_bytes(x) == self._n_bytes(out):
                heirs[out] = heirs.get(x, x)
        return heirs

    def _most(self, rows: Rows) -> int:
        return self.max_tokens if rows == Rows.TOKENS else self.max_outputs

    def _n_bytes(self, buffer: Buffer) -> int:
        return self._most(buffer.rows) * max(buffer.width, 1) * buffer.dtype.itemsize

    # -- running --------------------------------------------------------------------------------
    def lower(
        self, library: Library, *, n_tokens: int | None = None, n_outputs: int | None = None
    ) -> Lowered:
        """Native records for passes of exactly so many tokens and outputs; of any number for None.

        Raises CompileError.
        """
        n_rows = {Rows.TOKENS: n_tokens, Rows.OUTPUTS: n_outputs}
        records = aligned(len(self.steps) * RECORD_BYTES).view(STEP_RECORD)
        owned: list[Any] = [records, library, self.state]
        scratch_bytes, slots = 0, []
        since_barrier: list[tuple[int, int, bool]] = []
        for record, step in zip(records, self.steps, strict=True):
            op = step.op.lowered(n_rows[step.rows], library.isa)
            count, rows = op.items(library.isa, **step.sizes())
            arguments = self._native_arguments(op, step)
            accesses = list(_accesses(op, step))
            barrier = any(_conflict(a, b) for a in accesses for b in since_barrier)
            since_barrier = accesses if barrier else since_barrier + accesses
            record["function"], record["arguments"] = library.address(op), arguments.ctypes.data
            record["items"], record["rows_of_items"] = count, rows
            record["n_rows"] = self.state.ctypes.data + 8 * step.rows
            record["barrier"] = barrier
            record["fewest"], record["most"] = op.chunk(library.isa, **step.sizes())
            scratch_bytes = max(scratch_bytes, op.scratch_bytes(library.isa, self._most(step.rows)))
            slots.append(dict(zip(op.parameters, arguments.reshape(-1, 1), strict=True)))
        scratch_bytes = -(-scratch_bytes // ALIGNMENT) * ALIGNMENT
        return Lowered(records, self.steps, slots, scratch_bytes, owned)

    def _native_arguments(self, op: Op, step: Step) -> npt.NDArray[np.uint64]:
        """One 8-byte slot a parameter; `n_rows` is where the rows of this pass are counted."""
        slots = np.zeros(len(op.parameters), np.uint64)
        for i, (name, type) in enumerate(op.parameters.items()):
            argument: Any = self.state[step.rows :] if name == "n_rows" else step.arguments[name]
            if type == pointer:
                array = argument.data if isinstance(argument, Buffer) else argument
                slots[i] = array.ctypes.data
            elif type.kind == "f":
                slots[i : i + 1].view(np.float32)[0] = argument
            else:
                slots[i] = argument
        return slots

    def reference(self, after: Callable[[Step, dict[str, Any]], None] | None = None) -> None:
        """Run the steps in numpy on the same buffers; `after` sees each with its arguments."""
        for step in self.steps:
            arguments = {name: self._current(a) for name, a in step.arguments.items()}
            step.op.reference(**arguments)
            if after:
                after(step, arguments)

    def _current(self, argument: Argument) -> Any:
        """A buffer's array, cut to the rows of this pass."""
        if isinstance(argument, Buffer):
            return argument.data[: int(self.state[argument.rows])]
        return argument


def _accesses(op: Op, step: Step) -> Iterator[tuple[int, int, bool]]:
    """(first address, end, whether written) of every array the step touches."""
    for name, argument in step.arguments.items():
        if isinstance(argument, Buffer | np.ndarray):
            array = argument.data if isinstance(argument, Buffer) else argument
            start = array.ctypes.data
            yield start, start + array.nbytes, name in op.writes


def _conflict(a: tuple[int, int, bool], b: tuple[int, int, bool]) -> bool:
    return a[0] < b[1] and b[0] < a[1] and (a[2] or b[2])
