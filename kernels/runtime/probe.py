"""Where a pass's time goes: the same steps, with a clock read around every chunk of work.

A probed program has each step's function wrapped in one that writes down when a thread began and
ended a chunk, in a log that all threads share. What lies between a thread's chunks, it has waited.
The program itself and the team that runs it are untouched.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import i64, pointer
from linnet.kernels.ops.base import Op, OpKernel
from linnet.kernels.runtime.memory import aligned
from linnet.kernels.runtime.program import Lowered
from linnet.kernels.runtime.step_record import STEP_RECORD

WORDS = 8  # of an entry: a cache line
HEAD = 8  # words before the first entry; the first of them counts entries


@dataclass(frozen=True)
class Probe(Op):
    """A step's function, timed; log: i64 (1 + capacity, 8), of which the first word counts.

    begin = clock;  function(step_arguments, first, last, scratch);  end = clock
    log[n] = step, begin, end, scratch               # the scratch memory tells threads apart
    """

    parameters = {
        "function": pointer,
        "step_arguments": pointer,
        "log": pointer,
        "capacity": i64,
        "step": i64,
    }

    def emit(self, k: OpKernel, **a: Any) -> None:
        log = a["log"]
        begin = k.ticks()
        k.call(a["function"], a["step_arguments"], k.first, k.last, k.scratch)
        end = k.ticks()
        n = log.atomic_add(k.constant(i64, 1))
        with k.when(n < a["capacity"]):
            entry = log.at((n * WORDS + HEAD) * 8)
            for word, value in enumerate((a["step"], begin, end)):
                entry.store(value, 8 * word)
            entry.store_pointer(k.scratch, 24)


@dataclass(frozen=True, slots=True)
class Entries:
    """Chunks of work in order of their beginning: the step (n,), when it began and ended, in ticks
    of `Kernel.ticks`, and a number that is the thread's own."""

    step: npt.NDArray[np.int64]
    begin: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    thread: npt.NDArray[np.int64]


class Probed:
    """A lowered program under observation; `lowered` is for the team to run."""

    def __init__(self, lowered: Lowered, library: Library, *, capacity: int = 1 << 20) -> None:
        """`capacity`: how many chunks the log holds."""
        self._capacity = capacity
        self._log = aligned(8 * (HEAD + WORDS * capacity)).view(np.int64)
        records = aligned(lowered.records.nbytes).view(STEP_RECORD)
        records[...] = lowered.records
        arguments = np.zeros((len(records), len(Probe.parameters)), np.uint64)
        log, probe = self._log.ctypes.data, library.address(Probe())
        for i, (record, slots) in enumerate(zip(records, arguments, strict=True)):
            slots[:] = record["function"], record["arguments"], log, capacity, i
            record["function"], record["arguments"] = probe, slots.ctypes.data
        scratch_bytes = max(lowered.scratch_bytes, 64)  # none would not tell threads apart
        owned = [lowered, records, arguments, self._log]
        self.lowered = replace(lowered, records=records, scratch_bytes=scratch_bytes, owned=owned)

    def take(self) -> Entries:
        """What was logged since the last call. Raises RuntimeError if that was too much."""
        n = int(self._log[0])
        self._log[0] = 0
        if n > self._capacity:
            raise RuntimeError(f"{n} chunks of work were logged; the log holds {self._capacity}")
        entries = self._log[HEAD:].reshape(-1, WORDS)[:n]
        entries = entries[np.argsort(entries[:, 1], kind="stable")]
        return Entries(*(entries[:, word].copy() for word in range(4)))
