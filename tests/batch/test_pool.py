"""The pool: every request gets one answer, whatever becomes of workers."""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec import Raw

from linnet.engine.batch.lines import Request
from linnet.engine.batch.pool import MOST_LOSSES, WorkerLost, answer_all


class Scripted:
    """A worker that `lose` says of each request whether it goes with it, and `start` of each of its
    starts what comes of it: an error, or whether it ever is ready."""

    def __init__(
        self, name: str, lose: Callable[[int], bool] = lambda _: False,
        start: Callable[[int], Exception | bool] = lambda _: True,
    ) -> None:  # fmt: skip
        self.name, self._lose, self._start = name, lose, start
        self.starts = self.under_way = self.most_under_way = 0

    async def ready(self) -> None:
        self.starts += 1
        come = self._start(self.starts)
        await asyncio.sleep(0)
        if isinstance(come, Exception):
            raise come
        if not come:
            await asyncio.Event().wait()

    async def answer(self, request: Request) -> bytes:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
            if self._lose(int(request.custom_id)):
                raise WorkerLost(f"{self.name} was lost")
            return f"{self.name} {request.custom_id}".encode()
        finally:
            self.under_way -= 1


def requests(n: int) -> Iterator[tuple[int, Request]]:
    return ((i, Request(str(i), "POST", "/v1/completions", Raw(b"{}"))) for i in range(n))


def answered(workers: list[Scripted], n: int = 20, n_each: int = 3) -> dict[int, bytes]:
    """Answers by index; each may come once."""
    answers: dict[int, bytes] = {}

    def on_answer(index: int, line: bytes) -> None:
        assert index not in answers
        answers[index] = line

    asyncio.run(asyncio.wait_for(answer_all(requests(n), workers, n_each, on_answer), 30))
    assert all(worker.under_way == 0 for worker in workers)
    return answers


def plain(answers: dict[int, bytes]) -> list[int]:
    """The indices, in the order of answers that are those of workers."""
    return sorted(index for index, line in answers.items() if not line.startswith(b"{"))


def times(n: int) -> Callable[[Any], bool]:
    """True so many times."""
    left = iter([True] * n)
    return lambda _: next(left, False)


@pytest.mark.parametrize("n", [0, 1, 2, 20])
@pytest.mark.parametrize("n_workers", [1, 3])
def test_all_are_answered_by_workers_that_have_so_many_each(n: int, n_workers: int) -> None:
    workers = [Scripted(str(i)) for i in range(n_workers)]
    assert plain(answered(workers, n)) == [*range(n)]
    assert all(worker.most_under_way <= 3 for worker in workers)
    if n == 20:
        assert all(worker.most_under_way == 3 for worker in workers)


@pytest.mark.parametrize("n_workers", [1, 2])
@pytest.mark.parametrize("losses", [1, 2])
def test_requests_of_a_lost_worker_are_answered_by_whoever_is_free(
    n_workers: int, losses: int
) -> None:
    lost = Scripted("lost", lose=times(losses))
    workers = [lost, *(Scripted(str(i)) for i in range(n_workers - 1))]
    assert plain(answered(workers)) == [*range(20)]
    assert lost.starts == 3 + losses  # at the beginning one a request at a time


def test_a_request_that_ends_every_worker_gets_an_error_and_others_their_answers() -> None:
    def lose(index: int) -> bool:
        return index == 7

    answers = answered([Scripted("a", lose), Scripted("b", lose)])
    assert plain(answers) == [i for i in range(20) if i != 7]
    response = json.loads(answers[7])["response"]
    assert response["status_code"] == 500
    error = response["body"]["error"]
    assert (error["code"], error["type"]) == ("worker_lost", "server_error")
    assert f"{MOST_LOSSES} workers were lost" in error["message"]


@pytest.mark.parametrize("n", [1, 20])
def test_a_worker_that_never_comes_back_is_not_waited_for(n: int) -> None:
    for lost in (
        Scripted("lost", lose=lambda _: True, start=lambda starts: starts <= 3),
        Scripted("late", start=lambda _: False),
    ):
        assert plain(answered([lost, Scripted("b")], n)) == [*range(n)]


def test_a_worker_that_has_gone_for_good_is_told_of_once() -> None:
    def start(starts: int) -> Exception | bool:
        return starts <= 3 or ValueError("no such model")

    gone = Scripted("gone", lose=lambda _: True, start=start)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        assert plain(answered([gone, Scripted("b")])) == [*range(20)]
    assert [str(each.message) for each in told] == ["a worker has gone for good: no such model"]


def test_the_last_worker_that_goes_ends_it_with_its_error() -> None:
    workers = [Scripted(str(i), start=lambda _: ValueError("no such model")) for i in range(2)]
    with (
        pytest.warns(UserWarning, match="gone for good"),
        pytest.raises(ValueError, match="no such model"),
    ):
        answered(workers)
    assert all(worker.most_under_way == 0 for worker in workers)


def test_what_a_worker_raises_ends_it_and_what_is_under_way() -> None:
    def lose(index: int) -> bool:
        if index == 5:
            raise RuntimeError("broken")
        return False

    with pytest.raises(RuntimeError, match="broken"):
        answered([Scripted("a", lose), Scripted("b", lose)])


def test_requests_are_taken_as_they_can_be_asked() -> None:
    taken: list[int] = []

    def counted() -> Iterator[tuple[int, Request]]:
        for index, request in requests(100):
            taken.append(index)
            yield index, request

    ahead: list[int] = []

    def on_answer(index: int, line: bytes) -> None:
        ahead.append(len(taken) - len(ahead))

    asyncio.run(answer_all(counted(), [Scripted("a"), Scripted("b")], 3, on_answer))
    assert len(ahead) == 100
    assert max(ahead) <= 2 * 3 + 1


def test_cancelled_it_cancels_what_is_under_way() -> None:
    async def run(worker: Scripted) -> None:
        task = asyncio.create_task(answer_all(requests(20), [worker], 4, lambda *_: None))
        while worker.under_way < 4:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert worker.under_way == 0

    asyncio.run(run(Scripted("a")))
