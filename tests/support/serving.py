"""A server over the model linnet ships, in a thread, and clients of it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import httpx

from linnet import LLM
from linnet.engine.async_llm import AsyncLLM
from linnet.engine.server.run import Server, bound
from linnet.engine.server.settings import Settings

SECONDS = 30.0  # for what should take a moment
# Reasoning and calls in the tags of Qwen 3 and Hermes 2: <think></think>, <tool_call></tool_call>.
TEMPLATE = """
{%- if tools %}tools: {% for tool in tools %}{{ tool | tojson }}
<tool_call></tool_call>{% endfor %}{% endif %}
{%- for m in messages %}<s>{{ m.role }}
    {%- if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}
    {%- for call in m.tool_calls or [] %}[{{ call.function.name }}
        {%- for name, value in call.function.arguments.items() %} {{ name }}={{ value }}
        {%- endfor %}]{% endfor %}: {{ m.content }}
{%- endfor %}
{%- if add_generation_prompt %}<s>assistant: {% if enable_thinking is false %}<think></think>
{%- endif %}{% endif %}"""


class Frame(NamedTuple):
    """One server-sent event: its name, and its data, parsed where that is JSON."""

    event: str | None
    data: Any


@dataclass
class Running:
    """A server that runs, and its model."""

    url: str
    server: Server
    llm: LLM
    key: str | None = None

    @cached_property
    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(base_url=self.url, timeout=SECONDS, headers=headers, trust_env=False)

    @property
    def n_open(self) -> int:
        """Answers under way."""
        return self.server.service.n_open

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers=headers)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def answer(self, path: str, **body: Any) -> Any:
        """The body of an answer that must be 200."""
        response = self.post(path, **body)
        assert response.status_code == 200, response.text
        return response.json()

    def refusal(self, path: str, status: int, **body: Any) -> dict[str, Any]:
        """The `error` of an answer that must have that status."""
        response = self.post(path, **body)
        assert response.status_code == status, response.text
        error: dict[str, Any] = response.json()["error"]
        return error

    @contextmanager
    def stream(self, path: str, **body: Any) -> Iterator[Iterator[Frame]]:
        """The frames of a stream, as they come; left early, the connection is closed."""
        with self.client.stream("POST", path, json={"stream": True, **body}) as response:
            if response.status_code != 200:
                response.read()
            assert response.status_code == 200, response.text
            assert response.headers["content-type"].startswith("text/event-stream")
            yield frames(response.iter_lines())

    def streamed(self, path: str, **body: Any) -> list[Frame]:
        """All of them."""
        with self.stream(path, **body) as found:
            return list(found)

    def chat(self, text: str = "def f(x):", **body: Any) -> Any:
        """The answer to one message, of few tokens."""
        return self.answer("/v1/chat/completions", **asked(text, **body))

    def chat_stream(self, text: str = "def f(x):", **body: Any) -> list[Any]:
        """The chunks of the same, without [DONE], which must be the last."""
        *chunks, last = self.streamed("/v1/chat/completions", **asked(text, **body))
        assert last == (None, "[DONE]")
        assert all(event is None for event, _ in chunks)
        return [data for _, data in chunks]

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """A bare one, for what no client sends."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
            yield connection

    def rests(self) -> None:
        """Wait until no answer is under way."""
        until(lambda: self.n_open == 0)


def asked(text: str = "def f(x):", **body: Any) -> dict[str, Any]:
    """A body with one message, that is answered by few tokens."""
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "max_tokens": 8, "temperature": 0, **body}


def frames(lines: Iterator[str]) -> Iterator[Frame]:
    """Server-sent events, comments left out."""
    event: str | None = None
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "data":
            yield Frame(event, value if value == "[DONE]" else json.loads(value))
            event = None


def until(holds: Callable[[], bool]) -> None:
    """Wait for it; fails where it does not come."""
    end = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.002)


@contextmanager
def serving(
    model: Callable[[], LLM] | None = None, *, api_keys: tuple[str, ...] = (), **settings: Any
) -> Iterator[Running]:
    """A server that is ready; it ends with the block. `settings`: fields of Settings."""
    listening = bound("127.0.0.1", 0)
    server = Server(Settings(api_keys=api_keys, **settings))
    ready = threading.Event()
    opened: list[LLM] = []
    loops: list[asyncio.AbstractEventLoop] = []

    def open_model() -> AsyncLLM:
        opened.append(model() if model else LLM(chat_template=TEMPLATE))
        return AsyncLLM(opened[0])

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        try:
            await server.run_model(open_model, [listening], lambda _: ready.set())
        finally:
            ready.set()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="server")
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    thread.start()
    try:
        assert ready.wait(SECONDS)
        running = Running(url, server, opened[0], *api_keys[:1])
        yield running
        running.client.close()
    finally:
        loops[0].call_soon_threadsafe(server.end)
        thread.join()
