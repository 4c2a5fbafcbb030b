"""Models for event loops: the bits of `LLM`, for any number of tasks, whatever ends them."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, TypeVar

import numpy as np
import pytest
from support.gguf_builder import STRING
from support.scripted import fail_amid
from support.systems import needs_fork, needs_signals
from support.tiny_llama import TinyLlama

from linnet import LLM, AsyncLLM, Chunk, ContextOverflow, Interrupted, Output, SamplingParams
from linnet.engine.running.generation import Generation
from linnet.engine.running.scheduler import AHEAD

PROMPT = "once upon a time"
FIELDS: dict[str, Any] = {"seed": 5, "max_tokens": 12, "ignore_eos": True}
ENDLESS: dict[str, Any] = FIELDS | {"max_tokens": None}
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
MESSAGES = [{"role": "user", "content": PROMPT}]
PATIENCE = 120.0  # seconds, for what must not take forever, and may compile
T = TypeVar("T")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = TinyLlama(type="Q4_K", metadata=(("tokenizer.chat_template", STRING, TEMPLATE),))
    return tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[AsyncLLM]:
    """One for all tests but those that close theirs: each runs an event loop of its own."""
    model = AsyncLLM(path, n_threads=1, n_batch=8)
    yield model
    model.close()


@pytest.fixture(scope="module")
def expected(path: Path) -> Callable[..., Output]:
    """What an `LLM` of its own gives."""
    llm = LLM(path, n_threads=1, n_batch=8)
    return lambda prompt, **fields: llm.generate(prompt, **fields)


def run(work: Coroutine[Any, Any, T]) -> T:
    async def main() -> T:
        async with asyncio.timeout(PATIENCE):
            return await work

    return asyncio.run(main())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def unfinished(model: AsyncLLM) -> list[Generation]:
    """The requests that the scheduler still has."""
    return model.llm.scheduler._requests


# ---- what comes out ------------------------------------------------------------------------------


def test_the_same_as_without_a_loop(model: AsyncLLM, expected: Callable[..., Output]) -> None:
    async def main() -> None:
        output = await model.generate(PROMPT, **FIELDS)
        told: list[tuple[int, int]] = []
        stream = model.stream(PROMPT, **FIELDS, progress=lambda *n: told.append(n))
        chunks = [chunk async for chunk in stream]
        alone = expected(PROMPT, **FIELDS)
        for each in (output, Output.of(chunks)):
            assert (each.text, each.token_ids) == (alone.text, alone.token_ids)
            assert each.finish_reason == alone.finish_reason == "length"
        assert told[-1] == (alone.stats.n_prompt,) * 2
        params = SamplingParams(**FIELDS)
        assert (await model.generate(PROMPT, params)).token_ids == alone.token_ids
        assert (await model.generate(PROMPT, params, max_tokens=2)).stats.n_generated == 2

    run(main())


def test_chats_and_vectors_are_the_same(model: AsyncLLM, path: Path) -> None:
    async def main() -> None:
        with LLM(path, n_threads=1, n_batch=8) as llm:
            alone, vectors = llm.chat(MESSAGES, **FIELDS), llm.embed([PROMPT, "to be"])
        answer = await model.chat(MESSAGES, **FIELDS)
        assert (answer.content, answer.token_ids) == (alone.content, alone.token_ids)
        parts = [chunk.part async for chunk in model.stream_chat(MESSAGES, **FIELDS)]
        assert "".join(part.content for part in parts if part) == alone.content
        assert np.array_equal(await model.embed([PROMPT, "to be"]), vectors)

    run(main())


def test_twenty_tasks_share_passes(model: AsyncLLM, expected: Callable[..., Output]) -> None:
    prompts = [[1, *range(5, 8 + i)] for i in range(20)]

    async def main() -> None:
        outputs = await asyncio.gather(*(model.generate(ids, **FIELDS) for ids in prompts))
        for ids, output in zip(prompts, outputs, strict=True):
            assert output.token_ids == expected(ids, **FIELDS).token_ids

    run(main())
    assert unfinished(model) == []


def test_threads_and_several_loops_share_a_model(
    model: AsyncLLM, expected: Callable[..., Output]
) -> None:
    found: list[Output] = []

    async def main() -> None:
        found.extend(await asyncio.gather(*(model.generate(PROMPT, **FIELDS) for _ in range(3))))

    threads = [threading.Thread(target=run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    found += [model.llm.generate(PROMPT, **FIELDS) for _ in range(3)]
    for thread in threads:
        thread.join(PATIENCE)
    assert [output.token_ids for output in found] == [expected(PROMPT, **FIELDS).token_ids] * 9


# ---- what ends early -----------------------------------------------------------------------------


async def _leave(stream: AsyncGenerator[Chunk]) -> None:
    async for _ in stream:
        break  # which closes nothing
    del stream
    gc.collect()


async def _close(stream: AsyncGenerator[Chunk]) -> None:
    async with aclosing(stream):
        async for _ in stream:
            return


async def _cancel(stream: AsyncGenerator[Chunk]) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in stream:
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("end", [_leave, _close, _cancel])
@pytest.mark.parametrize("call", ["stream", "stream_chat"])
def test_what_is_left_early_frees_its_slot(
    model: AsyncLLM, call: str, end: Callable[[AsyncGenerator[Chunk]], Awaitable[None]]
) -> None:
    async def main() -> None:
        prompt: Any = PROMPT if call == "stream" else MESSAGES
        await end(getattr(model, call)(prompt, **ENDLESS))
        await until(lambda: not unfinished(model))

    run(main())


def test_a_task_may_be_cancelled_at_any_await(
    model: AsyncLLM, expected: Callable[..., Output]
) -> None:
    """After so many turns of the loop: while it waits for the pool, for its prompt, for a token."""

    async def main() -> None:
        for n_turns in range(12):
            task = asyncio.create_task(model.generate(PROMPT, **ENDLESS))
            for _ in range(n_turns):
                await asyncio.sleep(0.0005 * (n_turns % 3))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        output = await model.generate(PROMPT, **FIELDS)
        assert output.token_ids == expected(PROMPT, **FIELDS).token_ids
        await until(lambda: not unfinished(model))

    run(main())


def test_a_loop_that_was_closed_leaves_nothing_behind(model: AsyncLLM) -> None:
    loop = asyncio.new_event_loop()
    stream = model.stream(PROMPT, **ENDLESS)
    loop.run_until_complete(anext(stream))
    loop.close()
    run(until(lambda: not unfinished(model)))
    assert model._driver._readers == set()


def test_stop_ends_streams(model: AsyncLLM) -> None:
    async def main() -> None:
        stream = model.stream(PROMPT, **ENDLESS)
        await anext(stream)
        model.llm.stop()
        with pytest.raises(Interrupted):
            _ = [chunk async for chunk in stream]
        assert (await model.generate(PROMPT, **FIELDS)).stats.n_generated == 12

    run(main())


def test_a_slow_reader_rests_and_holds_nobody_up(model: AsyncLLM) -> None:
    async def main() -> None:
        async with aclosing(model.stream(PROMPT, **ENDLESS)) as slow:
            await anext(slow)
            (resting,) = unfinished(model)
            await until(lambda: len(resting.events) >= AHEAD)
            outputs = await asyncio.gather(*(model.generate(PROMPT, **FIELDS) for _ in range(12)))
            assert {output.stats.n_generated for output in outputs} == {12}
            assert len(resting.events) == AHEAD
            n = resting.stats.n_generated
            for _ in range(2 * AHEAD):
                assert (await anext(slow)).finish_reason is None
            assert resting.stats.n_generated > n

    run(main())


def test_other_tasks_run_beside_a_reader_that_never_waits(model: AsyncLLM) -> None:
    async def main() -> None:
        n_turns = 0

        async def count() -> None:
            nonlocal n_turns
            while True:
                n_turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        seen = []
        async for _ in model.stream(PROMPT, **ENDLESS | {"max_tokens": 3 * AHEAD}):
            generation = next(iter(unfinished(model)), None)
            while generation and not generation.events and not generation.over:
                pass  # the next token is there before this one is done with
            seen.append(n_turns)
        counting.cancel()
        assert seen[-1] > seen[0]

    run(main())


# ---- errors --------------------------------------------------------------------------------------


def test_errors_are_those_of_llm(model: AsyncLLM) -> None:
    async def main() -> None:
        with pytest.raises(ContextOverflow):
            await model.generate([1] * (model.llm.n_ctx + 1))
        with pytest.raises(ValueError, match="prompt is None"):
            await model.generate(None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="did you mean temperature"):
            await model.chat(MESSAGES, temprature=0)
        with pytest.raises(ValueError, match="chat_template_kwargs"):
            await model.chat(MESSAGES, chat_template_kwargs={"messages": []})

    run(main())


def test_an_error_of_one_is_no_other_s(
    model: AsyncLLM, expected: Callable[..., Output], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        fail_amid(monkeypatch)
        prompts = [[1, 5], [1, 6, 7], [1, 8, 9, 10]]
        outputs = await asyncio.gather(
            *(model.generate(ids, **FIELDS) for ids in prompts), return_exceptions=True
        )
        assert [type(output) for output in outputs] == [Output, MemoryError, Output]

    run(main())


def test_an_error_of_a_pass_ends_those_in_it_and_no_later_ones(
    model: AsyncLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise MemoryError("none left")

    async def main() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(model.llm.scheduler.session, "run", failing)
            outputs = await asyncio.gather(
                *(model.generate(PROMPT, **FIELDS) for _ in range(3)), return_exceptions=True
            )
        assert [type(output) for output in outputs] == [MemoryError] * 3
        assert (await model.generate(PROMPT, **FIELDS)).stats.n_generated == 12

    run(main())


# ---- closing -------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[AsyncLLM]:
    n_threads = threading.active_count()
    async with AsyncLLM(path, n_threads=1, n_batch=8) as model:
        yield model
    names = {thread.name for thread in threading.enumerate()}
    assert threading.active_count() <= n_threads + 1, names  # that of asyncio.to_thread


def test_closing_interrupts_all_readers(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as model:
            tasks = [asyncio.create_task(model.generate(PROMPT, **ENDLESS)) for _ in range(3)]
            await until(lambda: len(unfinished(model)) == 3)
            stream = model.stream(PROMPT, **ENDLESS)
            await anext(stream)
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, Interrupted)
        with pytest.raises(Interrupted):
            _ = [chunk async for chunk in stream]
        for call in (model.generate(PROMPT), model.embed([PROMPT]), model.chat(MESSAGES)):
            with pytest.raises(RuntimeError, match="this AsyncLLM is closed"):
                await call
        model.close()  # again

    run(main())


@pytest.mark.parametrize("n_turns", [0, 1, 2, 3, 5, 8])
def test_closing_while_requests_arrive_leaves_none_waiting(path: Path, n_turns: int) -> None:
    async def main() -> None:
        model = AsyncLLM(path, n_threads=1, n_batch=8)
        tasks = [asyncio.create_task(model.generate(PROMPT, **ENDLESS)) for _ in range(12)]
        for _ in range(n_turns):
            await asyncio.sleep(0.0002)
        model.close()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(ended, RuntimeError)  # closed before, or Interrupted

    run(main())


def test_a_model_that_is_open_is_closed_with_it(path: Path) -> None:
    async def main() -> None:
        llm = LLM(path, n_threads=1)
        async with AsyncLLM(llm) as model:
            assert model.llm is llm
            assert (await model.generate(PROMPT, **FIELDS)).text == llm.generate(
                PROMPT, **FIELDS
            ).text
        with pytest.raises(RuntimeError, match="closed"):
            llm.generate(PROMPT)
        with pytest.raises(ValueError, match="n_ctx: for opening a file; this model is open"):
            AsyncLLM(llm, n_ctx=64)

    run(main())


@needs_fork
def test_a_forked_process_is_told(model: AsyncLLM) -> None:
    run(model.generate(PROMPT, **FIELDS))
    child = os.fork()
    if child == 0:  # which leaves without pytest
        try:
            run(model.generate(PROMPT, **FIELDS))
        except RuntimeError as error:
            os._exit(0 if "before the process forked" in str(error) else 2)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needs_signals
def test_ctrl_c_ends_a_program_in_order() -> None:
    """Streams are closed, the thread is ended, and KeyboardInterrupt comes out."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=PIPE, stderr=PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "streaming\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert out == "closed\n"
    assert err.splitlines()[-1] == "KeyboardInterrupt"


PROGRAM = """
import asyncio
from linnet import AsyncLLM

async def main():
    model = AsyncLLM(n_threads=1)
    try:
        async for chunk in model.stream("def", ignore_eos=True):
            if chunk.token_id is not None:
                break
        print("streaming", flush=True)
        await asyncio.gather(*(model.generate("def", ignore_eos=True) for _ in range(1000)))
    finally:
        model.close()
        print("closed", flush=True)

asyncio.run(main())
"""
