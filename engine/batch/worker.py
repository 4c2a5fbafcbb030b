"""A model that answers requests as the server does: by its application, called in this process."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

from starlette.types import Message

from linnet.engine.async_llm import AsyncLLM
from linnet.engine.batch.lines import Request, answer_line, asks_for_stream, error_line
from linnet.engine.server.app import application
from linnet.engine.server.errors import APIError
from linnet.engine.server.opening import prepared
from linnet.engine.server.service import Service
from linnet.engine.server.settings import Settings

MOST_WAITING = 100_000  # answers, all of one request among them


class Worker:
    """`open_model`: called here, so that this can be made in another process. `settings`: what a
    server would be started with; nobody waits for an answer here, so there are no limits of time or
    size. Raises what opening the model raises."""

    def __init__(self, open_model: Callable[[], AsyncLLM], settings: Settings) -> None:
        unlimited = dataclasses.replace(
            settings, timeout=math.inf, max_body=sys.maxsize // 4, max_queue=MOST_WAITING
        )
        self._service = Service(unlimited)
        self._service.ready(prepared(open_model))
        self._app = application(self._service)

    async def ready(self) -> None:
        """It is, from the beginning to the end."""

    async def answer(self, request: Request) -> bytes:
        """The line of an output file. To be called any number of times at once; one that is
        cancelled ends what it has asked for."""
        if asks_for_stream(request.body):
            message = "stream is true; the answer to a line of a batch is one body"
            return error_line(request.custom_id, APIError(400, message, param="stream"))
        exchange = _Exchange(bytes(request.body))
        await self._app(_scope(request), exchange.receive, exchange.send)
        return answer_line(
            request.custom_id, exchange.status, exchange.headers[b"x-request-id"].decode(),
            exchange.body,
        )  # fmt: skip

    def close(self) -> None:
        """End what is under way, and let go of the model."""
        self._service.close()


class _Exchange:
    """One request, and what is answered to it, as ASGI has them."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    async def receive(self) -> Message:
        if self._body is None:  # it never goes before its answer has come
            await asyncio.Event().wait()
        body, self._body = self._body or b"", None
        return {"type": "http.request", "body": body}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message.get("body", b"")


def _scope(request: Request) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
        "method": request.method, "path": request.url, "raw_path": request.url.encode(),
        "root_path": "", "query_string": b"", "headers": [(b"host", b"localhost")], "client": None,
        "server": None, "state": {},
    }  # fmt: skip
