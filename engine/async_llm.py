"""The Python API for programs on an event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from linnet.engine.chat.rounds import MOST_ROUNDS, Rounds
from linnet.engine.chat.template import Message
from linnet.engine.chat.tools import Tool
from linnet.engine.llm import LLM
from linnet.engine.open_model import Prompt
from linnet.engine.running.driver import Driver
from linnet.engine.running.generation import Chunk, Event, Generation, Output
from linnet.engine.running.results import chunk_of
from linnet.engine.running.session import Progress
from linnet.engine.sampling.params import SamplingParams

N_HELPERS = 2  # threads that render templates and tokenize
_T = TypeVar("_T")


class AsyncLLM:
    """A model for any number of tasks: what `LLM` does, as coroutines and asynchronous iterators.

    Passes run in a thread of their own; templates and tokenizing in a pool. A task that is
    cancelled, and a stream that is closed, end their generation at the next pass.

        async with AsyncLLM("model.gguf") as llm:
            async for chunk in llm.stream("Once upon a time", max_tokens=64):
                print(chunk.text, end="")
            await asyncio.gather(*(llm.generate(prompt) for prompt in prompts))

    A stream that is left before its end goes on until it is closed, or collected as garbage:
    `async with contextlib.aclosing(llm.stream(...))` closes it at once.

    `model`: an `LLM`, which may go on being used by threads and is closed with this one, or a path
    for which one is opened with `options`, the keyword arguments of LLM.
    """

    def __init__(self, model: LLM | str | os.PathLike[str] | None = None, **options: Any) -> None:
        if isinstance(model, LLM) and options:
            raise ValueError(f"{', '.join(options)}: for opening a file; this model is open")
        self.llm = model if isinstance(model, LLM) else LLM(model, **options)
        self._pool = ThreadPoolExecutor(N_HELPERS, thread_name_prefix="linnet-text")
        self._embedding = ThreadPoolExecutor(1, thread_name_prefix="linnet-embed")  # takes seconds
        self._driver = Driver(self.llm.scheduler, self._pool)

    async def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, *, parse_special: bool = False,
        **fields: Any,
    ) -> Output:  # fmt: skip
        """Continue a text, or a list of token ids. For several, gather several of these: they share
        passes. `fields` of SamplingParams: see `LLM.generate`. Raises what `LLM.stream` raises."""
        return await _output(self.stream(prompt, params, parse_special=parse_special, **fields))

    async def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, parse_special: bool = False,
        progress: Progress | None = None, **fields: Any,
    ) -> AsyncGenerator[Chunk]:  # fmt: skip
        """The same chunk by chunk; see `LLM.stream`."""
        generation = await self.aside(
            lambda: self.llm.generation(prompt, params, parse_special=parse_special, **fields)
        )
        async with aclosing(self.events(generation)) as events:
            async for event in events:
                if chunk := chunk_of(event, progress):
                    yield chunk

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *,
        tools: Sequence[Tool] = (), run_tools: bool = False, max_rounds: int = MOST_ROUNDS,
        **options: Any,
    ) -> Output:  # fmt: skip
        """The model's answer to a conversation; see `LLM.chat`. With `run_tools`, async functions
        are awaited, others called in threads, all calls of an answer at the same time."""
        rounds = Rounds(
            messages, tools, options, run_tools=run_tools, max_rounds=max_rounds, awaits=True
        )
        while True:
            output = await _output(self.stream_chat(rounds.messages, params, **rounds.options))
            calls = rounds.calls(output.tool_calls)
            if not calls:
                return output
            rounds.go_on(output.message, await rounds.tools.awaited_results(calls))

    async def stream_chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *,
        progress: Progress | None = None, **options: Any,
    ) -> AsyncGenerator[Chunk]:  # fmt: skip
        """The same chunk by chunk, each with its `part`; see `LLM.stream_chat`."""
        request = await self.aside(partial(self.llm.chat_request, messages, params, **options))
        reader = await self.aside(request.begin)
        async with aclosing(self.events(reader.generation)) as events:
            async for event in events:
                if chunk := chunk_of(event, progress):
                    for told in reader.read(chunk):
                        yield told
                    if reader.is_over:
                        return

    async def embed(
        self, texts: str | Sequence[Prompt], *, pooling: str | None = None, normalize: bool = True,
        parse_special: bool = False,
    ) -> npt.NDArray[np.float32]:  # fmt: skip
        """A vector for each text (len(texts), n_embd), of one text (n_embd,); see `LLM.embed`."""
        work = partial(
            self.llm.embed, texts, pooling=pooling, normalize=normalize, parse_special=parse_special
        )
        return await self._run(self._embedding, work)

    def events(self, generation: Generation) -> AsyncGenerator[Event]:
        """Submit a request, of `LLM.generation`, and give all that is told of it: its progress, its
        chunks, and at last perhaps an error. Closing it ends the request."""
        return self._driver.events(generation)

    async def aside(self, work: Callable[[], _T]) -> _T:
        """What a function of some milliseconds returns, which a thread of the pool calls. Raises
        RuntimeError once this is closed, or in a forked process."""
        return await self._run(self._pool, work)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        self._driver.check()
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def close(self) -> None:
        """End what is under way, whose readers get Interrupted, end threads and processes, and let
        go of the file. Waits for texts that are being embedded."""
        self._driver.close()
        self._pool.shutdown()
        self._embedding.shutdown()
        self.llm.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)


async def _output(chunks: AsyncGenerator[Chunk]) -> Output:
    async with aclosing(chunks):
        return Output.of([chunk async for chunk in chunks])
