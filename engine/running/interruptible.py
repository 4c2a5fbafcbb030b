"""Native work that Ctrl-C can end: it runs in a thread of its own, while the caller waits here.

Python hears Ctrl-C only in the main thread, and there only between two steps of Python. A pass over
a long prompt is one step of a second or more; a lock, though, is waited for in short turns.
"""

from __future__ import annotations

import _thread  # threading.Thread.start is many steps, and Ctrl-C may come between any two
from collections.abc import Callable

TURN = 0.02  # seconds


class Interruptible:
    """Runs one function at a time, to its end or until told to stop."""

    def __init__(self, stop: Callable[[], None]) -> None:
        """`stop` has the function that runs end soon; harmless while none does."""
        self._stop = stop
        self._job: _Job | None = None

    def run(self, function: Callable[[], object], stopping: Callable[[], bool]) -> None:
        """Call the function, and raise what it raises; call `stop` once `stopping()` is true.

        What is raised here meanwhile, as KeyboardInterrupt is, stops it as well.
        """
        self.settle()
        self._job = job = _Job(function)
        try:
            _thread.start_new_thread(job.work, ())
            while not job.over:
                job.wait()
                if stopping():
                    self._stop()
        except BaseException:
            self.settle()
            raise
        self._job = None  # which holds on to whatever the function needs
        if job.error is not None:
            raise job.error

    def settle(self) -> None:
        """Have the function that may still run end, or never begin: a second Ctrl-C leaves one."""
        job = self._job
        while job is not None and not job.over and not job.claim("nobody"):
            self._stop()
            job.wait()


class _Job:
    """A function to be called by whoever is first to claim it, in steps that cannot be torn."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._claims: list[str] = []
        self._ended = _thread.allocate_lock()  # open once it is over
        self._ended.acquire()
        self.over = False
        self.error: BaseException | None = None

    def claim(self, who: str) -> bool:
        """Whether it is theirs: always, or never."""
        self._claims.append(who)
        return self._claims[0] == who

    def work(self) -> None:
        if not self.claim("thread"):
            return
        try:
            self._function()
        except BaseException as error:
            self.error = error
        self.over = True
        self._ended.release()

    def wait(self) -> None:
        """Until it is over, or a turn has passed."""
        self._ended.acquire(timeout=TURN)
