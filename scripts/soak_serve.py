"""Have many clients ask a server for a while, and see that nothing grows and nothing changes.

usage: python scripts/soak_serve.py [--seconds 60] [--clients 16] [-m FILE]

Requests of all kinds: bodies and streams, greedy and hot, several answers, prefixes that come
again; clients that go midway, and requests that are wrong. Each answer must be what it is alone. In
the end no answer may be under way, and private memory, descriptors and threads must not have grown:
see `scripts/soak.py`. Exits with 1 where any of this fails. A minute is some thousand requests.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from soak import Figures, figures, grown

from linnet import LLM
from linnet.engine.async_llm import AsyncLLM
from linnet.engine.server.run import Server, bound
from linnet.engine.server.settings import Settings

PATH = "/v1/chat/completions"
TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
CONTEXT = "class Shape:\n    def area(self):\n        raise NotImplementedError\n" * 3
N_REQUESTS = 48  # different ones
N_SAMPLES = 200
REST_SECONDS = 5.0  # for what clients left behind


class Clients:
    """What they ask, what each answer was at first, and what went wrong."""

    def __init__(self, port: int, n_requests: int = N_REQUESTS) -> None:
        self._port, self._n = port, n_requests
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._first = {n: self.ask(request(n)) for n in range(n_requests)}

    def run(self, seed: int, end: float) -> None:
        """One client, until then."""
        rng = random.Random(seed)
        kinds = {self.whole: 5, self.stream: 5, self.leave: 2, self.mistake: 1}
        while time.monotonic() < end and not self.wrong:
            (kind,) = rng.choices(list(kinds), list(kinds.values()))
            try:
                kind(rng.randrange(self._n), rng)
                self.counts[kind.__name__] += 1
            except Exception as error:
                self.wrong.append(f"{kind.__name__}: {type(error).__name__}: {error}")

    def whole(self, number: int, _: random.Random) -> None:
        self._compare(number, self.ask(request(number)))

    def stream(self, number: int, _: random.Random) -> None:
        texts: dict[int, str] = {}
        with self._post({**request(number), "stream": True}) as response:
            for line in response:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(str(chunk["error"]))
                (choice,) = chunk["choices"]
                piece = choice["delta"].get("content") or ""
                texts[choice["index"]] = texts.get(choice["index"], "") + piece
        self._compare(number, texts)

    def leave(self, number: int, rng: random.Random) -> None:
        """Go before the head, or after some lines."""
        body = {**request(number), "stream": True, "max_tokens": 300, "ignore_eos": True}
        n = rng.randrange(8)
        with self._post(body, reads=n > 0) as response:
            for _ in range(n):
                response.readline()

    def mistake(self, number: int, _: random.Random) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        connection.request("POST", PATH, json.dumps({**request(number), "top_p": 2}))
        status = connection.getresponse().status
        connection.close()
        if status != 400:
            raise RuntimeError(f"status {status}")

    def ask(self, body: dict[str, Any]) -> dict[int, str]:
        """The texts of all answers."""
        with self._post(body) as response:
            choices = json.load(response)["choices"]
        return {choice["index"]: choice["message"]["content"] for choice in choices}

    @contextmanager
    def _post(self, body: dict[str, Any], *, reads: bool = True) -> Iterator[Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("POST", PATH, json.dumps(body))
            response = connection.getresponse() if reads else None
            if response and response.status != 200:
                raise RuntimeError(response.read().decode())
            yield response
        finally:
            connection.close()

    def _compare(self, number: int, texts: dict[int, str]) -> None:
        if texts != self._first[number]:
            raise RuntimeError(f"request {number} gave another answer than alone")


def request(number: int) -> dict[str, Any]:
    """Prompts of one token to some hundred, every other one after the same beginning; greedy, or
    hot in many ways."""
    rng = random.Random(number)
    text = CONTEXT * (number % 2) + "def f(" + "x, y, z, " * rng.randrange(0, 12)
    how: dict[str, Any] = {"temperature": rng.choice([0.0, 0.7, 1.5]), "seed": rng.randrange(99)}
    if rng.random() < 0.3:
        how |= {"top_k": 0, "top_p": 1.0, "repeat_penalty": 1.1}
    if rng.random() < 0.2:
        how |= {"n": 2}
    messages = [{"role": "user", "content": text}]
    return {"messages": messages, "max_tokens": rng.randrange(1, 40), **how}


@contextmanager
def serving(path: str | None) -> Iterator[tuple[Server, int]]:
    """A server in a thread, and its port."""
    listening, ready = bound("127.0.0.1", 0), threading.Event()
    server = Server(Settings(max_queue=1000))
    loops: list[asyncio.AbstractEventLoop] = []

    def opened() -> AsyncLLM:
        return AsyncLLM(LLM(path, n_ctx=512, chat_template=TEMPLATE))

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await server.run_model(opened, [listening], lambda _: ready.set())

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    ready.wait()
    try:
        yield server, listening.getsockname()[1]
    finally:
        loops[0].call_soon_threadsafe(server.end)
        thread.join()


def soak(path: str | None, seconds: float, n_clients: int, seed: int) -> list[str]:
    """What went wrong; prints what was done."""
    samples: list[Figures] = []
    with serving(path) as (server, port):
        clients = Clients(port)
        before, end = figures(), time.monotonic() + seconds
        threads = [
            threading.Thread(target=clients.run, args=(seed + i, end)) for i in range(n_clients)
        ]
        for thread in threads:
            thread.start()
        while time.monotonic() < end and not clients.wrong:
            time.sleep(seconds / N_SAMPLES)
            samples.append(figures())
        for thread in threads:
            thread.join()
        if clients.wrong:
            return clients.wrong[:5]
        counts = ", ".join(f"{n} {kind}" for kind, n in clients.counts.items())
        print(f"{clients.counts.total()} requests by {n_clients} clients: {counts}")
        last = time.monotonic() + REST_SECONDS
        while (left := [*_left(server, before)]) and time.monotonic() < last:
            time.sleep(0.01)
    grew = [name for name in grown(samples[len(samples) // 5 :]) if name == "private"]
    return left + [f"{name} memory has grown" for name in grew]


def _left(server: Server, before: Figures) -> Iterator[str]:
    """What is there that was not, once nobody asks any more."""
    now = figures()
    for name in ("descriptors", "threads"):
        if now[name] > before[name]:
            yield f"{now[name]} {name}, and {before[name]} before"
    if server.service.n_open:
        yield f"{server.service.n_open} answers under way"
    if n := len(server.service.llm.llm.scheduler.running()):
        yield f"{n} slots in use"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("-m", "--model", help="by default the one linnet ships")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    wrong = soak(arguments.model, arguments.seconds, arguments.clients, arguments.seed)
    sys.exit("; ".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
