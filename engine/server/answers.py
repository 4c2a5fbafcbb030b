"""What a request asks for, and the events of its answers, whatever the wire format."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from linnet.engine.async_llm import AsyncLLM
from linnet.engine.chat_request import ChunkReader, TextRequest
from linnet.engine.running.generation import Chunk, PromptProgress, Stats
from linnet.engine.server.errors import APIError, failed
from linnet.engine.server.metrics import Metrics, Watch
from linnet.kernels.runtime.team import Interrupted


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a body asks for, whatever its wire format.

    `n`: answers to the request; those after the first have the next seeds. For errors, `param`: the
    field that the prompt came in; `shaped_by`: that which asks for a shape, if one does.
    """

    request: TextRequest
    n: int = 1
    param: str = "messages"
    shaped_by: str | None = None

    @property
    def each(self) -> list[TextRequest]:
        """Of each answer."""
        request, seed = self.request, self.request.params.seed
        if seed is None:
            return [request] * self.n
        seeds = [(seed + i) % 2**64 for i in range(self.n)]
        return [replace(request, params=replace(request.params, seed=each)) for each in seeds]


class Answers:
    """The answers to calls, as they come: an asynchronous iterator of each one's index, over all
    calls, and a chunk or how far its prompt is.

    Raises APIError. To be closed in any case, which ends what is left of them; after `timeout`
    seconds that ends with an error. Once they are complete, `last` has each one's last chunk.
    """

    def __init__(
        self, llm: AsyncLLM, requests: Sequence[TextRequest], readers: Sequence[ChunkReader], *,
        timeout: float, metrics: Metrics, on_close: Callable[[int], None],
    ) -> None:  # fmt: skip
        """`requests`, `readers`: of each answer. `on_close` is told how many they were."""
        self.requests, self._readers = requests, readers
        self.generations = [reader.generation for reader in readers]
        self._last: dict[int, Chunk] = {}
        self._llm, self._metrics, self._on_close = llm, metrics, on_close
        self._is_open = True
        self._events = self._all()
        self._deadline = asyncio.get_running_loop().call_later(timeout, self._end, TimeoutError())

    @property
    def last(self) -> list[Chunk]:
        return [self._last[i] for i in range(len(self.generations))]

    @property
    def stats(self) -> list[Stats]:
        """What each took, or has taken so far."""
        return [generation.stats for generation in self.generations]

    @property
    def reasons(self) -> list[str]:
        """Why each has ended; "cancelled" for one that did not come to its end."""
        return [
            (self._last[i].finish_reason or "") if i in self._last else "cancelled"
            for i in range(len(self.generations))
        ]

    def __aiter__(self) -> AsyncGenerator[tuple[int, Chunk | PromptProgress]]:
        return self._events

    async def aclose(self) -> None:
        if self._is_open:
            self._is_open = False
            self._deadline.cancel()
            await self._events.aclose()
            self._end(Interrupted("its reader has gone"))  # one of an iterator that never began
            self._on_close(len(self.generations))

    def _end(self, error: Exception) -> None:
        """End what is left of them; whoever still reads is told so."""
        for generation in self.generations:
            if not generation.over:
                generation.fail(error)
                self._llm.llm.scheduler.cancel(generation)

    async def _all(self) -> AsyncGenerator[tuple[int, Chunk | PromptProgress]]:
        streams = [self._one(i, reader) for i, reader in enumerate(self._readers)]
        events = streams[0] if len(streams) == 1 else _merged(streams)
        watches = [Watch(self._metrics, each) for each in self.generations]
        reason = "abort"
        try:
            async with aclosing(events):
                async for index, event in events:
                    watches[index].saw(event)
                    yield index, event
        except APIError:
            reason = "error"
            raise
        finally:
            for watch in watches:
                watch.end(reason)

    async def _one(
        self, index: int, reader: ChunkReader
    ) -> AsyncGenerator[tuple[int, Chunk | PromptProgress]]:
        async with aclosing(self._llm.events(reader.generation)) as events:
            async for event in events:
                if isinstance(event, Exception):
                    raise failed(event) from event
                if isinstance(event, PromptProgress):
                    yield index, event
                    continue
                for chunk in reader.read(event):
                    if chunk.finish_reason is not None:
                        self._last[index] = chunk
                    yield index, chunk
                if reader.is_over:
                    return


async def _merged(
    streams: Sequence[AsyncGenerator[tuple[int, Chunk | PromptProgress]]],
) -> AsyncGenerator[tuple[int, Chunk | PromptProgress]]:
    """What they all give, as it comes; the first error ends them all."""
    coming = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while coming:
            done, _ = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream = coming.pop(task)
                try:
                    event = task.result()
                except StopAsyncIteration:
                    continue
                coming[asyncio.ensure_future(anext(stream))] = stream
                yield event
    finally:
        for task in coming:
            task.cancel()
        await asyncio.gather(*coming, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
