"""What a step has to do: arithmetic operations and bytes, whatever the machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from linnet.kernels.ops.attention import Attend
from linnet.kernels.products.linear import Product
from linnet.kernels.runtime.program import Buffer, Program, Step

PICKED = frozenset({"table", "cache", "keys", "values"})  # arrays of which a step takes some rows


@dataclass(frozen=True, slots=True)
class Work:
    """`n_operations`: multiplications and additions; `n_bytes`: what it has to read."""

    n_operations: int
    n_bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.n_operations + other.n_operations, self.n_bytes + other.n_bytes)


def work(step: Step, program: Program) -> Work:
    """The work of a step in the pass that the program's inputs describe.

    A product reads packed weights once and takes two operations for each of them and each row that
    it multiplies (of experts: those of each row, and the bytes of as many as the rows can take);
    attention reads keys and values once for each sequence, and takes four for each number of a head
    and position seen; activations, which caches hold, are not counted. The other steps are counted
    by what they read and write, and as one operation for each number they write.
    """
    n_rows = int(program.state[step.rows])
    if not n_rows:
        return Work(0, 0)
    if isinstance(step.op, Attend):
        return _attention(step.op, step, program)
    if isinstance(step.op, Product):
        sizes = step.sizes()
        n_bytes = step.op.read(n_rows, **step.arguments).nbytes
        return Work(2 * n_rows * int(sizes["out"]) * int(sizes["n_columns"]), n_bytes)
    written = [_buffer_size(step.arguments[name], program) for name in step.op.writes]
    return Work(sum(numbers for numbers, _ in written), _bytes_of_arguments(step, program))


def seen(step: Step, position: int) -> int:
    """How many positions the token at `position` attends to."""
    window = step.sizes().get("window", position + 1)
    return int(min(position + 1, window))


def bytes_seen(step: Step, n_positions: int) -> int:
    """Keys and values of so many positions of one sequence, for an attention step."""
    values = step.arguments["values"]
    if not isinstance(values, np.ndarray):
        raise TypeError(f"{step.name}: its values are not an array")
    return 2 * int(values[0, :, 0].nbytes) * n_positions  # of (slots, heads, positions, head_dim)


def _attention(op: Attend, step: Step, program: Program) -> Work:
    n = int(program.state[0])
    positions, slots = program.positions.data[:n], program.slots.data[:n]
    n_heads = op.group * int(step.sizes()["n_kv_heads"])
    n_seen = sum(seen(step, int(position)) for position in positions)
    last = {int(slot): int(positions[slots == slot].max()) for slot in slots}
    read = sum(bytes_seen(step, seen(step, position)) for position in last.values())
    return Work(4 * op.head_dim * n_heads * n_seen, read)


def _bytes_of_arguments(step: Step, program: Program) -> int:
    total = 0
    for name, argument in step.arguments.items():
        if isinstance(argument, Buffer) and name not in PICKED:
            total += _buffer_size(argument, program)[1]
        elif isinstance(argument, np.ndarray) and name not in PICKED:
            total += argument.nbytes
    return total


def _buffer_size(argument: object, program: Program) -> tuple[int, int]:
    """Numbers and bytes in the rows of this pass; none for what is no buffer."""
    if not isinstance(argument, Buffer):
        return 0, 0
    numbers = int(program.state[argument.rows]) * max(argument.width, 1)
    return numbers, numbers * argument.dtype.itemsize
