"""Programs of small ops for teams of threads to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import i64, pointer, u32
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import ALL_ROWS, Op, OpKernel
from linnet.kernels.runtime.program import Lowered, Program
from support.kernel_harness import Array, LocalOp


@dataclass(frozen=True)
class AddReversed(LocalOp):
    """out[i] = x[n - 1 - i] + 1: what one thread makes, another one takes."""

    parameters = {"x": pointer, "out": pointer, "n_items": i64, "rows": pointer}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_items"], ALL_ROWS

    def emit(self, k: OpKernel, **a: Any) -> None:
        for item in k.items():
            before = a["x"].load(i64, (a["n_items"] - 1 - item) * 8)
            a["out"].store(before + 1, item * 8)


@dataclass(frozen=True)
class WaitForFlag(LocalOp):
    """Write 1 to out, then wait until `flag` is 1."""

    parameters = {"out": pointer, "flag": pointer, "rows": pointer}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, ALL_ROWS

    def emit(self, k: OpKernel, **a: Any) -> None:
        for _ in k.items():
            a["out"].atomic_store(k.constant(u32, 1))
            with k.loop() as loop:
                loop.leave(a["flag"].atomic_load(u32).equals(1))
                k.pause()


def lowered(library: Library, *steps: tuple[Op, dict[str, Any]]) -> Lowered:
    """A program of ops with their arguments, for passes of one row."""
    program = Program(1, 1)
    program.state[:] = 1
    for op, arguments in steps:
        program.step("step", op, **arguments, rows=program.tokens)
    return program.lower(library)


def chain(library: Library, length: int, n_items: int) -> tuple[Lowered, Array]:
    """Steps that each need all that the last one made; `length` more in every number a pass."""
    numbers = [np.zeros(n_items, np.int64) for _ in range(2)]
    steps = [
        (AddReversed(), {"x": numbers[i % 2], "out": numbers[(i + 1) % 2], "n_items": n_items})
        for i in range(length)
    ]
    return lowered(library, *steps), numbers[length % 2]
