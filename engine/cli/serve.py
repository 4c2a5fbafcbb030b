"""`linnet serve`: a model behind OpenAI's API."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from linnet.engine.async_llm import AsyncLLM
from linnet.engine.cli.counts import count, number
from linnet.engine.cli.loop_signals import hear
from linnet.engine.cli.model import add_model
from linnet.engine.cli.reading import read_text
from linnet.engine.cli.served import add_served, opened, settings
from linnet.engine.extras import installing
from linnet.engine.server.settings import Settings

if TYPE_CHECKING:
    from linnet.engine.server.run import Server

MISSING = f"linnet serve needs packages of its own: {installing('serve')}"
LOCAL = "127.0.0.1"
SWITCH_SECONDS = 0.0005  # between threads of Python: the loop's and that of the steps
DAY = 86400.0
MIB = 1 << 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags are named as llama-server names them."""
    add_model(parser)
    add = parser.add_argument_group("server").add_argument
    add("--host", action="append", metavar="HOST",
        help=f"an address to listen at, may be repeated; default {LOCAL}")  # fmt: skip
    add("--port", type=count(0, 65535), default=8080, metavar="N",
        help="default 8080; 0 for one that is free")  # fmt: skip
    add("--api-key", action="append", default=[], metavar="KEY",
        help="asked for; several with commas, or repeated")  # fmt: skip
    add("--api-key-file", metavar="FILE", help="with a key a line")
    add("--cors-origins", action="append", default=[], metavar="ORIGIN",
        help="whose pages may ask: origins, localhost or *; default none")  # fmt: skip
    add("--max-queue", type=count(0, 100_000), default=64, metavar="N",
        help="requests that may wait; more get 503; default 64")  # fmt: skip
    add("--max-body", type=count(1, 1024), default=32, metavar="MIB",
        help="of a request; more get 413; default 32")  # fmt: skip
    add("-to", "--timeout", type=number(0.001, 365 * DAY), default=3600.0, metavar="S",
        help="a request may take; default 3600")  # fmt: skip
    add("--shutdown-timeout", type=number(0, DAY), default=5.0, metavar="S",
        help="that requests under way have at the end; default 5")  # fmt: skip
    for name, what in (("metrics", "/metrics"), ("slots", "/slots"), ("ui", "the page at /")):
        add(f"--{name}", action=argparse.BooleanOptionalAction, default=True, help=what)
    add("--metrics-compat", action="store_true", help="llama-server's names in /metrics, too")
    add("--log-format", choices=("text", "json"), default="text", help="of lines on stderr")
    add_served(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM, which let requests end, or a second one."""
    try:
        from linnet.engine.server.log import only_ours, tell
        from linnet.engine.server.run import Server, bound
    except ImportError as error:
        raise ImportError(f"{MISSING} ({error})") from error
    given = server_settings(arguments)
    sockets = [bound(host, arguments.port) for host in arguments.host or [LOCAL]]
    is_local = all(ipaddress.ip_address(s.getsockname()[0]).is_loopback for s in sockets)
    begin_log(arguments)
    only_ours()

    def on_ready(llm: AsyncLLM) -> None:
        if not is_local and not given.api_keys:
            tell("warning", message="anybody who reaches this address may ask; see --api-key")
        tell_ready(llm, url=" ".join(map(_url, sockets)))

    def on_start() -> None:
        tell("loading", url=" ".join(map(_url, sockets)))

    server = Server(replace(given, is_local=is_local))
    asyncio.run(_serve(server, partial(opened, arguments), sockets, on_start, on_ready))
    tell("ended")
    return 0


def server_settings(arguments: argparse.Namespace) -> Settings:
    """What flags say, whatever addresses it listens at. Raises what `settings` raises, ValueError
    for wrong keys, and OSError for their file."""
    return settings(
        arguments, api_keys=_keys(arguments), cors_origins=_listed(arguments.cors_origins),
        is_local=None, max_body=arguments.max_body * MIB, max_queue=arguments.max_queue,
        timeout=arguments.timeout, shutdown_timeout=arguments.shutdown_timeout,
        has_metrics=arguments.metrics, metrics_compat=arguments.metrics_compat,
        has_slots=arguments.slots, has_page=arguments.ui,
    )  # fmt: skip


def begin_log(arguments: argparse.Namespace) -> None:
    """Log to stderr, also what is warned of; and have threads of Python take turns as a server's
    have to."""
    from linnet.engine.server.log import log_to, log_warnings

    log_to(sys.stderr, as_json=arguments.log_format == "json")
    log_warnings(with_text=True)
    sys.setswitchinterval(SWITCH_SECONDS)


def tell_ready(llm: AsyncLLM, **where: str) -> None:
    """Log that requests are answered now; no text of what is warned of from here on."""
    from linnet.engine.server.log import log_warnings, tell

    log_warnings(with_text=False)
    tell("ready", **where, model=llm.llm.path.name, n_ctx=llm.llm.n_ctx,
         n_parallel=llm.llm.n_parallel, seconds=llm.llm.load_seconds)  # fmt: skip


async def _serve(
    server: Server, opened: Callable[[], AsyncLLM], sockets: list[socket.socket],
    on_start: Callable[[], None], on_ready: Callable[[AsyncLLM], None],
) -> None:  # fmt: skip
    def on_signal(_: int) -> None:
        """The first ends it in order; a second one, or one while the model is loading, at once."""
        if server.service.draining or not server.service.is_ready:
            os._exit(0)
        server.end()

    hear(on_signal)
    on_start()  # from here on signals are heard
    await server.run_model(opened, sockets, on_ready)


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _keys(arguments: argparse.Namespace) -> list[str]:
    """Raises ValueError for a file without any, or an empty key: they would let everybody in."""
    keys = _listed(arguments.api_key)
    if arguments.api_key_file is not None:
        found = [line.strip() for line in read_text(arguments.api_key_file).splitlines()]
        keys += [key for key in found if key]
        if not keys:
            raise ValueError("--api-key-file has no key; it must have one a line")
    if not all(keys):
        raise ValueError("--api-key is empty; it must be a text")
    return keys


def _listed(values: list[str]) -> list[str]:
    """Of a flag that takes several with commas between, and may be repeated."""
    return [item.strip() for value in values for item in value.split(",")]
