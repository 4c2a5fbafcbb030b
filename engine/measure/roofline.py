"""The speed limits: how fast this machine reads weights, and how fast it multiplies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.bandwidth import BLOCK, ReadBytes
from linnet.kernels.ops.peak import Peak, PeakFMA
from linnet.kernels.products.base import Product
from linnet.kernels.runtime.program import Buffer, Program, Rows
from linnet.kernels.runtime.team import Team

PASSES = 3


def weights_read(
    program: Program, n_tokens: int = 1, n_outputs: int = 1
) -> list[npt.NDArray[np.uint8]]:
    """The packed matrices that a pass of so many tokens and outputs multiplies by; of the embedding
    only rows are read, and of experts as many as the tokens can take: see `Product.read`."""
    n_rows = {Rows.TOKENS: n_tokens, Rows.OUTPUTS: n_outputs}
    return [
        step.op.read(n_rows[step.rows], **step.arguments)
        for step in program.steps
        if isinstance(step.op, Product) and n_rows[step.rows]
    ]


def read_bandwidth(team: Team, library: Library, arrays: Sequence[npt.NDArray[np.uint8]]) -> float:
    """Bytes a second that the team's threads read of these arrays and do nothing else with.

    The best of a few passes over all of them: so caches help as much as they help decoding.
    """
    program = Program(max_tokens=1, max_outputs=1)
    for array in arrays:
        sums = np.zeros(-(-array.nbytes // BLOCK), np.uint64)
        data = array.reshape(-1)
        out = Buffer("sums", Rows.TOKENS, 0, sums.dtype, sums)
        program.step("read", ReadBytes(), data=data, out=out, n_bytes=data.nbytes)
    return sum(array.nbytes for array in arrays) / _seconds(team, library, program)


def peak_rate(team: Team, library: Library, op: Peak) -> float | None:
    """Arithmetic operations a second of the team's threads that do `op` and nothing else; None for
    CPUs on which LLVM would optimise the loop away: see `Kernel.opaque`."""
    isa, n_items = library.isa, 64 * team.n_threads
    data: npt.NDArray[Any] = np.ones(op.n_data(isa), np.int8)
    if isinstance(op, PeakFMA):
        data = np.ones(op.n_data(isa) // 4, np.float32)
    sums = np.zeros(n_items * isa.lanes, np.uint32)
    program = Program(max_tokens=1, max_outputs=1)
    out = Buffer("sums", Rows.TOKENS, 0, sums.dtype, sums)
    program.step("multiply", op, data=data, out=out, n_items=n_items)
    try:
        return n_items * op.operations(isa) / _seconds(team, library, program)
    except NotImplementedError:
        return None


def _seconds(team: Team, library: Library, program: Program) -> float:
    """The shortest of a few passes of one row."""
    program.state[:] = 1
    lowered = program.lower(library)
    seconds = []
    for _ in range(PASSES):
        started = time.perf_counter()
        team.run(lowered)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
