"""`/v1/responses` and `/v1/responses/input_tokens`, of OpenAI's API; nothing is stored."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from linnet.engine.chat_request import ChatRequest
from linnet.engine.running.generation import Chunk, Stats
from linnet.engine.server.answers import Answers, Call
from linnet.engine.server.errors import APIError
from linnet.engine.server.http import answer, json_response, stream_of
from linnet.engine.server.service import Service
from linnet.engine.server.sse import frame
from linnet.engine.server.wire.blocks import BEGUN, MORE, Block, Blocks, Step
from linnet.engine.server.wire.endpoint import Endpoint, post
from linnet.engine.server.wire.responses_body import (
    CreateResponse,
    ReasoningConfig,
    offer_of,
    prompt_of,
)

PREFIXES = {"reasoning": "rs", "text": "msg", "call": "fc"}  # of ids
PARTS = {"reasoning": "reasoning_text", "text": "output_text"}


def routes(service: Service) -> list[Endpoint]:
    async def create(request: Request, body: CreateResponse) -> Response:
        """A response, which is not stored."""
        call = await _call(service, body)
        answers = await service.begin(call)
        writer = _Writer(service, body, call)
        if body.stream:
            return stream_of(service, answers, writer.frames(answers))
        return await answer(request, answers, writer.whole(answers))

    async def input_tokens(_: Request, body: CreateResponse) -> Response:
        """How many tokens an input has."""
        n_tokens = len(await prompt_of(service, body, offer_of(body).tools))
        return json_response({"object": "response.input_tokens", "input_tokens": n_tokens})

    counting = "/v1/responses/input_tokens", "/responses/input_tokens"
    return [
        *post(["/v1/responses", "/responses"], create, CreateResponse, streams=True),
        *post(counting, input_tokens, CreateResponse),
    ]


async def _call(service: Service, body: CreateResponse) -> Call:
    """What a body asks for. Raises APIError."""
    params, offer = service.params(body.fields()), offer_of(body)
    request = ChatRequest(
        llm=service.llm.llm, ids=await prompt_of(service, body, offer.tools), params=params,
        tools=offer.tools, tool_choice=offer.choice, tells_reasoning=service.settings.reasoning,
        reasoning_budget=service.reasoning_budget(None),
        parallel_tool_calls=body.parallel_tool_calls is not False,
    )  # fmt: skip
    return Call(request=request, param="input", shaped_by=body.shaped_by)


class _Writer:
    """A response, in one body or as a stream of events."""

    def __init__(self, service: Service, body: CreateResponse, call: Call) -> None:
        self._blocks = Blocks()
        self._n_events = 0
        self._head = {
            "id": f"resp_{secrets.token_hex(12)}",
            "object": "response",
            "created_at": int(time.time()),
            "model": service.model_id,
            "background": False,
            "instructions": body.instructions,
            "max_output_tokens": body.max_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": body.reasoning or ReasoningConfig(),
            "store": False,
            "temperature": call.request.params.temperature,
            "text": {"format": (body.text and body.text.format) or {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.functions,
            "top_p": call.request.params.top_p,
            "truncation": "disabled",
        }

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """One body."""
        async for _, event in answers:
            if isinstance(event, Chunk):
                self._blocks.push(event)
        return self._ended(answers)

    async def frames(self, answers: Answers) -> AsyncGenerator[bytes]:
        """The events of a stream; an error becomes that of a response that failed."""
        for name in ("response.created", "response.in_progress"):
            yield self._frame(name, response=self._response("in_progress"))
        try:
            async for _, event in answers:
                if isinstance(event, Chunk):
                    for step in self._blocks.push(event):
                        for name, fields in _events(step):
                            yield self._frame(name, output_index=step.block.index, **fields)
            response = self._ended(answers)
        except APIError as error:
            self._blocks.cut()
            told = {"code": "server_error", "message": error.message}
            response = self._response("failed", error=told)
        yield self._frame(f"response.{response['status']}", response=response)

    def _frame(self, name: str, **fields: Any) -> bytes:
        event = {"type": name, "sequence_number": self._n_events, **fields}
        self._n_events += 1
        return frame(event, event=name)

    def _ended(self, answers: Answers) -> dict[str, Any]:
        usage = _usage(answers.stats[0], self._blocks.n_reasoning)
        if answers.last[0].finish_reason == "length":
            why = {"reason": "max_output_tokens"}
            return self._response("incomplete", incomplete_details=why, usage=usage)
        return self._response("completed", usage=usage)

    def _response(
        self, status: str, *, error: dict[str, Any] | None = None,
        incomplete_details: dict[str, Any] | None = None, usage: dict[str, Any] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """It as it is now."""
        return {
            **self._head, "status": status, "error": error,
            "incomplete_details": incomplete_details,
            "output": [_item(block) for block in self._blocks.all], "usage": usage,
        }  # fmt: skip


def _item(block: Block, *, is_empty: bool = False) -> dict[str, Any]:
    """A block as an item of the output; `is_empty`: as it began."""
    item = {"id": _id(block), "status": "in_progress" if is_empty else block.status}
    text = "" if is_empty else block.text
    if block.kind == "call":
        call = {"call_id": f"call_{block.id}", "name": block.name, "arguments": text}
        return {**item, "type": "function_call", **call}
    content = [] if is_empty else [_part(block, text)]
    if block.kind == "text":
        return {**item, "type": "message", "role": "assistant", "content": content}
    return {**item, "type": "reasoning", "summary": [], "content": content}


def _events(step: Step) -> list[tuple[str, dict[str, Any]]]:
    """The names, and the fields but for `output_index`, of what is told of a block."""
    block = step.block
    if step.what == BEGUN:
        added = ("response.output_item.added", {"item": _item(block, is_empty=True)})
        return [added, *_part_event(block, "added", "")]
    name, at = _text_event(block)
    if step.what == MORE:
        return [(f"{name}.delta", {**at, "delta": step.text})]
    key = "arguments" if block.kind == "call" else "text"
    return [
        (f"{name}.done", {**at, key: block.text}),
        *_part_event(block, "done", block.text),
        ("response.output_item.done", {"item": _item(block)}),
    ]


def _text_event(block: Block) -> tuple[str, dict[str, Any]]:
    """The name of events of its text, and where that is."""
    at: dict[str, Any] = {"item_id": _id(block)}
    if block.kind == "call":
        return "response.function_call_arguments", at
    logprobs: dict[str, Any] = {"logprobs": []} if block.kind == "text" else {}
    return f"response.{PARTS[block.kind]}", {**at, "content_index": 0, **logprobs}


def _part_event(block: Block, what: str, text: str) -> list[tuple[str, dict[str, Any]]]:
    """Of the one part that content has; a call has none."""
    if block.kind == "call":
        return []
    fields = {"item_id": _id(block), "content_index": 0, "part": _part(block, text)}
    return [(f"response.content_part.{what}", fields)]


def _part(block: Block, text: str) -> dict[str, Any]:
    noted: dict[str, Any] = {"annotations": [], "logprobs": []} if block.kind == "text" else {}
    return {"type": PARTS[block.kind], "text": text, **noted}


def _id(block: Block) -> str:
    return f"{PREFIXES[block.kind]}_{block.id}"


def _usage(stats: Stats, n_reasoning: int) -> dict[str, Any]:
    return {
        "input_tokens": stats.n_prompt,
        "input_tokens_details": {"cached_tokens": stats.n_cached, "cache_write_tokens": 0},
        "output_tokens": stats.n_generated,
        "output_tokens_details": {"reasoning_tokens": n_reasoning},
        "total_tokens": stats.n_prompt + stats.n_generated,
    }
