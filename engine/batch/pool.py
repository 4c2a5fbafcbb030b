"""Requests in, answers out, through workers that may be lost."""

from __future__ import annotations

import asyncio
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from linnet.engine.batch.lines import Request, error_line
from linnet.engine.server.errors import APIError

MOST_LOSSES = 3  # workers that a request may take with it


class WorkerLost(Exception):
    """A worker has gone before it answered."""


class Workable(Protocol):
    """`Worker`, or its like in another process."""

    async def ready(self) -> None:
        """Until it can be asked: at the beginning, and after it was lost, which may be never.
        Raises where that is certain."""

    async def answer(self, request: Request) -> bytes:
        """The line of an output file. Raises WorkerLost."""


async def answer_all(
    requests: Iterator[tuple[int, Request]], workers: Sequence[Workable], n_each: int,
    on_answer: Callable[[int, bytes], None],
) -> None:  # fmt: skip
    """Ask each worker `n_each` requests at a time, until all are answered; a request whose worker
    is lost is for whoever is free, and after MOST_LOSSES its answer is an error.

    `requests`: with their indices; taken as they can be asked. `on_answer`: is told of each index
    and its line, as they come. Raises what a worker raises and, once none is left, what the last
    one's `ready` has raised; of others that is a warning.
    """
    free: deque[Workable] = deque()
    asking: dict[asyncio.Task[bytes], tuple[Workable, int, Request]] = {}
    coming: dict[asyncio.Task[None], Workable] = {}
    again: deque[tuple[int, Request]] = deque()
    losses: Counter[int] = Counter()

    def take() -> tuple[int, Request] | None:
        return again.popleft() if again else next(requests, None)

    def expect(worker: Workable) -> None:
        coming[asyncio.create_task(worker.ready())] = worker

    waiting = take()
    if waiting:
        for worker in [*workers] * n_each:
            expect(worker)
    try:
        while waiting or asking:
            while free and waiting:
                worker = free.popleft()
                asking[asyncio.create_task(worker.answer(waiting[1]))] = worker, *waiting
                waiting = take()
            await asyncio.wait({*asking, *coming}, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in asking if task.done()]:
                worker, index, request = asking.pop(task)
                try:
                    on_answer(index, task.result())
                    free.append(worker)
                except WorkerLost as lost:
                    expect(worker)
                    losses[index] += 1
                    if losses[index] < MOST_LOSSES:
                        again.append((index, request))
                    else:
                        on_answer(index, _given_up(request, lost))
            for begun in [task for task in coming if task.done()]:
                worker = coming.pop(begun)
                gone = begun.exception()
                if gone is None:
                    free.append(worker)
                elif not (free or asking or coming):
                    raise gone
                else:
                    warnings.warn(f"a worker has gone for good: {gone}", stacklevel=2)
            waiting = waiting or take()
    finally:
        tasks = [*asking, *coming]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _given_up(request: Request, lost: WorkerLost) -> bytes:
    message = f"{MOST_LOSSES} workers were lost with this request; the last: {lost}"
    return error_line(request.custom_id, APIError(500, message, code="worker_lost"))
