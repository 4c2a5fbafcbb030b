"""Threads that run a lowered program together.

Every thread sits in one native call (ctypes lets go of the GIL): the calling thread leads, the
others serve. Whoever has nothing in hand takes a chunk of the step that is open:

    while the pass is running:
        take a chunk of the open step's items, or wait until there is one
        if it was the step's last, and the next step needs nothing that is still being made:
            open the next step
        step.function(chunk)
        if all that was opened is done now:
            open the next step, or end the pass

So a step waits for items, never for threads: one that the system has put aside holds up the others
only if it had a chunk in hand, and a slow core takes fewer chunks. A wait spins briefly, then
yields the CPU, then sleeps. Between passes the servers wait in the same way for a while, and then
return to Python, where a lock holds them until the next pass: an idle team costs nothing.
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

from linnet.kernels import macos
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import Kernel, Pointer, Value, i32, i64, pointer, u64
from linnet.kernels.isa import ISA
from linnet.kernels.memory import aligned, in_huge_pages
from linnet.kernels.runtime.program import Lowered
from linnet.kernels.runtime.step_record import AT, RECORD_BYTES

# Byte offsets into the team's shared memory; what threads write lies on lines of its own: of 128
# bytes, as Apple's CPUs have them, and others fetch them in pairs.
CURSOR, RUNNING, DONE, STOP, HALTED = 0, 8, 128, 256, 264
STEP, ITEMS, FEWEST, MOST, OPENED = range(384, 424, 8)  # the open step
STEPS, N_STEPS, N_THREADS, SCRATCH, SCRATCH_BYTES, YIELD, SLEEPING = range(512, 568, 8)
TEAM_BYTES = 640

# The cursor: steps opened so far in the high half, items taken of the last in the low half.
TAKEN_BITS = 32
ALL_TAKEN = (1 << TAKEN_BITS) - 1  # instead of the number of items when none is left

CHUNKS_A_THREAD = 2  # that what is left of a step is cut into, within what its op says
SPINS = 2000  # some 50 microseconds of pause instructions
YIELDS = 2000  # about a millisecond of sched_yield
SLEEP = 1 if sys.platform == "win32" else 50  # milliseconds there, microseconds elsewhere


class Interrupted(RuntimeError):
    """A pass ended early because `Team.stop` was called; its results are not to be used."""


class Team:
    """`n_threads` threads, the calling one included. Not for use by two threads at once."""

    def __init__(self, library: Library, n_threads: int) -> None:
        self.n_threads = n_threads
        self._memory = aligned(TEAM_BYTES).view(np.uint64)
        self._address = self._memory.ctypes.data
        self._library = library
        self._lead = _native(library, _Lead())
        self._publish = _native(library, _Publish())
        serve = _native(library, _Serve())
        self._memory[YIELD // 8], self._memory[SLEEPING // 8] = _yield_and_sleep()
        self._memory[N_THREADS // 8] = n_threads
        self._memory[CURSOR // 8] = ALL_TAKEN
        self._scratch = in_huge_pages(0)
        self._wakes = [threading.Lock() for _ in range(1, n_threads)]
        self._closed = threading.Event()
        arguments = (self._memory, self._closed, serve)
        self._threads = [
            threading.Thread(
                target=_work, args=(thread, wake, *arguments), name=f"linnet-{thread}", daemon=True
            )
            for thread, wake in enumerate(self._wakes, start=1)
        ]
        self._finalizer = weakref.finalize(self, _close, self._wakes, self._closed)
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # the system has no more threads: those that run end by themselves
            self._finalizer()
            raise

    def run(self, program: Lowered) -> None:
        """Run every step once. Raises Interrupted if stopped on the way, RuntimeError if closed."""
        if self._closed.is_set():
            raise RuntimeError("the team is closed")
        needed = program.scratch_bytes * self.n_threads
        if self._scratch.size < needed:
            self._scratch = in_huge_pages(needed)
        self._memory[STEPS // 8] = program.records.ctypes.data
        self._memory[N_STEPS // 8] = len(program.records)
        self._memory[SCRATCH // 8] = self._scratch.ctypes.data
        self._memory[SCRATCH_BYTES // 8] = program.scratch_bytes
        try:
            try:
                self._publish(self._address, 0)
                _wake_all(self._wakes)
            except BaseException:  # Ctrl-C, which may come between any two calls
                _wake_all(self._wakes)
                raise
        finally:  # and must not leave others in a pass behind: here is no call but one
            self._lead(self._address, 0)
        if self._memory[HALTED // 8]:
            raise Interrupted("the pass was stopped")

    def stop(self) -> None:
        """End the pass under way: no chunk of work begins any more. From any thread."""
        self._memory[STOP // 8] = 1

    def close(self) -> None:
        """End the threads."""
        self._finalizer()
        for thread in self._threads:
            thread.join()


def _work(
    thread: int, wake: threading.Lock, memory: npt.NDArray[np.uint64],
    closed: threading.Event, serve: Any,
) -> None:  # fmt: skip
    """A server's life; it holds no reference to the Team, so that a forgotten Team ends."""
    if sys.platform == "darwin":
        macos.stay_on_fast_cores()
    wake.acquire()
    while not closed.is_set():
        serve(memory.ctypes.data, thread)  # even if the pass is over by now: the next may be near
        wake.acquire()


def _wake_all(wakes: list[threading.Lock]) -> None:
    """Release the lock that each server waits for, or will wait for next.

    Not a Condition, whose own lock stays locked if Ctrl-C comes while it is taken.
    """
    for wake in wakes:
        with contextlib.suppress(RuntimeError):  # released before, and not acquired since
            wake.release()


def _close(wakes: list[threading.Lock], closed: threading.Event) -> None:
    closed.set()
    _wake_all(wakes)


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
    """Begin a pass; no other may be running."""

    def emit(self, k: Kernel, team: Pointer, thread: Value) -> None:
        team.store(k.constant(u64, 0), STOP)
        team.store(k.constant(u64, 0), HALTED)
        team.atomic_store(k.constant(u64, 1), RUNNING)
        emit_open(k, team, k.constant(i64, 0), during=False)


class _Lead(_TeamKernel):
    """Take part in the pass that is running, to its end."""

    def emit(self, k: Kernel, team: Pointer, thread: Value) -> None:
        emit_work(k, team, thread, patience=0)


class _Serve(_TeamKernel):
    """Take part in every pass; return when none has come for a while."""

    def emit(self, k: Kernel, team: Pointer, thread: Value) -> None:
        emit_work(k, team, thread, patience=SPINS + YIELDS)


def emit_work(k: Kernel, team: Pointer, thread: Value, *, patience: int) -> None:
    """Take chunks and work on them; leave after `patience` turns of waiting for a pass."""
    waited = k.cell(i64, "waited")
    with k.loop("work") as work:
        cursor = team.atomic_load(u64, CURSOR)
        first = (cursor & ALL_TAKEN).to(i64)
        none_left = first.equals(ALL_TAKEN)
        with k.when(none_left):
            running = team.atomic_load(u64, RUNNING).equals(1)
            work.leave((running ^ 1) & (waited.get() >= patience))
            emit_wait(k, team, waited)
        with k.when(none_left ^ 1):
            # By now these may be of the next step, but then the cursor has moved on as well.
            step, items, fewest, most = (
                team.atomic_load(u64, at).to(i64) for at in (STEP, ITEMS, FEWEST, MOST)
            )
            share = (items - first) // (team.load(i64, N_THREADS) * CHUNKS_A_THREAD)
            last = k.minimum(first + k.minimum(k.maximum(share, fewest), most), items)
            all_taken = last.equals(items)
            taken = all_taken.select(k.constant(i64, ALL_TAKEN), last)
            moved = cursor + (taken - first).to(u64)
            with k.when(team.atomic_replace(cursor, moved, CURSOR)):
                waited.set(0)
                with k.when(all_taken):
                    emit_open(k, team, step + 1, during=True)
                emit_chunk(k, team, thread, step, first, last)


def emit_chunk(
    k: Kernel, team: Pointer, thread: Value, step: Value, first: Value, last: Value
) -> None:
    """Work on items of a step, unless told to stop; whoever completes all that was opened goes on,
    or ends the pass."""
    record = team.load_pointer(STEPS).at(step * RECORD_BYTES)
    scratch = team.load_pointer(SCRATCH).at(thread * team.load(i64, SCRATCH_BYTES))
    function = record.load_pointer(AT["function"])
    with k.when(team.atomic_load(u64, STOP).equals(0)):
        k.call(function, record.load_pointer(AT["arguments"]), first, last, scratch)
    n_items = (last - first).to(u64)
    done = team.atomic_add(n_items, DONE) + n_items
    with k.when(done.equals(team.atomic_load(u64, OPENED))):
        stop = team.atomic_load(u64, STOP)
        team.store(stop, HALTED)
        following = team.atomic_load(u64, STEP).to(i64) + 1
        emit_open(k, team, stop.equals(1).select(team.load(i64, N_STEPS), following), during=False)


def emit_open(k: Kernel, team: Pointer, step: Value, *, during: bool) -> None:
    """Open the first step from `step` on that has items, or end the pass.

    One thread at a time: the cursor says ALL_TAKEN. `during`: while others are at work, so no step
    that needs what they make.
    """
    n_steps = team.load(i64, N_STEPS)
    index = k.cell(step, "step")
    with k.loop("open") as search:
        search.leave(index.get() >= n_steps)
        record = team.load_pointer(STEPS).at(index.get() * RECORD_BYTES)
        if during:
            search.leave(record.load(u64, AT["barrier"]).equals(1))
        items = item_count(record)
        some = items > 0
        with k.when(some):
            opened = team.atomic_load(u64, OPENED) + items.to(u64)
            numbers = {
                STEP: index.get().to(u64), ITEMS: items.to(u64), OPENED: opened,
                FEWEST: record.load(u64, AT["fewest"]), MOST: record.load(u64, AT["most"]),
            }  # fmt: skip
            for at, number in numbers.items():
                team.atomic_store(number, at)
            team.atomic_store(team.atomic_load(u64, CURSOR) + 1, CURSOR)  # ALL_TAKEN + 1: none yet
        search.leave(some)
        index.set(index.get() + 1)
    if not during:
        with k.when(index.get() >= n_steps):
            team.atomic_store(k.constant(u64, 0), RUNNING)


def item_count(record: Pointer) -> Value:
    """How many items a step has in this pass."""
    n_rows = record.load_pointer(AT["n_rows"]).load(i64)
    of_items = record.load(i64, AT["rows_of_items"])
    return record.load(i64, AT["items"]) * ((n_rows + of_items - 1) // of_items)


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
