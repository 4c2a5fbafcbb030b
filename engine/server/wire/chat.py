"""`/v1/chat/completions`, of OpenAI's API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from linnet.engine.chat.formats.parts import Part, joined
from linnet.engine.chat_request import ChatRequest
from linnet.engine.openai.answers import chat_choice, delta_choice, deltas, finish_reason
from linnet.engine.openai.logprobs import entry
from linnet.engine.running.generation import Chunk, PromptProgress, Stats
from linnet.engine.server.answers import Answers, Call
from linnet.engine.server.errors import APIError, unsupported
from linnet.engine.server.http import answer, stream_of
from linnet.engine.server.service import Service
from linnet.engine.server.sse import DONE, frame
from linnet.engine.server.wire.blocks import is_reasoning
from linnet.engine.server.wire.endpoint import Endpoint, post
from linnet.engine.server.wire.tools import NamedFunction, Offer, ToolChoice
from linnet.engine.server.wire.types import Conversation
from linnet.engine.server.wire.usage import progress, timings, usage

FORMATS = ("auto", "deepseek", "none")  # llama-server's names for where reasoning goes
UNSUPPORTED = "functions", "function_call", "audio", "web_search_options"


class ChatCompletion(Conversation, kw_only=True):
    """The body."""

    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    reasoning_format: str | None = None
    modalities: list[str] | None = None
    functions: Any = None
    function_call: Any = None
    audio: Any = None
    web_search_options: Any = None

    def fields(self) -> dict[str, Any]:
        """See `Completion.fields`; with those of log-probabilities."""
        n_top = (self.top_logprobs or 0) if self.logprobs else None
        return super().fields() | {"logprobs": n_top, "prompt_logprobs": None}


def routes(service: Service) -> list[Endpoint]:
    async def create(request: Request, body: ChatCompletion) -> Response:
        """Answers to a conversation."""
        call = await _call(service, body)
        answers = await service.begin(call)
        writer = _Writer(service, body)
        if body.stream:
            return stream_of(service, answers, writer.chunks(answers))
        return await answer(request, answers, writer.whole(answers))

    paths = "/v1/chat/completions", "/chat/completions"
    return post(paths, create, ChatCompletion, streams=True)


async def _call(service: Service, body: ChatCompletion) -> Call:
    """What a body asks for. Raises APIError."""
    _check(body)
    service.check_model(body.model)
    params = service.params(body.fields())
    offer = Offer.of(body.tools, body.tool_choice)
    ids = await service.conversation(
        body.messages, tools=offer.tools, variables=body.variables,
        goes_on=bool(body.continue_final_message),
    )  # fmt: skip
    format = body.reasoning_format
    request = ChatRequest(
        llm=service.llm.llm, ids=ids, params=params, tools=offer.tools, tool_choice=offer.choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        tells_reasoning=service.settings.reasoning if format is None else format != "none",
        reasoning_budget=service.reasoning_budget(body.budget),
    )  # fmt: skip
    return Call(request=request, n=body.n or 1, shaped_by=body.shaped_by)


def _check(body: ChatCompletion) -> None:
    """Raises APIError for what cannot be had."""
    for name in UNSUPPORTED:
        if getattr(body, name):
            raise unsupported(name, "leave it out")
    if set(body.modalities or ()) - {"text"}:
        raise unsupported("modalities", "it must be ['text']")
    if body.top_logprobs and not body.logprobs:
        raise APIError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if body.reasoning_format not in (None, *FORMATS):
        message = f"reasoning_format must be one of {', '.join(FORMATS)}"
        raise APIError(400, message, param="reasoning_format")


class _Writer:
    """Answers to one request, in one body or in chunks."""

    def __init__(self, service: Service, body: ChatCompletion) -> None:
        self._body, self._tokenizer = body, service.llm.llm.tokenizer
        kind = "chat.completion.chunk" if body.stream else "chat.completion"
        self._head = service.head(kind, "chatcmpl")

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """One body."""
        parts: list[list[Part]] = [[] for _ in answers.generations]
        logprobs: list[list[dict[str, Any]]] = [[] for _ in parts]
        n_reasoning = 0
        async for index, event in answers:
            if isinstance(event, Chunk):
                parts[index].append(event.part or Part())
                logprobs[index] += self._logprobs(event)
                n_reasoning += is_reasoning(event)
        choices = []
        for index, last in enumerate(answers.last):
            said = joined(parts[index])
            reason = self._reason(last, has_calls=bool(said.tool_calls))
            told = logprobs[index] if self._body.logprobs else None
            choices.append(chat_choice(index, said, reason, logprobs=told))
        return {
            **self._head, "choices": choices,
            "usage": usage(answers.stats, n_reasoning=n_reasoning),
            "timings": timings(answers.stats[0]),
        }  # fmt: skip

    async def chunks(self, answers: Answers) -> AsyncGenerator[bytes]:
        """Frames; see `stream_of` for what errors become."""
        n_calls = [0] * len(answers.generations)
        n_reasoning = 0
        for index in range(len(n_calls)):
            role = {"role": "assistant", "content": None}
            yield self._chunk(index, role, answers.stats[index])
        async for index, event in answers:
            stats = answers.stats[index]
            if isinstance(event, PromptProgress):
                if self._body.return_progress:
                    done = {"prompt_progress": progress(event, stats)}
                    yield frame({**self._head, "choices": [], **done})
                continue
            n_reasoning += is_reasoning(event)
            part = event.part or Part()
            logprobs = self._logprobs(event)
            told = [*deltas(part, n_calls[index])]
            n_calls[index] += len(part.tool_calls)
            if logprobs and not told:  # its text is held back
                told = [{}]
            for delta in told:
                yield self._chunk(index, delta, stats, logprobs=logprobs)
                logprobs = []
            if event.finish_reason is not None:
                reason = self._reason(event, has_calls=n_calls[index] > 0)
                yield self._chunk(index, {}, stats, reason)
        if self._body.wants_usage:
            yield frame({
                **self._head, "choices": [],
                "usage": usage(answers.stats, n_reasoning=n_reasoning),
                "timings": timings(answers.stats[0]),
            })  # fmt: skip
        yield DONE

    def _reason(self, last: Chunk, *, has_calls: bool) -> str:
        """OpenAI has it that an answer which was to be one function's call has stopped."""
        is_call = has_calls and not isinstance(self._body.tool_choice, NamedFunction)
        return finish_reason(last.finish_reason, is_call)

    def _logprobs(self, chunk: Chunk) -> list[dict[str, Any]]:
        """Of its token, where they were asked for; not of one that ends the answer."""
        if chunk.logprobs is None or chunk.token_id is None:
            return []
        return [entry(self._tokenizer, chunk.logprobs)]

    def _chunk(
        self, index: int, delta: Mapping[str, Any], stats: Stats, reason: str | None = None,
        logprobs: Sequence[dict[str, Any]] = (),
    ) -> bytes:  # fmt: skip
        choice = delta_choice(index, delta, reason, logprobs=logprobs or None)
        told = {"timings": timings(stats)} if self._body.timings_per_token else {}
        return frame({**self._head, "choices": [choice], **told})
