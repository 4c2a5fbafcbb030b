"""The API of `linnet serve` over several copies of a model, on Ray Serve:

    serve run ray_serve:build model=model.gguf threads=8 replicas=4

A thin ingress passes requests on to engines, each a process with linnet.server.app:make_app. The
next turn of a conversation goes to the engine that has the earlier ones in its cache, unless that
one has much more to do than another. With `replicas=1-4`, engines come and go with the load.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message

from linnet.server.app import make_app

PARALLEL = 8  # requests that an engine runs at once
MOST = 1000  # requests that an engine or the ingress takes; others wait in front of them
# What ray.serve.llm calls PrefixCacheAffinityRouter, which needs vLLM there. Here it does not, but
# this path is Ray's own business: it may change with any version.
ROUTER = (
    "ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router:"
    "PrefixCacheAffinityRouter"
)
SCOPE = (  # of ASGI, what can go to another process
    "type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string",
    "root_path", "headers", "client", "server",
)  # fmt: skip


NOTHING = "nothing"  # the router takes no empty text


class Asked(NamedTuple):
    """A request on its way to an engine. `prompt`: what the router compares."""

    scope: dict[str, Any]
    body: bytes
    prompt: str


def told(body: bytes) -> str:
    """What a client tells a model, in any wire format, from the beginning on: another turn has that
    of the one before it, and more. Without the answers between, which the router never sees."""
    names = "tools", "system", "instructions", "prompt", "input"
    try:
        fields = json.loads(body)
        parts = [fields.get(name) for name in names]
        parts += [m.get("content") for m in fields.get("messages", ()) if m["role"] != "assistant"]
    except (ValueError, TypeError, AttributeError, KeyError):  # of which the engine tells
        parts = []
    return "".join(str(part) for part in parts if part) or NOTHING


class Engine:
    """A model, and the application around it, which is called without a socket."""

    async def __init__(self, model: str | None, threads: int) -> None:  # type: ignore[misc]
        self.open = AsyncExitStack()
        self.app = make_app(model, threads=threads, parallel=PARALLEL)
        await self.open.enter_async_context(self.app.router.lifespan_context(self.app))

    async def __del__(self) -> None:
        await self.open.aclose()

    async def __call__(self, asked: Asked) -> AsyncGenerator[Message]:
        """The messages of an answer, by ASGI."""
        unread: list[Message] = [{"type": "http.request", "body": asked.body, "more_body": False}]
        messages: asyncio.Queue[Message | None] = asyncio.Queue()

        async def receive() -> Message:
            return unread.pop() if unread else await asyncio.Future()  # until it is cancelled

        async def answer() -> None:
            try:
                await self.app(asked.scope, receive, messages.put)
            finally:
                await messages.put(None)

        task = asyncio.create_task(answer())
        try:
            while (message := await messages.get()) is not None:
                yield message
            await task
        finally:  # the client has its answer, or is gone
            task.cancel()


class Ingress:
    def __init__(self, engine: DeploymentHandle) -> None:
        self.engine = engine.options(stream=True)

    async def __call__(self, request: Request) -> StreamingResponse:
        body = await request.body()
        scope = {name: request.scope[name] for name in SCOPE if name in request.scope}
        messages = self.engine.remote(Asked(scope, body, told(body)))
        start = await anext(messages)
        response = StreamingResponse(
            (message["body"] async for message in messages), start["status"]
        )
        added = b"x-request-id"  # by Ray Serve, the same
        response.raw_headers = [item for item in start["headers"] if item[0] != added]
        return response


def build(arguments: dict[str, str]) -> Application:
    """`model`: as for `linnet serve`. `threads`: of each engine, which Ray reserves as many CPUs
    for. `replicas`: engines; FEW-MOST for as many as requests take. `prefixes`: "no" for engines by
    their load alone."""
    threads = int(arguments.get("threads", 1))
    few, _, most = arguments.get("replicas", "1").partition("-")
    options: dict[str, Any] = {"num_replicas": int(few)}
    if most:
        scale = AutoscalingConfig(
            min_replicas=int(few), max_replicas=int(most), target_ongoing_requests=PARALLEL
        )
        options = {"num_replicas": None, "autoscaling_config": scale}
    if arguments.get("prefixes") != "no":
        options["request_router_config"] = RequestRouterConfig(
            request_router_class=ROUTER,
            request_router_kwargs={
                "match_rate_threshold": 0.5,  # below, the engine that was told least
                "imbalanced_threshold": PARALLEL // 2,  # requests more than another engine has
                "do_eviction": True,
            },
        )
    engines = serve.deployment(
        Engine, max_ongoing_requests=MOST, ray_actor_options={"num_cpus": threads}, **options
    )
    ingress = serve.deployment(
        Ingress, max_ongoing_requests=MOST, ray_actor_options={"num_cpus": 0}
    )
    return ingress.bind(engines.bind(arguments.get("model"), threads))
