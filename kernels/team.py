"""Threads that run a lowered program together.

Every thread sits in one native call (ctypes lets go of the GIL): the calling thread leads, the
others serve. All walk the program's steps:

    for step in steps:
        barrier, if the step needs what others made
        while a chunk of the step's items is left (shared counter):  step.function(chunk)
    barrier

so a slow core takes fewer chunks. A wait spins briefly, then yields the CPU, then sleeps. Between
passes the servers wait in the same way for a while, and then return to Python to wait for a bell
until the next pass: an idle team costs nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import Kernel, Pointer, Value, i32, i64, pointer, u64
from linnet.kernels.isa import ISA
from linnet.kernels.jit import Library
from linnet.kernels.program import RECORD_WORDS, Lowered, aligned

# Byte offsets into the team's shared memory; what threads write lies on lines of its own.
PASS, ARRIVED, BARRIER, STOP, HALTED = 0, 64, 128, 192, 200
STEPS, N_STEPS, N_THREADS, SCRATCH, SCRATCH_BYTES, YIELD, SLEEPING = range(256, 312, 8)
SEEN = 320  # one line a thread: the last pass it served
LINE = 64
# Byte offsets into a step record
FUNCTION, ARGUMENTS, ITEMS, ROWS_OF_ITEMS, N_ROWS, BARRIER_BEFORE = range(0, 48, 8)
FEWEST, MOST = 48, 56
COUNTER = 64

CHUNKS_A_THREAD = 4  # that a step is cut into, within what its op says
SPINS = 2000  # some 50 microseconds of pause instructions
YIELDS = 2000  # about a millisecond of sched_yield
SLEEP = 1 if sys.platform == "win32" else 50  # milliseconds there, microseconds elsewhere


class Interrupted(RuntimeError):
    """A pass ended early because `Team.stop` was called; its results are not to be used."""


class Team:
    """`n_threads` threads, the calling one included. Not for use by two threads at once."""

    def __init__(self, library: Library, n_threads: int) -> None:
        self.n_threads = n_threads
        self._memory = aligned(SEEN + LINE * n_threads).view(np.uint64)
        self._address = self._memory.ctypes.data
        self._library = library
        self._lead = _native(library, _Lead())
        self._publish = _native(library, _Publish())
        serve = _native(library, _Serve())
        self._memory[YIELD // 8], self._memory[SLEEPING // 8] = _yield_and_sleep()
        self._memory[N_THREADS // 8] = n_threads
        self._scratch = aligned(0)
        self._bells = [threading.Lock() for _ in range(1, n_threads)]
        self._closed = threading.Event()
        arguments = (self._memory, self._closed, serve)
        self._threads = [
            threading.Thread(
                target=_work, args=(thread, bell, *arguments), name=f"linnet-{thread}", daemon=True
            )
            for thread, bell in enumerate(self._bells, start=1)
        ]
        for thread in self._threads:
            thread.start()
        self._finalizer = weakref.finalize(self, _close, self._bells, self._closed)

    def run(self, program: Lowered) -> None:
        """Run every step once. Raises Interrupted if stopped on the way, RuntimeError if closed."""
        if self._closed.is_set():
            raise RuntimeError("the team is closed")
        needed = program.scratch_bytes * self.n_threads
        if self._scratch.size < needed:
            self._scratch = aligned(needed)
        self._memory[STEPS // 8] = program.records.ctypes.data
        self._memory[N_STEPS // 8] = len(program.records)
        self._memory[SCRATCH // 8] = self._scratch.ctypes.data
        self._memory[SCRATCH_BYTES // 8] = program.scratch_bytes
        before = self._memory[PASS // 8]
        try:
            try:
                self._publish(self._address, 0)
                _ring(self._bells)
            except BaseException:  # Ctrl-C, which may come between any two calls
                _ring(self._bells)
                raise
        finally:  # and must not leave the others in a pass without us: here is no call but one
            if self._memory[PASS // 8] != before:
                self._lead(self._address, 0)
        if self._memory[HALTED // 8]:
            raise Interrupted("the pass was stopped")

    def stop(self) -> None:
        """End the pass under way at its next barrier; from any thread."""
        self._memory[STOP // 8] = 1

    def close(self) -> None:
        """End the threads."""
        self._finalizer()
        for thread in self._threads:
            thread.join()


def _work(
    thread: int, bell: threading.Lock, memory: npt.NDArray[np.uint64],
    closed: threading.Event, serve: Any,
) -> None:  # fmt: skip
    """A server's life; it holds no reference to the Team, so that a forgotten Team ends."""
    seen = (SEEN + LINE * thread) // 8
    while not closed.is_set():
        if memory[PASS // 8] != memory[seen]:
            serve(memory.ctypes.data, thread)
        bell.acquire()


def _ring(bells: list[threading.Lock]) -> None:
    """Wake whoever waits for a bell, or is about to: a bell is a lock that nobody owns.

    Not a Condition, whose own lock stays locked if Ctrl-C comes while it is taken.
    """
    for bell in bells:
        with contextlib.suppress(RuntimeError):  # it has rung, and not been heard yet
            bell.release()


def _close(bells: list[threading.Lock], closed: threading.Event) -> None:
    closed.set()
    _ring(bells)


def _native(library: Library, source: _TeamKernel) -> Any:
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
    function: Any = signature(library.address(source))
    function.library = library  # whose code it is: a thread may still be in it when a Team is not
    return function


def _yield_and_sleep() -> tuple[int, int]:
    """Addresses of the system's `yield()` and `sleep(microseconds)`."""
    if sys.platform == "win32":
        kernel = ctypes.CDLL("kernel32")
        functions = kernel.SwitchToThread, kernel.Sleep
    else:
        libc = ctypes.CDLL(None)
        functions = libc.sched_yield, libc.usleep
    give_way, sleep = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)
    return give_way, sleep


class _TeamKernel:
    """A native function `void f(team memory, thread)`."""

    @property
    def symbol(self) -> str:
        return f"team{type(self).__name__.lower()}"

    def ir(self, isa: ISA) -> str:
        k = Kernel(self.symbol, {"team": pointer, "thread": i64}, isa)
        self.emit(k, k.parameters["team"], k.parameters["thread"])
        return k.finish()

    def emit(self, k: Kernel, team: Pointer, thread: Value) -> None:
        raise NotImplementedError


class _Publish(_TeamKernel):
    """Zero the steps' counters, then let the servers go."""

    def emit(self, k: Kernel, team: Pointer, thread: Value) -> None:
        steps, zero = team.load_pointer(STEPS), k.constant(u64, 0)
        for i in k.range(team.load(i64, N_STEPS), name="step"):
            steps.store(zero, i * (8 * RECORD_WORDS) + COUNTER)
        team.store(zero, STOP)
        team.store(zero, HALTED)
        team.atomic_store(team.load(u64, PASS) + 1, PASS)


class _Lead(_TeamKernel):
    """Take part in the pass that was published."""

    def emit(self, k: Kernel, team: Pointer, thread: Value) -> None:
        emit_pass(k, team, thread)


class _Serve(_TeamKernel):
    """Take part in every pass; return when none has come for a while."""

    def emit(self, k: Kernel, team: Pointer, thread: Value) -> None:
        seen = team.at(thread * LINE + SEEN)
        with k.loop("serve") as serving:
            before = seen.load(u64)
            waited = k.cell(i64, "waited")
            with k.loop("idle") as idle:
                idle.leave(team.atomic_load(u64, PASS).equals(before) ^ 1)
                idle.leave(waited.get() >= SPINS + YIELDS)
                emit_wait(k, team, waited)
            current = team.atomic_load(u64, PASS)
            serving.leave(current.equals(before))
            seen.store(current)
            emit_pass(k, team, thread)


def emit_pass(k: Kernel, team: Pointer, thread: Value) -> None:
    """Walk the steps with the other threads."""
    steps, n_steps = team.load_pointer(STEPS), team.load(i64, N_STEPS)
    scratch = team.load_pointer(SCRATCH).at(thread * team.load(i64, SCRATCH_BYTES))
    index = k.cell(i64, "step")
    with k.loop("pass") as walk:
        walk.leave(index.get() >= n_steps)
        step = steps.at(index.get() * (8 * RECORD_WORDS))
        with k.when(step.load(u64, BARRIER_BEFORE).equals(1)):
            emit_barrier(k, team)
        walk.leave(team.load(u64, HALTED).equals(1))
        items = item_count(step)
        share = items // (team.load(i64, N_THREADS) * CHUNKS_A_THREAD)
        chunk = k.minimum(k.maximum(share, step.load(i64, FEWEST)), step.load(i64, MOST))
        with k.loop("work") as work:
            first = step.atomic_add(chunk, COUNTER)
            work.leave(first >= items)
            last = k.minimum(first + chunk, items)
            function = step.load_pointer(FUNCTION)
            k.call(function, step.load_pointer(ARGUMENTS), first, last, scratch)
        index.set(index.get() + 1)
    emit_barrier(k, team)


def item_count(step: Pointer) -> Value:
    """How many items a step has in this pass."""
    n_rows, rows_of_items = step.load_pointer(N_ROWS).load(i64), step.load(i64, ROWS_OF_ITEMS)
    return step.load(i64, ITEMS) * ((n_rows + rows_of_items - 1) // rows_of_items)


def emit_barrier(k: Kernel, team: Pointer) -> None:
    """Wait until every thread has come; the last one passes on a request to stop."""
    generation = team.atomic_load(u64, BARRIER)
    arrived = team.atomic_add(k.constant(u64, 1), ARRIVED) + 1
    last = arrived.equals(team.load(u64, N_THREADS))
    with k.when(last):
        team.store(k.constant(u64, 0), ARRIVED)
        team.store(team.atomic_load(u64, STOP), HALTED)
        team.atomic_store(generation + 1, BARRIER)
    waited = k.cell(i64, "waited")
    with k.loop("wait") as waiting:
        waiting.leave(team.atomic_load(u64, BARRIER).equals(generation) ^ 1)
        emit_wait(k, team, waited)


def emit_wait(k: Kernel, team: Pointer, waited: Any) -> None:
    """One turn of a wait: pause at first, then yield, then sleep."""
    n = waited.get()
    waited.set(n + 1)
    with k.when(n < SPINS):
        k.pause()
    with k.when((n >= SPINS) & (n < SPINS + YIELDS)):
        k.call(team.load_pointer(YIELD))
    with k.when(n >= SPINS + YIELDS):
        k.call(team.load_pointer(SLEEPING), k.constant(i32, SLEEP))
