"""Bounds on what clients send: bytes of a body, of all bodies in hand, and the time they take."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from linnet.engine.server.errors import APIError, unavailable

BODY_SECONDS = 30.0  # that a client may take to send its request
MOST_BODIES = 2  # of the largest size, or more small ones, at a time


class BodyLimits:
    """Gives the application a body within the limits; where it goes beyond them, `receive` raises
    APIError. What a body took is free again once its request is over."""

    def __init__(self, app: ASGIApp, max_body: int) -> None:
        self._app, self._most = app, max_body
        self._n_bytes = 0  # of all requests under way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        taken, complete = 0, False

        async def receive_within() -> Message:
            nonlocal taken, complete
            if complete:  # what may come is the end of the connection
                return await receive()
            if length.isdecimal() and int(length) > self._most:
                raise self._too_large()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                late = f"the body did not come within {BODY_SECONDS:g} s"
                raise APIError(408, late) from None
            n = len(message.get("body", b""))
            taken += n
            self._n_bytes += n
            if taken > self._most:
                raise self._too_large()
            if self._n_bytes > MOST_BODIES * self._most:
                raise unavailable("other requests that are under way have too large bodies")
            complete = not message.get("more_body", False)
            return message

        try:
            await self._app(scope, receive_within, send)
        finally:
            self._n_bytes -= taken

    def _too_large(self) -> APIError:
        return APIError(413, f"the body has more than {self._most} bytes; see --max-body")
