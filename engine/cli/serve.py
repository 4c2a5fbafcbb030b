"""`linnet serve`: a model behind OpenAI's API."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from linnet.engine.async_llm import AsyncLLM
from linnet.engine.cli.counts import count, number
from linnet.engine.cli.model import add_model
from linnet.engine.cli.options import (
    add_drafts,
    add_running,
    add_sampling,
    add_template,
    chat_variables,
    draft_options,
    open_model,
    reasoning_budget,
    sampling_fields,
    set_template,
)
from linnet.engine.cli.reading import read_text
from linnet.engine.extras import installing
from linnet.engine.open_model import MOST_PARALLEL, N_PARALLEL, N_SLOTS
from linnet.engine.running.embedding import POOLINGS
from linnet.engine.sampling.parameter import MAX_INT
from linnet.engine.sampling.params import PARAMETERS
from linnet.models.parts.config import MAX_CONTEXT

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
    add("-a", "--alias", metavar="NAME", help="the model's id; default the file's name")
    add("--strict-model", action="store_true", help="refuse requests for models of other names")
    add("--api-key", action="append", default=[], metavar="KEY",
        help="asked for; several with commas, or repeated")  # fmt: skip
    add("--api-key-file", metavar="FILE", help="with a key a line")
    add("--cors-origins", action="append", default=[], metavar="ORIGIN",
        help="whose pages may ask: origins, localhost or *; default none")  # fmt: skip
    add("-np", "--parallel", type=count(1, MOST_PARALLEL), default=N_PARALLEL, metavar="N",
        help=f"requests that run at once; default {N_PARALLEL}")  # fmt: skip
    add("--max-queue", type=count(0, 100_000), default=64, metavar="N",
        help="requests that may wait; more get 503; default 64")  # fmt: skip
    add("--max-body", type=count(1, 1024), default=32, metavar="MIB",
        help="of a request; more get 413; default 32")  # fmt: skip
    add("-to", "--timeout", type=number(0.001, 365 * DAY), default=3600.0, metavar="S",
        help="a request may take; default 3600")  # fmt: skip
    add("--shutdown-timeout", type=number(0, DAY), default=5.0, metavar="S",
        help="that requests under way have at the end; default 5")  # fmt: skip
    add("--kv-tokens", type=count(1, MAX_CONTEXT * N_SLOTS), metavar="N",
        help="tokens that all sequences may hold; default half of the free memory")  # fmt: skip
    add("--prompt-cache", metavar="DIR", help="keep long prefixes on disk")
    add("--pooling", choices=POOLINGS, help="of embeddings; default as the file says")
    add("--reasoning-format", choices=("auto", "deepseek", "none"), default="auto",
        help="none: leave it in the content; else it has a field of its own")  # fmt: skip
    for name, what in (("metrics", "/metrics"), ("slots", "/slots"), ("ui", "the page at /")):
        add(f"--{name}", action=argparse.BooleanOptionalAction, default=True, help=what)
    add("--metrics-compat", action="store_true", help="llama-server's names in /metrics, too")
    add("--log-format", choices=("text", "json"), default="text", help="of lines on stderr")
    add_sampling(parser, without=("logprobs", "prompt_logprobs", "max_tokens"))
    parser.add_argument(
        *PARAMETERS["max_tokens"].flags, dest="max_tokens", type=count(-1, MAX_INT), metavar="N",
        default=-1, help="tokens at most, of requests that do not say; default -1: no limit",
    )  # fmt: skip
    add_running(
        parser, context="tokens of each sequence; 0: the model's; by default that, at most 8192"
    )
    add_drafts(parser)
    add_template(parser.add_argument_group("chat"))


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM, which let requests end, or a second one."""
    try:
        from linnet.engine.server.log import log_to, log_warnings, tell
        from linnet.engine.server.run import Server, bound
        from linnet.engine.server.settings import Settings
    except ImportError as error:
        raise ImportError(f"{MISSING} ({error})") from error
    sampling, keys = sampling_fields(arguments), _keys(arguments)
    sockets = [bound(host, arguments.port) for host in arguments.host or [LOCAL]]
    is_local = all(ipaddress.ip_address(s.getsockname()[0]).is_loopback for s in sockets)
    settings = Settings(
        alias=arguments.alias, strict_model=arguments.strict_model, api_keys=keys,
        cors_origins=_listed(arguments.cors_origins), is_local=is_local,
        max_body=arguments.max_body * MIB, max_queue=arguments.max_queue,
        timeout=arguments.timeout, shutdown_timeout=arguments.shutdown_timeout,
        sampling=sampling, variables=chat_variables(arguments),
        reasoning=arguments.reasoning_format != "none",
        reasoning_budget=reasoning_budget(arguments), pooling=arguments.pooling,
        has_metrics=arguments.metrics, metrics_compat=arguments.metrics_compat,
        has_slots=arguments.slots, has_page=arguments.ui,
    )  # fmt: skip
    log_to(sys.stderr, as_json=arguments.log_format == "json")
    log_warnings(with_text=True)
    sys.setswitchinterval(SWITCH_SECONDS)

    def opened() -> AsyncLLM:
        llm = open_model(
            arguments, n_parallel=arguments.parallel, kv_tokens=arguments.kv_tokens,
            prompt_cache=arguments.prompt_cache, **draft_options(arguments),
        )  # fmt: skip
        set_template(llm, arguments)
        return AsyncLLM(llm)

    def on_ready(llm: AsyncLLM) -> None:
        log_warnings(with_text=False)
        if not is_local and not keys:
            tell("warning", message="anybody who reaches this address may ask; see --api-key")
        tell("ready", url=" ".join(map(_url, sockets)), model=llm.llm.path.name,
             n_ctx=llm.llm.n_ctx, n_parallel=llm.llm.n_parallel,
             seconds=llm.llm.load_seconds)  # fmt: skip

    def on_start() -> None:
        tell("loading", url=" ".join(map(_url, sockets)))

    asyncio.run(_serve(Server(settings), opened, sockets, on_start, on_ready))
    tell("ended")
    return 0


async def _serve(
    server: Server, opened: Callable[[], AsyncLLM], sockets: list[socket.socket],
    on_start: Callable[[], None], on_ready: Callable[[AsyncLLM], None],
) -> None:  # fmt: skip
    def on_signal() -> None:
        """The first ends it in order; a second one, or one while the model is loading, at once."""
        if server.service.draining or not server.service.is_ready:
            os._exit(0)
        server.end()

    _hear(on_signal)
    on_start()  # from here on signals are heard
    await server.run_model(opened, sockets, on_ready)


def _hear(on_signal: Callable[[], None]) -> None:
    """Have the loop call it for Ctrl-C, Ctrl-Break where there is one, and SIGTERM."""
    loop = asyncio.get_running_loop()
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, on_signal)
        except NotImplementedError:  # as on Windows, whose loop wakes up for signals all the same
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))


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
