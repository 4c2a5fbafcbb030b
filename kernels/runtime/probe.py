"""Where a pass's time goes: the same steps, with a clock read around every chunk of work.

In a probed program, a `Probe` calls each step's function and logs when the chunk of work began and
ended; all threads write to one log. Between two of its chunks, a thread waited. The program itself
and the team that runs it are unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import Pointer, i64
from linnet.kernels.memory import aligned
from linnet.kernels.ops.base import Int, Op, OpKernel
from linnet.kernels.runtime.program import Lowered
from linnet.kernels.runtime.step_record import STEP_RECORD

WORDS = 8  # of an entry: a cache line
HEAD = 8  # words before the first entry; the first of them counts entries


@dataclass(frozen=True)
class Probe(Op):
    """A step's function, timed; log: i64 (1 + capacity, 8), of which the first word counts.

    begin = clock;  function(step_arguments, first, last, scratch);  end = clock
    n = log[0][0]++
    log[1 + n] = step, begin, end, scratch           # the scratch memory tells threads apart
    """

    def emit(
        self, k: OpKernel, function: Pointer, step_arguments: Pointer, log: Pointer,
        capacity: Int, step: Int,
    ) -> None:  # fmt: skip
        begin = k.ticks()
        k.call(function, step_arguments, k.first, k.last, k.scratch)
        end = k.ticks()
        n = log.atomic_add(k.constant(i64, 1))
        with k.when(n < capacity):
            entry = log.at((n * WORDS + HEAD) * 8)
            for word, value in enumerate((step, begin, end)):
                entry.store(value, 8 * word)
            entry.store_pointer(k.scratch, 24)


@dataclass(frozen=True, slots=True)
class Entries:
    """Chunks of work by the time they began, all (n,): index of the step, begin and end in units of
    `Kernel.ticks`, and a number that differs between threads."""

    step: npt.NDArray[np.int64]
    begin: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]
    thread: npt.NDArray[np.int64]


class Probed:
    """A lowered program whose steps are timed: `lowered` is for the team to run."""

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
        """What was logged since the last call. Raises RuntimeError where the log was too short."""
        n = int(self._log[0])
        self._log[0] = 0
        if n > self._capacity:
            raise RuntimeError(f"{n} chunks of work were logged; the log holds {self._capacity}")
        entries = self._log[HEAD:].reshape(-1, WORDS)[:n]
        entries = entries[np.argsort(entries[:, 1], kind="stable")]
        return Entries(*(entries[:, word].copy() for word in range(4)))
