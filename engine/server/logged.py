"""A line for each request, once it is over."""

from __future__ import annotations

import re
import secrets
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from linnet.engine.server.answers import Answers
from linnet.engine.server.errors import failed
from linnet.engine.server.http import error_response
from linnet.engine.server.log import tell
from linnet.engine.server.metrics import Metrics

LONGEST_PATH = 200  # characters, of which more are cut off
_ID = re.compile(r"[!-~]{1,128}")


class Logged:
    """The outermost of the application: gives each request an id, its own where it has one; answers
    where something fails that nobody foresaw; and logs the request once it is over."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        status, started = 0, time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            known = failed(error)
            if not status:
                await error_response(scope, known)(scope, receive, send_with_id)
        finally:
            self._metrics.answered[getattr(scope.get("route"), "path", ""), status] += 1
            tell(
                "request", id=request_id, method=scope["method"], path=_path(scope), status=status,
                seconds=time.perf_counter() - started, **_figures(state.get("answers")),
            )  # fmt: skip


def _figures(answers: Answers | None) -> dict[str, Any]:
    """Tokens and seconds of the answers to a request, all together."""
    if answers is None:
        return {}
    each = answers.stats
    return {
        "n_prompt": sum(stats.n_prompt for stats in each),
        "n_cached": sum(stats.n_cached for stats in each),
        "n_generated": sum(stats.n_generated for stats in each),
        "queue_seconds": max(stats.queue_seconds for stats in each),
        "prompt_seconds": max(stats.prompt_seconds for stats in each),
        "generate_seconds": max(stats.generate_seconds for stats in each),
        "reason": ",".join(answers.reasons),
    }


def _path(scope: Scope) -> str:
    """As it was sent: in ASCII, with its escapes."""
    path: bytes = scope.get("raw_path") or scope["path"].encode("ascii", "backslashreplace")
    return path.decode("ascii", "backslashreplace")[:LONGEST_PATH]
