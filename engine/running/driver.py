"""A scheduler's steps in a thread of their own, for readers on event loops."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from contextlib import suppress

from linnet.engine.running.generation import Event, Generation, is_last
from linnet.engine.running.lead import TURN, Caller
from linnet.engine.running.scheduler import Scheduler


class Driver:
    """Runs steps while readers have something to wait for, and tells them of events once a step.

    Readers take events from their generations by themselves: one that is slow has its own rest, as
    any reader's does, and holds nobody up. Threads that read from the same scheduler take turns
    with this one.
    """

    def __init__(self, scheduler: Scheduler, pool: Executor) -> None:
        """`pool`: for what submitting may have to compile."""
        self._scheduler, self._pool = scheduler, pool
        self._readers: set[_Reader] = set()
        self._bell = threading.Event()  # there may be something to do
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="linnet-steps", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # or a pass might outlive what it reads

    def check(self) -> None:
        """Raise RuntimeError once this is closed, or in a forked process, where no thread runs."""
        if self._closing:
            raise RuntimeError("this AsyncLLM is closed")
        self._scheduler.session.lease.check()

    async def events(self, generation: Generation) -> AsyncGenerator[Event]:
        """Submit it, and give its events as they come; what is left of it when the iterator is
        closed is cancelled. Raises what `check` and `Scheduler.submit` raise."""
        self.check()
        reader = _Reader(generation)
        self._readers.add(reader)  # before steps: nobody looks after one that is not among them
        try:
            await reader.loop.run_in_executor(self._pool, self._submit, generation)
            if self._closing:  # and perhaps nobody told of it
                self._scheduler.cancel(generation)
            while True:
                for _ in range(len(generation.events)):  # of those that are there by now
                    event = generation.events.popleft()
                    yield event
                    if is_last(event):
                        return
                self._bell.set()  # it may have rested until they were taken
                await reader.wait()
        finally:
            self._leave(reader)

    def close(self) -> None:
        """End all generations, whose readers get Interrupted, and the thread."""
        self._closing = True
        if self._thread.is_alive():  # which it is in no forked process
            self._bell.set()
            self._scheduler.stop()
            self._thread.join()
        atexit.unregister(self.close)

    def _submit(self, generation: Generation) -> None:
        self._scheduler.submit([generation])
        self._bell.set()

    def _run(self) -> None:
        caller = Caller()
        while not self._closing:
            self._bell.clear()
            try:
                worked = self._scheduler.turn(caller, all_day=True)
            except Exception as error:  # of a pass: who was in it cannot go on
                worked = False
                self._scheduler.fail(error)
            self._tell()
            if worked:
                continue
            if not self._readers:
                self._bell.wait()
            elif not self._scheduler.rest(caller):
                self._bell.wait(TURN)  # `stop`, and other threads' steps, do not ring
        self._scheduler.stop()
        self._tell()

    def _leave(self, reader: _Reader) -> None:
        self._readers.discard(reader)
        self._scheduler.cancel(reader.generation)
        self._bell.set()  # to have it dropped

    def _tell(self) -> None:
        """One message to a loop, whichever of its readers have events."""
        told: dict[asyncio.AbstractEventLoop, list[_Reader]] = {}
        for reader in list(self._readers):
            if reader.loop.is_closed():  # where nothing is left to close its iterator
                self._leave(reader)
            elif reader.generation.events:
                told.setdefault(reader.loop, []).append(reader)
        for loop, readers in told.items():
            with suppress(RuntimeError):  # it was closed just now
                loop.call_soon_threadsafe(_wake, readers)


class _Reader:
    """Somebody on an event loop who waits for a generation's events."""

    def __init__(self, generation: Generation) -> None:
        self.generation, self.loop = generation, asyncio.get_running_loop()
        self._woken = asyncio.Event()

    async def wait(self) -> None:
        """Until there are events. Other tasks of the loop have their turn in any case."""
        self._woken.clear()
        if self.generation.events:
            await asyncio.sleep(0)
        else:
            await self._woken.wait()

    def wake(self) -> None:
        self._woken.set()


def _wake(readers: list[_Reader]) -> None:
    for reader in readers:
        reader.wake()
