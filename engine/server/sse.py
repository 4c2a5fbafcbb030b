"""Server-sent events: frames, keepalives, and readers that are slow or gone.

The format is that of the WHATWG HTML standard, section 9.2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from linnet.engine.server.answers import Answers
from linnet.engine.server.errors import failed

DONE = b"data: [DONE]\n\n"
KEEPALIVE = b": keepalive\n\n"
STALLED = 60.0  # seconds that a reader may take for what fits no buffer any more
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # of nginx
}
_encode = msgspec.json.Encoder().encode
_T = TypeVar("_T")


def frame(data: Any, *, event: str | None = None) -> bytes:
    """One event with a value in JSON, which has no line feeds."""
    head = b"" if event is None else b"event: " + event.encode() + b"\n"
    return head + b"data: " + _encode(data) + b"\n\n"


class EventStream(Response):
    """A stream of frames about some answers.

    Both are closed when the frames end, when the client has gone, or when it takes nothing for
    STALLED seconds. After `keepalive` seconds without a frame a comment is sent. An error becomes a
    last frame, in OpenAI's shape.
    """

    def __init__(
        self, frames: AsyncGenerator[bytes], answers: Answers, *, keepalive: float
    ) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._frames, self._answers, self._keepalive = frames, answers, keepalive
        self._sent = 0.0  # when

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["answers"] = self._answers
        try:
            await _first(self._send_all(send), self._keep_alive(send), gone(receive))
        finally:
            await self._frames.aclose()
            await self._answers.aclose()

    async def _send_all(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await self._send(send, start)
        try:
            async for data in self._frames:
                await self._send_body(send, data)
        except Stalled:
            return
        except Exception as error:
            await self._send_body(send, frame(failed(error).body))
        await self._send(send, {"type": "http.response.body", "body": b""})

    async def _keep_alive(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            wait = self._sent + self._keepalive - clock() if self._sent else self._keepalive
            if wait > 0:
                await asyncio.sleep(wait)
            else:
                await self._send_body(send, KEEPALIVE)

    async def _send_body(self, send: Send, data: bytes) -> None:
        await self._send(send, {"type": "http.response.body", "body": data, "more_body": True})

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(STALLED):
                await send(message)
        except TimeoutError:
            raise Stalled from None
        self._sent = asyncio.get_running_loop().time()


class Stalled(Exception):
    """A reader takes nothing any more."""


async def gone(receive: Receive) -> None:
    """Until the client has closed the connection, or its request was answered."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T | None:
    """What it returns; None where the client goes first, which cancels it. The body must have been
    read."""
    task, _ = await _first(work, gone(request.receive))
    return None if task.cancelled() else task.result()


async def _first(*works: Coroutine[Any, Any, Any]) -> Sequence[asyncio.Task[Any]]:
    """Run them until one has ended, which ends the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return tasks
