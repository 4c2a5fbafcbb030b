"""The server's application for whoever runs ASGI: uvicorn, gunicorn, hypercorn, or a larger app."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from linnet.engine.cli.main import command_parser
from linnet.engine.cli.serve import MISSING, begin_log, server_settings, tell_ready
from linnet.engine.cli.served import opened

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from linnet.engine.cli.parser import Parser

OF_THE_HOST = {"host", "port", "shutdown_timeout"}


def make_app(model: str | os.PathLike[str] | None = None, **flags: Any) -> Starlette:
    """All endpoints of `linnet serve`, as an ASGI application, for servers that others write:

        LINNET_ARG_MODEL=model.gguf uvicorn --factory linnet.server.app:make_app
        gunicorn -k uvicorn_worker.UvicornWorker 'linnet.server.app:make_app("model.gguf")'

    `model`: as the command takes it: a file, user/model:Q4_K_M of the hub, or a URL. `flags`: those
    of the command, with underscores: `parallel=8`, `ctx_size=4096`, `api_key=["a", "b"]`,
    `metrics=False`. As there, LINNET_ARG_CTX_SIZE and its like set what is not given.

    The model is opened when the server starts (ASGI's lifespan), and closed when it ends. Raises
    ValueError for wrong flags, also for `host`, `port` and `shutdown_timeout`, which whoever runs
    the application has its own of; ImportError without what `linnet-llm[serve]` installs.
    """
    try:
        from linnet.engine.server.app import application
        from linnet.engine.server.opening import prepared
        from linnet.engine.server.service import Service
    except ImportError as error:
        raise ImportError(f"{MISSING} ({error})") from error
    arguments = _parsed(flags if model is None else {"model": os.fspath(model), **flags})
    service = Service(server_settings(arguments))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        begin_log(arguments)
        llm = await asyncio.to_thread(prepared, partial(opened, arguments))
        service.ready(llm)
        tell_ready(llm)
        try:
            yield
        finally:
            service.draining = True
            await asyncio.to_thread(service.close)  # which may write prefixes

    return application(service, lifespan)


def _parsed(flags: Mapping[str, Any]) -> argparse.Namespace:
    """What the command makes of them. Raises ValueError."""
    for name in OF_THE_HOST & flags.keys():
        raise ValueError(f"{name} is not for the application: whatever runs it, as uvicorn, has it")
    parser = command_parser("serve")
    return parser.parse([word for item in flags.items() for word in _words(parser, *item)])


def _words(parser: Parser, name: str, value: Any) -> Iterator[str]:
    """A flag as on a command line; none for what is None, or off. Raises ValueError for several
    values of a flag that takes one."""
    flag = f"--{name.replace('_', '-')}"
    action = parser._option_string_actions.get(flag)
    if isinstance(value, bool):
        if value:
            yield flag
        elif isinstance(action, argparse.BooleanOptionalAction):
            yield f"--no-{flag[2:]}"
    elif isinstance(value, list | tuple):
        if action is not None and not isinstance(action, argparse._AppendAction):
            raise ValueError(f"{name} is {value!r}; it takes one value")
        yield from (f"{flag}={each}" for each in value)
    elif value is not None:
        yield f"{flag}={json.dumps(value) if isinstance(value, dict) else value}"
