"""The application of `linnet serve`, for ASGI servers: `linnet.server.app:make_app`."""

from __future__ import annotations

from linnet.engine.cli.asgi import make_app as make_app
