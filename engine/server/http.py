"""Bodies in, answers out, whatever the wire format."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from linnet.engine.server.answers import Answers
from linnet.engine.server.errors import APIError
from linnet.engine.server.service import Service
from linnet.engine.server.sse import EventStream, unless_gone

_encode = msgspec.json.Encoder().encode


class Gone(Response):
    """To a client that has gone: nothing."""

    async def __call__(self, *_: Any) -> None:
        return None


async def body_of(request: Request) -> bytes:
    """All of it. Raises APIError where it is compressed, goes beyond a limit (`limits`), or breaks
    off."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise APIError(415, f"the body has the content-encoding {coding!r}; send it without one")
    try:
        return await request.body()
    except ClientDisconnect:
        raise APIError(400, "the body is incomplete") from None


def json_response(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(data), status, headers, media_type="application/json")


def error_response(scope: Scope, error: APIError) -> Response:
    """In the shape that the clients of a path expect."""
    return json_response(error.body_at(scope["path"]), error.status, error.headers)


async def answer(request: Request, answers: Answers, whole: Coroutine[Any, Any, Any]) -> Response:
    """One body, once it is there; the answers end with the client. Raises APIError."""
    request.state.answers = answers
    try:
        data = await unless_gone(request, whole)
    finally:
        await answers.aclose()
    return Gone() if data is None else json_response(data)


def stream_of(service: Service, answers: Answers, frames: AsyncGenerator[bytes]) -> Response:
    """Frames as they come, and after an error one that tells of it, in OpenAI's shape. Frames and
    answers end with the client."""
    return EventStream(frames, answers, keepalive=service.settings.keepalive)
