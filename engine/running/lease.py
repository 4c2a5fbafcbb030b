"""Who may use a team of threads, and how a pass ends early: one call at a time, until closed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from linnet.engine.running.interruptible import Interruptible
from linnet.kernels.runtime.team import Interrupted, Team

SLOW = 0.03  # seconds, for a pass that Ctrl-C should not have to wait for


class Lease:
    """One call at a time may run passes: another one, from another thread or from what is called
    back, raises RuntimeError. So does any call once this is closed, or in a process forked from the
    one that made it.

    A pass that takes long is led by a thread of its own, so that Ctrl-C, which Python hears in the
    main thread between two of its steps, ends it midway; `stop` does so from any thread.
    """

    def __init__(self, team: Team) -> None:
        self._team = team
        self._long = Interruptible(team.stop)
        self._process = os.getpid()
        self._busy = threading.RLock()  # not left locked to us where Ctrl-C comes between
        self._in_use = self._closed = self._stopping = False
        self._slow = True  # the last short pass

    @property
    def is_open(self) -> bool:
        """Whether calls may begin."""
        return self._process == os.getpid() and not self._closed

    def check(self) -> None:
        """Raise RuntimeError where no call may begin any more."""
        if self._process != os.getpid():
            raise RuntimeError("this session was opened before the process forked; open one here")
        if self._closed:
            raise RuntimeError("the model is closed")

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep all others from the team meanwhile. Raises RuntimeError.

        A generator, which ends as it should even where Ctrl-C comes as its caller leaves it.
        """
        self.check()
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("this session is in use by another thread; open one for each")
        try:
            if self._in_use:
                raise RuntimeError("this session is amid a call; open one for what is called back")
            self.check()
            self._in_use, self._stopping = True, False
            try:
                self._long.settle()
                yield
            finally:
                self._in_use = False
        finally:
            self._busy.release()

    def run(self, work: Callable[[], object], *, short: bool) -> None:
        """A pass, within `hold`; `short`: as the last such pass, it is expected to take no longer
        than `SLOW` seconds. Raises Interrupted."""
        if self._stopping:
            raise Interrupted("the generation was stopped")
        if threading.current_thread() is not threading.main_thread():
            work()
            return
        started = time.perf_counter()
        if short and not self._slow:
            work()
        else:
            self._long.run(work, lambda: self._stopping)
        if short:
            self._slow = time.perf_counter() - started > SLOW

    def stop(self) -> None:
        """End the call that is under way; there it raises Interrupted. Nothing where none is."""
        self._stopping = True
        self._team.stop()

    def close(self) -> None:
        """Let no call begin any more, and wait for the one under way."""
        with self._busy:
            self._closed = True
            self._long.settle()
