"""`/v1/completions`, of OpenAI's API: texts that go on from prompts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from linnet.engine.chat_request import TextRequest
from linnet.engine.openai.text import TextChoice, joined
from linnet.engine.running.generation import Chunk, PromptProgress
from linnet.engine.server.answers import Answers, Call
from linnet.engine.server.errors import unsupported
from linnet.engine.server.http import answer, stream_of
from linnet.engine.server.service import Service
from linnet.engine.server.sse import DONE, frame
from linnet.engine.server.wire import native
from linnet.engine.server.wire.endpoint import Endpoint, post
from linnet.engine.server.wire.native import NativeCompletion
from linnet.engine.server.wire.prompts import Prompt, ids_of, prompts_of
from linnet.engine.server.wire.types import Completion
from linnet.engine.server.wire.usage import progress, timings, usage


class TextCompletion(Completion, kw_only=True):
    """The body. `logprobs`: the so many likeliest beside each token; `echo`: the prompt first."""

    prompt: Any
    echo: bool = False
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    suffix: str | None = None
    best_of: int | None = None

    def fields(self) -> dict[str, Any]:
        """See `Completion.fields`; with those of log-probabilities."""
        of_prompt = self.logprobs if self.echo else None
        return super().fields() | {"logprobs": self.logprobs, "prompt_logprobs": of_prompt}


def routes(service: Service) -> list[Endpoint]:
    async def create(request: Request, body: TextCompletion) -> Response:
        """Texts that go on from prompts."""
        return await _create(service, request, body)

    async def either(request: Request, body: TextCompletion | NativeCompletion) -> Response:
        """Texts that go on from prompts, as OpenAI has it for who names a model."""
        if isinstance(body, NativeCompletion):
            return await native.create(service, request, body)
        return await _create(service, request, body)

    return [
        *post(["/v1/completions"], create, TextCompletion, streams=True),
        *post(["/completions"], either, TextCompletion, NativeCompletion, streams=True),
    ]


async def _create(service: Service, request: Request, body: TextCompletion) -> Response:
    if body.suffix:
        raise unsupported("suffix", "this model continues texts alone")
    if body.best_of is not None and body.best_of > (body.n or 1):
        raise unsupported("best_of", "ask for as many answers by n")
    service.check_model(body.model)
    params = service.params(body.fields())
    prompts, llm = prompts_of(body.prompt, "prompt"), service.llm.llm
    calls = [
        Call(
            request=TextRequest(llm=llm, ids=ids, params=params),
            n=body.n or 1,
            param="prompt",
            shaped_by=body.shaped_by,
        )
        for ids in await ids_of(service, prompts, "prompt")
    ]
    answers = await service.begin(*calls)
    writer = _Writer(service, body, prompts, answers)
    if body.stream:
        return stream_of(service, answers, writer.chunks())
    return await answer(request, answers, writer.whole())


class _Writer:
    """Answers to one request, in one body or in chunks; choices are numbered over all prompts."""

    def __init__(
        self, service: Service, body: TextCompletion, prompts: Sequence[Prompt], answers: Answers
    ) -> None:
        self._body, self._answers, self._n_prompts = body, answers, len(prompts)
        tokenizer, n = service.llm.llm.tokenizer, body.n or 1
        self._choices = [
            TextChoice(i, generation, tokenizer, echo=prompts[i // n] if body.echo else None)
            for i, generation in enumerate(answers.generations)
        ]
        self._head = service.head("text_completion", "cmpl")

    async def whole(self) -> dict[str, Any]:
        """One body."""
        parts: list[list[dict[str, Any]]] = [[] for _ in self._choices]
        async for index, event in self._answers:
            if isinstance(event, Chunk):
                parts[index].append(self._choices[index].push(event))
        return {**self._head, "choices": [joined(each) for each in parts], **self._figures()}

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Frames; see `stream_of` for what errors become."""
        async for index, event in self._answers:
            stats = self._answers.stats[index]
            if isinstance(event, PromptProgress):
                if self._body.return_progress:
                    told = {"prompt_progress": progress(event, stats)}
                    yield frame({**self._head, "choices": [], **told})
                continue
            choice = self._choices[index].push(event)
            if choice["text"] or choice["logprobs"] or choice["finish_reason"] is not None:
                told = {"timings": timings(stats)} if self._body.timings_per_token else {}
                yield frame({**self._head, "choices": [choice], **told})
        if self._body.wants_usage:
            yield frame({**self._head, "choices": [], **self._figures()})
        yield DONE

    def _figures(self) -> dict[str, Any]:
        stats = self._answers.stats
        return {"usage": usage(stats, n_prompts=self._n_prompts), "timings": timings(stats[0])}
