"""Workers on a Ray cluster: a process each, which Ray starts anew, on any of its machines, when it
is lost.

https://docs.ray.io/en/latest/ray-core/actors.html
"""

from __future__ import annotations

import asyncio
import os
import socket
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from linnet.engine.batch.lines import Request
from linnet.engine.batch.pool import WorkerLost
from linnet.engine.batch.worker import Worker

LOST = RayActorError, NodeDiedError, ObjectLostError, WorkerCrashedError
CONNECT_SECONDS = 10.0
MOST_STARTS = 3  # of a process, before a worker is given up
START_SECONDS = 300.0  # that a cluster may take to start a process, or a machine for it
RETRY_SECONDS = 0.5
MOST_CALLS = 10_000  # of a worker at once; it has no more than it is given


class Cluster:
    """A Ray cluster that runs: "host:port", or "auto" for RAY_ADDRESS, or the one of this machine.
    `cpus`: those of each node that has any. Raises ConnectionError where there is none."""

    def __init__(self, address: str) -> None:
        try:
            _check_there(address if ":" in address else os.environ.get("RAY_ADDRESS", address))
            ray.init(address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
        except (OSError, RuntimeError, RayError) as error:  # the last: of a token that is wrong
            what = (
                "no Ray cluster can be had: ray start --head begins one here, --ray HOST:PORT "
                "names another, whose token is shown with RAY_AUTH_MODE=token"
            )
            raise ConnectionError(f"{what} ({_first_line(error)})") from error
        self._workers: list[RemoteWorker] = []
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.cpus = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]

    def workers(self, make: Callable[[], Worker], n: int | None, n_cpus: int) -> list[RemoteWorker]:
        """`n` workers that `make` makes where they run, for each of which Ray keeps `n_cpus` free;
        None for as many as there is room for. Raises ValueError where no node has as many."""
        room = sum(node // n_cpus for node in self.cpus)
        if room == 0:
            largest = max(self.cpus, default=0)
            raise ValueError(f"a worker takes {n_cpus} CPUs (-t); no node has more than {largest}")
        host = ray.remote(num_cpus=n_cpus, max_restarts=-1, max_concurrency=MOST_CALLS)(Host)
        self._workers = [RemoteWorker(host.remote(make, os.getcwd())) for _ in range(n or room)]
        return self._workers

    def close(self) -> None:
        """End the workers, and leave the cluster."""
        for worker in self._workers:
            worker.kill()
        ray.shutdown()


class RemoteWorker:
    """A worker on a cluster, as the pool takes it."""

    def __init__(self, actor: Any) -> None:
        self._actor, self._has_started = actor, False
        self._starting: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        """Raises ValueError where the worker cannot be made, TimeoutError where the cluster has no
        room for it; of a worker that was lost, it waits until there is room again."""
        if self._starting is None or self._starting.done():  # the first of those that wait
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        for starts in range(1, MOST_STARTS + 1):
            await self._has_process()
            try:
                for text in await self._actor.open.remote():
                    warnings.warn(text, stacklevel=2)
                return
            except LOST as error:
                if starts == MOST_STARTS:
                    what = f"a worker's process has ended {starts} times while it opened the model"
                    raise RuntimeError(f"{what}: {_first_line(error)}") from error
            except RayTaskError as error:
                raise ValueError(str(error.cause)) from error

    async def _has_process(self) -> None:
        """Until Ray has started it. Its own way to wait for that would tell of each attempt."""
        try:
            async with asyncio.timeout(None if self._has_started else START_SECONDS):
                while not await self._is_there():
                    await asyncio.sleep(RETRY_SECONDS)
        except TimeoutError:
            what = f"the cluster has started no process in {START_SECONDS:g} s"
            raise TimeoutError(f"{what}: ray status shows what others take of it") from None
        except LOST as error:
            raise RuntimeError(_first_line(error)) from error
        self._has_started = True

    async def _is_there(self) -> bool:
        try:
            await self._actor.__ray_ready__.remote()
        except ActorUnavailableError:
            return False
        return True

    async def answer(self, request: Request) -> bytes:
        """Raises WorkerLost, and RuntimeError for what fails in the worker."""
        try:
            answer: bytes = await self._actor.answer.remote(request)
        except LOST as error:
            raise WorkerLost(_first_line(error)) from error
        except RayTaskError as error:
            raise RuntimeError(str(error.cause)) from error
        return answer

    def kill(self) -> None:
        ray.kill(self._actor)


class Host:
    """What the process has: a worker, made when it is first asked for. `folder`: that of the
    command, in which the paths of its flags are looked for where there is such a one."""

    def __init__(self, make: Callable[[], Worker], folder: str) -> None:
        self._make, self._opening = make, asyncio.Lock()
        self._worker: Worker | None = None
        with suppress(OSError):
            os.chdir(folder)

    async def open(self) -> list[str]:
        """Make the worker; returns texts of warnings. Raises ValueError, with this machine's
        name."""
        with warnings.catch_warnings(record=True) as caught:
            await self._opened()
        return [str(warning.message) for warning in caught]

    async def answer(self, request: Request) -> bytes:
        worker = await self._opened()
        return await worker.answer(request)

    async def _opened(self) -> Worker:
        async with self._opening:
            if self._worker is None:
                try:
                    self._worker = await asyncio.to_thread(self._make)
                except Exception as error:
                    raise ValueError(f"{socket.gethostname()}: {error}") from error
            return self._worker


def _check_there(address: str) -> None:
    """Raises OSError where nothing listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
