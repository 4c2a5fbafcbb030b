"""The application: routes, who may ask, what is logged, and errors that are answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from linnet.engine.server.errors import APIError, failed
from linnet.engine.server.gate import Gate
from linnet.engine.server.http import error_response
from linnet.engine.server.limits import BodyLimits
from linnet.engine.server.logged import Logged
from linnet.engine.server.service import Service
from linnet.engine.server.wire import WIRES

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def application(service: Service, lifespan: Lifespan | None = None) -> Starlette:
    """All endpoints over one model, which may still be loading; `lifespan`: what whoever runs the
    application goes through before the first request and after the last."""
    app = Starlette(
        routes=[route for wire in WIRES for route in wire.routes(service)],
        middleware=[
            Middleware(Logged, service.metrics), Middleware(Gate, service),
            Middleware(BodyLimits, service.settings.max_body),
        ],
        exception_handlers={APIError: _on_error, HTTPException: _on_http_error},
        lifespan=lifespan,
    )  # fmt: skip
    app.state.service = service
    return app


async def _on_error(request: Request, error: Exception) -> Response:
    return error_response(request.scope, failed(error))


async def _on_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = {404: f"there is no {request.url.path} here",
            405: f"{request.method} is not for {request.url.path}"}  # fmt: skip
    return error_response(request.scope, APIError(status, what.get(status, str(error))))
