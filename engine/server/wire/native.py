"""`/completion`, of llama-server: what its own clients and scripts speak.

https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from linnet.engine.chat_request import TextRequest
from linnet.engine.openai.logprobs import entry
from linnet.engine.running.generation import Chunk, Generation, PromptProgress
from linnet.engine.server.answers import Answers, Call
from linnet.engine.server.errors import unsupported
from linnet.engine.server.http import answer, stream_of
from linnet.engine.server.service import Service
from linnet.engine.server.sse import frame
from linnet.engine.server.wire.endpoint import Endpoint, post
from linnet.engine.server.wire.prompts import ids_of, is_several, prompts_of
from linnet.engine.server.wire.types import Answers as Count
from linnet.engine.server.wire.types import Completion, settings
from linnet.engine.server.wire.usage import progress, timings

# What nothing here can do, with the values that do not ask for it. Fields of llama-server that
# change no answer here are ignored: cache_prompt, id_slot, n_keep, n_cache_reuse, ...
OFF: dict[str, tuple[Any, ...]] = {
    "n_indent": (0,), "min_keep": (0,), "t_max_predict_ms": (0, -1), "lora": ([],),
    "image_data": ([],), "post_sampling_probs": (False,), "grammar_lazy": (False,),
}  # fmt: skip
NO_SLOT = -1  # prefixes are found in all slots: a request need not come back to its own


class NativeCompletion(Completion, kw_only=True):
    """The body. `n_probs`: the so many likeliest beside each token. `response_fields`: those of
    the answer, "a/b" for what is in an object."""

    prompt: Any
    n_cmpl: Count | None = None
    n_probs: Annotated[int, Meta(ge=0, le=20)] | None = None
    return_tokens: bool = False
    response_fields: list[str] | None = None
    n_indent: int | None = None
    min_keep: int | None = None
    t_max_predict_ms: int | None = None
    lora: list[Any] | None = None
    image_data: list[Any] | None = None
    post_sampling_probs: bool | None = None
    grammar_lazy: bool | None = None

    def fields(self) -> dict[str, Any]:
        """See `Completion.fields`; with those of log-probabilities."""
        return super().fields() | {"logprobs": self.n_probs or None, "prompt_logprobs": None}


def routes(service: Service) -> list[Endpoint]:
    async def complete(request: Request, body: NativeCompletion) -> Response:
        """Texts that go on from prompts, as llama-server has it."""
        return await create(service, request, body)

    return post(["/completion", "/v1/completion"], complete, NativeCompletion, streams=True)


async def create(service: Service, request: Request, body: NativeCompletion) -> Response:
    """Answer a body."""
    for name, off in OFF.items():
        if (value := getattr(body, name)) is not None and value not in off:
            raise unsupported(name, "leave it out")
    service.check_model(body.model)
    params, n = service.params(body.fields()), body.n_cmpl or body.n or 1
    llm = service.llm.llm
    calls = [
        Call(
            request=TextRequest(llm=llm, ids=ids, params=params),
            n=n,
            param="prompt",
            shaped_by=body.shaped_by,
        )
        for ids in await ids_of(service, prompts_of(body.prompt, "prompt"), "prompt")
    ]
    answers = await service.begin(*calls)
    writer = _Writer(service, body, answers)
    if body.stream:
        return stream_of(service, answers, writer.chunks())
    return await answer(request, answers, writer.whole(is_list=n > 1 or is_several(body.prompt)))


class _Writer:
    """Answers to one request, in one body or in chunks."""

    def __init__(self, service: Service, body: NativeCompletion, answers: Answers) -> None:
        self._service, self._body, self._answers = service, body, answers
        self._texts = [""] * len(answers.requests)

    async def whole(self, *, is_list: bool) -> Any:
        """One object, or a list of one for each answer."""
        chunks: list[list[Chunk]] = [[] for _ in self._texts]  # but for the last ones
        ids: list[list[int]] = [[] for _ in self._texts]
        async for index, event in self._answers:
            if isinstance(event, Chunk):
                self._texts[index] += event.text
                if event.token_id is not None:
                    chunks[index].append(event)
                    ids[index].append(event.token_id)
        each = []
        for index, last in enumerate(self._answers.last):
            tokens = ids[index] if self._body.return_tokens else []
            final = self._final(index, last, self._texts[index], tokens)
            each.append(self._fields(final | self._probabilities(chunks[index])))
        return each if is_list else each[0]

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Frames, the last of each answer with its figures; there is no [DONE]."""
        async for index, event in self._answers:
            if isinstance(event, PromptProgress):
                if self._body.return_progress:
                    told = self._partial(index, "", [], n_done=event.n_done)
                    how_far = progress(event, self._answers.stats[index])
                    yield frame({**told, "prompt_progress": how_far})
                continue
            self._texts[index] += event.text
            if event.finish_reason is not None:
                yield frame(self._fields(self._final(index, event, event.text, [])))
            elif event.token_id is not None:
                told = self._partial(index, event.text, [event.token_id])
                yield frame(told | self._probabilities([event]))

    def _probabilities(self, chunks: Sequence[Chunk]) -> dict[str, Any]:
        """Of tokens, where they were asked for."""
        tokenizer = self._service.llm.llm.tokenizer
        entries = [entry(tokenizer, chunk.logprobs) for chunk in chunks if chunk.logprobs]
        return {"completion_probabilities": entries} if entries else {}

    def _head(self, index: int, content: str, tokens: Sequence[int]) -> dict[str, Any]:
        stats = self._answers.stats[index]
        return {
            "index": index, "content": content, "tokens": tokens, "id_slot": NO_SLOT,
            "tokens_predicted": stats.n_generated, "tokens_evaluated": stats.n_prompt,
        }  # fmt: skip

    def _partial(
        self, index: int, content: str, tokens: Sequence[int], *, n_done: int | None = None
    ) -> dict[str, Any]:
        told = {**self._head(index, content, tokens), "stop": False}
        if self._body.timings_per_token:
            told["timings"] = timings(self._answers.stats[index], n_done=n_done)
        return told

    def _final(
        self, index: int, last: Chunk, content: str, tokens: Sequence[int]
    ) -> dict[str, Any]:
        answers, llm = self._answers, self._service.llm.llm
        request, generation = answers.requests[index], answers.generations[index]
        params, stats = request.params, answers.stats[index]
        stop_type = _stop_type(last, generation)
        return {
            **self._head(index, content, tokens),
            "stop": True,
            "model": self._service.model_id,
            "generation_settings": settings(params, n_ctx=llm.n_ctx)
            | {"stream": bool(self._body.stream), "n_probs": self._body.n_probs or 0},
            "prompt": llm.tokenizer.decode(request.ids, skip_special=False),
            "has_new_line": "\n" in self._texts[index],
            "truncated": stop_type == "limit" and stats.n_generated != params.max_tokens,
            "stop_type": stop_type,
            "stopping_word": generation.stopped_by or "",
            "tokens_cached": stats.n_cached,
            "timings": timings(stats),
        }

    def _fields(self, final: dict[str, Any]) -> dict[str, Any]:
        """Those asked for, of those there are."""
        if not self._body.response_fields:
            return final
        found: dict[str, Any] = {}
        for path in self._body.response_fields:
            value: Any = final
            for name in path.split("/"):
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                found[path] = value
        return found


def _stop_type(last: Chunk, generation: Generation) -> str:
    if last.finish_reason == "length":
        return "limit"
    return "eos" if generation.stopped_by is None else "word"
