"""A server process: sockets first, then the model, and an end in order."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from linnet.engine.async_llm import AsyncLLM
from linnet.engine.server.app import application
from linnet.engine.server.log import log_failure, tell
from linnet.engine.server.opening import prepared
from linnet.engine.server.service import Service
from linnet.engine.server.settings import Settings
from linnet.engine.server.sse import STALLED

MOST_HEADERS = 64 << 10  # bytes, of a request
MOST_CONNECTIONS = 500
SLOW_SECONDS = 10.0  # that a client may take to send a head, or the rest of what was refused
KEEP_ALIVE = 75  # seconds between two requests: more than clients reckon with
CLOSING_SECONDS = 2  # for the last frames to be sent


class Server(uvicorn.Server):
    """uvicorn's, but that it loads a model while it listens, and ends in order."""

    def __init__(self, settings: Settings) -> None:
        self.service = Service(settings)
        config = uvicorn.Config(
            application(self.service), http="h11", ws="none", lifespan="off", log_config=None,
            access_log=False, server_header=False, h11_max_incomplete_event_size=MOST_HEADERS,
            limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=CLOSING_SECONDS,
            timeout_keep_alive=KEEP_ALIVE,
        )  # fmt: skip
        super().__init__(config)
        self._ending = asyncio.Event()
        self._slow_since: dict[tuple[H11Protocol, object], float] = {}

    async def run_model(
        self, open_model: Callable[[], AsyncLLM], sockets: Sequence[socket.socket],
        on_ready: Callable[[AsyncLLM], None],
    ) -> None:  # fmt: skip
        """Load the model, and serve until `end`. Raises what opening the model raises."""
        asyncio.get_running_loop().set_exception_handler(_on_loop_error)
        serving = asyncio.create_task(self.serve(list(sockets)))
        try:
            llm = await asyncio.to_thread(prepared, open_model)
            self.service.ready(llm)
            on_ready(llm)
            await self._ending.wait()
            await self._drain()
        finally:
            self.should_exit = True
            await asyncio.wait([serving])
            await asyncio.to_thread(self.service.close)  # which may write prefixes

    def end(self) -> None:
        """Take no request any more; give those under way `shutdown_timeout` seconds, and then end
        them with an error. On the loop."""
        self.service.draining = True
        self._ending.set()

    async def _drain(self) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + self.service.settings.shutdown_timeout
        while self.service.n_open and clock() < deadline:
            await asyncio.sleep(0.02)
        self.service.stop()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None: they are the program's."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        self._close_slow(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def _close_slow(self, now: float) -> None:
        """Close connections whose clients send no request, or its head too slowly, or go on sending
        a body that was refused; and cut those that never take what was sent last. Where a client
        may ask again, uvicorn has a timer."""
        slow = {
            (connection, connection.cycle)
            for connection in self.server_state.connections
            if isinstance(connection, H11Protocol) and _is_awaited(connection)
        }
        self._slow_since = {key: self._slow_since.get(key, now) for key in slow}
        for (connection, _), since in self._slow_since.items():
            if now - since > STALLED:
                connection.transport.abort()
            elif now - since > SLOW_SECONDS:
                connection.transport.close()  # once what is left has been sent


def _is_awaited(connection: H11Protocol) -> bool:
    """Whether nothing can be done before its client does something."""
    if connection.transport.is_closing():
        return True
    if connection.cycle is None or not connection.cycle.response_complete:
        return connection.cycle is None
    has_begun = bool(connection.conn.trailing_data[0])  # another head
    return has_begun or connection.conn.their_state is not h11.IDLE


def _on_loop_error(_: object, context: Mapping[str, Any]) -> None:
    """An error that no task was waiting for."""
    error = context.get("exception")
    if isinstance(error, BaseException):
        log_failure(error)
    else:
        tell("failure", where=str(context.get("message")))


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens, of IPv4 where a name has both. Raises OSError where it cannot be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, proto, _, address = min(found, key=lambda item: item[0] != socket.AF_INET)
        listening = socket.socket(family, kind, proto)  # of TCP by name: else asyncio lets it delay
    except OSError as error:
        raise OSError(f"{host}: {error.strerror}; give another --host") from error
    try:
        if sys.platform == "win32":  # where to reuse an address is to take it from who listens
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise OSError(f"{host}:{port}: {error.strerror}; give another --port") from error
    return listening
