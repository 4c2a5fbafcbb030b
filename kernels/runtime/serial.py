"""A lowered program on the calling thread alone: one native call, and no team to wake or wait for.

    for step in steps:  step.function(all its items)

A call costs 0.1 microseconds: ctypes takes longer for each argument, so there is only one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import Kernel, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.memory import in_huge_pages
from linnet.kernels.runtime.program import Lowered
from linnet.kernels.runtime.step_record import AT, RECORD_BYTES
from linnet.kernels.runtime.team import item_count

# Byte offsets into what the native function is given
STEPS, N_STEPS, SCRATCH = 0, 8, 16


def serial(library: Library, program: Lowered, *owned: Any) -> Callable[[], None]:
    """A function that runs a program and keeps alive what it needs, and what is `owned` besides.

    Not for two threads at once: they would share its buffers. Raises CompileError.
    """
    scratch = in_huge_pages(program.scratch_bytes)
    given = (program.records.ctypes.data, len(program.records), scratch.ctypes.data)
    memory = np.array(given, np.uint64)
    walk: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library.address(_Walk()))
    walk.owned = library, program, scratch, memory, owned
    return partial(walk, memory.ctypes.data)  # a partial adds no Python frame to the call


class _Walk:
    """`void serial(given)`: take all items of every step, in order."""

    symbol = "serial"

    def ir(self, isa: ISA) -> str:
        k = Kernel(self.symbol, {"given": pointer}, isa)
        given = k.parameters["given"]
        steps, scratch = given.load_pointer(STEPS), given.load_pointer(SCRATCH)
        for i in k.range(given.load(i64, N_STEPS), name="step"):
            step = steps.at(i * RECORD_BYTES)
            arguments, first = step.load_pointer(AT["arguments"]), k.constant(i64, 0)
            k.call(step.load_pointer(AT["function"]), arguments, first, item_count(step), scratch)
        return k.finish()
