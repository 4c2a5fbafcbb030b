"""Who of several callers runs the next step: one at a time, and the others wait for it."""

from __future__ import annotations

import _thread
import threading
from contextlib import suppress

TURN = 0.02  # seconds that a caller waits for the one who runs a step, before it looks again


class Caller:
    """Who runs steps, or waits; `wake`: a lock that nobody owns, open when it is time to look."""

    __slots__ = ("thread", "wake")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.wake = _thread.allocate_lock()
        self.wake.acquire()


class Lead:
    """Taken by whoever is first among `callers`, and left again.

    Ctrl-C may come between any two instructions of Python, on entering a function too. So whoever
    takes it leaves by `callers.pop(caller, None)`, which is one, in a `finally` of its own.
    """

    def __init__(self) -> None:
        self.callers: dict[Caller, None] = {}  # who has it, and who is next
        self._resting: list[Caller] = []

    @property
    def leader(self) -> Caller | None:
        callers = [*self.callers]
        return callers[0] if callers else None

    def take(self, caller: Caller) -> bool:
        """Become the one who may run steps, or the next; whether it is. Raises RuntimeError where
        somebody of the same thread is."""
        self.callers.setdefault(caller)
        leader = self.leader or caller
        if leader is not caller and leader.thread == caller.thread:
            raise RuntimeError("this LLM is amid a step; open one for what is called back")
        return leader is caller

    def rest(self, caller: Caller) -> bool:
        """Until the leader has left, or a while has passed; False, at once, where there is none."""
        self._resting.append(caller)
        try:
            if waits := self.leader not in (None, caller):
                caller.wake.acquire(timeout=TURN)
            return waits
        finally:
            self._resting.remove(caller)

    def wake(self) -> None:
        """Have whoever rests look whether it is its turn, or its event."""
        for other in list(self._resting):
            with suppress(RuntimeError):  # it has been woken, and has not looked yet
                other.wake.release()
