"""A client for measuring: completions as they stream, from servers that have `/completion`.

By hand on sockets, as it shares the machine with the server that it measures.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(slots=True)
class Stream:
    """One answer: when it was asked for, when each piece of it came, in seconds, and its ids."""

    began: float
    times: list[float] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.began


async def complete(
    url: str, prompt: Sequence[int], n: int, *, cache: bool = False, stop_after: int | None = None
) -> Stream:
    """Have `n` tokens follow a prompt, greedily, whatever they are; the connection is closed after
    `stop_after` pieces. Raises RuntimeError for an answer that is an error."""
    host = urlsplit(url)
    body = json.dumps({
        "prompt": list(prompt), "n_predict": n, "temperature": 0, "ignore_eos": True,
        "stream": True, "return_tokens": True, "cache_prompt": cache,
    }).encode()  # fmt: skip
    head = (
        f"POST /completion HTTP/1.1\r\nHost: {host.netloc}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    stream = Stream(time.perf_counter())
    reader, writer = await asyncio.open_connection(host.hostname, host.port)
    try:
        writer.write(head.encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{url}: {status!r} {await reader.read()!r}")
        async for line in reader:
            if not line.startswith(b"data: {"):
                continue
            data: dict[str, Any] = json.loads(line[6:])
            if "error" in data:
                raise RuntimeError(f"{url}: {data['error']}")
            if not data["stop"] and data["tokens"]:
                stream.times.append(time.perf_counter())
                stream.ids += data["tokens"]
            if stop_after is not None and len(stream.times) >= stop_after:
                break
    finally:
        writer.close()
    return stream


def tokens(n: int, seed: int, *, n_vocab: int = 30000) -> list[int]:
    """A prompt that no other begins like: ids past those that mean something else than text."""
    choose = random.Random(seed)
    return [choose.randrange(1000, n_vocab) for _ in range(n)]
