"""The smallest product: 1 to 128 rows of f32 times a packed 128 x 256 matrix, fused and not.

usage: python scripts/compare_seed.py [--types Q4_K,Q5_K,Q6_K] [--rows 1,2,4,...] [-r ROUNDS]

Fused: activations are quantised and meet the packed weights, in one native call (`PackedMatrix`).
Not fused: the matrix is dequantised into memory that is there already, by the fastest of our
kernel, our numpy and gguf-py, and BLAS multiplies (`np.dot`), on one thread or on all; the better
counts. All start from checked arrays; the column "with checks" is `PackedMatrix.matmul`, which
checks them at every call. Times are microseconds, medians over rounds in which each ran once.

The variables OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE, which may make BLAS slow, are not passed on.
Without threadpoolctl, BLAS runs only on as many threads as it likes.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from comparing import medians, table, take_turns

from linnet.kernels.compiler.host import choose_isa
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.rows import PickRows
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.kernels.runtime.packed import PackedMatrix
from linnet.kernels.runtime.program import Program
from linnet.kernels.runtime.serial import serial

try:
    import threadpoolctl
except ImportError:
    threadpoolctl = None

N_OUT, N_COLUMNS = 128, 256
ROWS = (1, 2, 3, 4, 6, 8, 9, 12, 16, 24, 32, 48, 64, 96, 128)
SLOW_BLAS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
SECONDS = 0.002  # a measurement repeats its call for so long
ONE_ROW_BAR = 5.4  # times faster than dequantising and BLAS

Call = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--types", default="Q4_K,Q5_K,Q6_K")
    parser.add_argument("--rows", default=",".join(map(str, ROWS)))
    parser.add_argument("-r", "--rounds", type=int, default=15)
    a = parser.parse_args()
    forget_variables()
    library = Library(choose_isa())
    print(f"linnet: {library.isa.name}; {blas()}\n")
    for name in a.types.split(","):
        compare_type(name, [int(n) for n in a.rows.split(",")], a.rounds, library)


def compare_type(name: str, row_counts: Sequence[int], rounds: int, library: Library) -> None:
    """Print what one weight type's products took."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((N_OUT, N_COLUMNS)).astype(np.float32)
    matrix = PackedMatrix(WEIGHT_TYPES[name], WEIGHT_TYPES[name].quantize(weights), library=library)
    dense = np.empty((N_OUT, N_COLUMNS), np.float32)
    times = microseconds(dequantisers(matrix, dense), rounds)
    print("dequantise:", ", ".join(f"{who} {time:.2f}" for who, time in times.items()))
    dequantise = dequantisers(matrix, dense)[min(times, key=times.__getitem__)]

    rows, bars = [], []
    for n in row_counts:
        x = rng.standard_normal((n, N_COLUMNS)).astype(np.float32)
        out = np.empty((n, N_OUT), np.float32)
        calls = {
            "fused": matrix.prepare(x, out),
            "with checks": functools.partial(matrix.matmul, x, out),
            **dequantise_and_multiply(dequantise, x, dense, out),
        }
        times = microseconds(calls, rounds)
        ratio = min(list(times.values())[2:]) / times["fused"]
        rows.append([str(n), *(f"{time:.2f}" for time in times.values()), f"{ratio:.2f}"])
        bars.append(ratio >= (ONE_ROW_BAR if n == 1 else 1))
    print(table([name, *times, "ratio"], rows))
    print("allocated in a call, bytes:", ", ".join(allocations(matrix, dense)))
    missed = [str(n) for n, held in zip(row_counts, bars, strict=True) if not held]
    print(f"bars missed at rows: {', '.join(missed) or 'none'}\n")


# -- what is compared ------------------------------------------------------------------------------


def dequantisers(matrix: PackedMatrix, dense: npt.NDArray[np.float32]) -> dict[str, Call]:
    """Calls that dequantise the matrix; the first writes to `dense`, the others make an array."""
    program = Program(max_tokens=N_OUT, max_outputs=1)
    program.tokens.data[:] = range(N_OUT)
    program.state[0] = N_OUT
    out = program.buffer("dense", N_COLUMNS)
    out.array = dense
    program.step(
        "rows", PickRows(matrix.type),
        table=matrix.packed, rows=program.tokens, out=out, width=N_COLUMNS,
    )  # fmt: skip
    gguf_type = gguf.GGMLQuantizationType(matrix.type.id)
    return {
        "linnet's kernel": serial(matrix.library, program.lower(matrix.library), program),
        "linnet's numpy": functools.partial(matrix.type.dequantize, matrix.packed),
        "gguf-py": functools.partial(gguf.quants.dequantize, matrix.packed, gguf_type),
    }


def dequantise_and_multiply(
    dequantise: Call, x: npt.NDArray[np.float32], dense: npt.NDArray[np.float32], out: Any
) -> dict[str, Call]:
    """Both, on one BLAS thread and on as many as it likes."""
    transposed = dense.T

    def call() -> None:
        dequantise()
        np.dot(x, transposed, out=out)

    calls: dict[str, Call] = {"BLAS, its threads": call}
    return {"BLAS, 1 thread": OnOneThread(call)} | calls if threadpoolctl else calls


class OnOneThread(functools.partial[None]):
    """A call that is measured with BLAS on one thread."""


def allocations(matrix: PackedMatrix, dense: npt.NDArray[np.float32]) -> Iterator[str]:
    """What each way takes from Python's allocator, where numpy's arrays come from too.

    Compiled kernels cannot take any: the compiler refuses code that calls functions.
    """
    x, out = (np.zeros((N_OUT, n), np.float32) for n in (N_COLUMNS, N_OUT))
    yield f"fused {allocated(matrix.prepare(x, out))}"
    yield f"with checks {allocated(functools.partial(matrix.matmul, x, out))}"
    for name, call in dequantisers(matrix, dense).items():
        kept = f" (and {dense.nbytes} kept)" if name == "linnet's kernel" else ""
        yield f"{name} {allocated(call)}{kept}"


# -- how -------------------------------------------------------------------------------------------


def microseconds(calls: dict[str, Call], rounds: int) -> dict[str, float]:
    """Median microseconds of each call, in turns."""
    measures = {name: functools.partial(seconds_for, call) for name, call in calls.items()}
    return {name: 1e6 * seconds for name, seconds in medians(take_turns(measures, rounds)).items()}


def seconds_for(call: Call) -> float:
    """Seconds one call takes, where it is repeated for about SECONDS, after as long to warm up."""
    with blas_threads(1 if isinstance(call, OnOneThread) else None):
        n, seconds = 1, 0.0
        while seconds < SECONDS:
            n *= 2
            seconds = seconds_of(call, n)
        return seconds_of(call, n) / n


def seconds_of(call: Call, n: int) -> float:
    started = time.perf_counter()
    for _ in range(n):
        call()
    return time.perf_counter() - started


def allocated(call: Call) -> int:
    """The most bytes that a call holds at a time, beyond what was there."""
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def blas_threads(n: int | None) -> contextlib.AbstractContextManager[Any]:
    if n is None or threadpoolctl is None:
        return contextlib.nullcontext()
    limits: contextlib.AbstractContextManager[Any] = threadpoolctl.threadpool_limits(n, "blas")
    return limits


def blas() -> str:
    """Which BLAS numpy has, and for which CPU it chose its kernels."""
    if threadpoolctl is None:
        return "BLAS unknown: threadpoolctl is not installed"
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    return ", ".join(
        f"{p['internal_api']} {p['version']} for {p.get('architecture', 'an unknown CPU')}, "
        f"{p['num_threads']} threads"
        for p in pools
    )


def forget_variables() -> None:
    """Start again without the variables that may make BLAS slow; it reads them when loaded."""
    given = [name for name in SLOW_BLAS if name in os.environ]
    if given:
        for name in given:
            del os.environ[name]
        os.execv(sys.executable, [sys.executable, *sys.argv])


if __name__ == "__main__":
    main()
