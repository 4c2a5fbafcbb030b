"""`/v1/messages` and `/v1/messages/count_tokens`, of Anthropic's API."""

from __future__ import annotations

import json
import secrets
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
from linnet.engine.server.wire.messages_body import (
    Conversation,
    CreateMessage,
    offer_of,
    prompt_of,
)


def routes(service: Service) -> list[Endpoint]:
    async def create(request: Request, body: CreateMessage) -> Response:
        """The next message of a conversation."""
        call = await _call(service, body)
        answers = await service.begin(call)
        writer = _Writer(service, call)
        if body.stream:
            return stream_of(service, answers, writer.frames(answers))
        return await answer(request, answers, writer.whole(answers))

    async def count_tokens(_: Request, body: Conversation) -> Response:
        """How many tokens a conversation has."""
        n_tokens = len(await prompt_of(service, body, offer_of(body).tools))
        return json_response({"input_tokens": n_tokens})

    counting = "/v1/messages/count_tokens", "/messages/count_tokens"
    return [
        *post(["/v1/messages", "/messages"], create, CreateMessage, streams=True),
        *post(counting, count_tokens, Conversation),
    ]


async def _call(service: Service, body: CreateMessage) -> Call:
    """What a body asks for. Raises APIError."""
    params, offer = service.params(body.fields()), offer_of(body)
    has_one_call = body.tool_choice is not None and body.tool_choice.disable_parallel_tool_use
    request = ChatRequest(
        llm=service.llm.llm, ids=await prompt_of(service, body, offer.tools), params=params,
        tools=offer.tools, tool_choice=offer.choice,
        reasoning_budget=service.reasoning_budget(body.budget),
        tells_reasoning=service.settings.reasoning, parallel_tool_calls=not has_one_call,
    )  # fmt: skip
    return Call(request=request, shaped_by=body.shaped_by)


class _Writer:
    """An answer, in one body or as a stream of events."""

    def __init__(self, service: Service, call: Call) -> None:
        self._most = call.request.params.max_tokens
        self._blocks = Blocks()
        self._head = {
            "id": f"msg_{secrets.token_hex(12)}", "type": "message", "role": "assistant",
            "model": service.model_id,
        }  # fmt: skip

    async def whole(self, answers: Answers) -> dict[str, Any]:
        """One body."""
        async for _, event in answers:
            if isinstance(event, Chunk):
                self._blocks.push(event)
        blocks = [block for block in self._blocks.all if not block.is_no_call]
        content = [_block(block, block.text) for block in blocks]
        return {
            **self._head, "content": content, **self._end(answers),
            "usage": self._usage(answers.stats[0]),
        }  # fmt: skip

    async def frames(self, answers: Answers) -> AsyncGenerator[bytes]:
        """The events of a stream; an error is one too. While a prompt is read, pings."""
        begun = False
        try:
            async for _, event in answers:
                if not begun:
                    yield self._start(answers.stats[0])
                    begun = True
                if not isinstance(event, Chunk):
                    yield _frame({"type": "ping"})
                    continue
                for step in self._blocks.push(event):
                    for told in _events(step):
                        yield _frame({"index": step.block.index, **told})
            yield _frame({
                "type": "message_delta", "delta": self._end(answers),
                "usage": self._usage(answers.stats[0]),
            })  # fmt: skip
            yield _frame({"type": "message_stop"})
        except APIError as error:
            yield _frame(error.anthropic_body)

    def _start(self, stats: Stats) -> bytes:
        message: dict[str, Any] = {
            **self._head, "content": [], "stop_reason": None, "stop_sequence": None,
            "usage": {**self._usage(stats), "output_tokens": 0},
        }  # fmt: skip
        return _frame({"type": "message_start", "message": message})

    def _end(self, answers: Answers) -> dict[str, Any]:
        found = answers.generations[0].stopped_by
        if found is not None:
            reason = "stop_sequence"
        elif answers.last[0].finish_reason == "length":
            is_limit = answers.stats[0].n_generated == self._most
            reason = "max_tokens" if is_limit else "model_context_window_exceeded"
        else:
            reason = "tool_use" if self._blocks.has_calls else "end_turn"
        return {"stop_reason": reason, "stop_sequence": found}

    def _usage(self, stats: Stats) -> dict[str, Any]:
        """Cached tokens of the prompt are not among `input_tokens`."""
        return {
            "input_tokens": stats.n_prompt - stats.n_cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": stats.n_cached,
            "output_tokens": stats.n_generated,
            "output_tokens_details": {"thinking_tokens": self._blocks.n_reasoning},
        }


def _events(step: Step) -> list[dict[str, Any]]:
    """What is told of a block, but for its index."""
    block = step.block
    if step.what == BEGUN:
        return [{"type": "content_block_start", "content_block": _block(block, "")}]
    if step.what == MORE:
        return [{"type": "content_block_delta", "delta": _delta(block, step.text)}]
    end = {"type": "content_block_stop"}
    if block.kind != "reasoning":
        return [end]
    signed = {"type": "signature_delta", "signature": ""}  # which clients wait for
    return [{"type": "content_block_delta", "delta": signed}, end]


def _block(block: Block, text: str) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": ""}
    if block.kind == "text":
        return {"type": "text", "text": text}
    arguments = json.loads(text) if text else {}
    return {"type": "tool_use", "id": f"toolu_{block.id}", "name": block.name, "input": arguments}


def _delta(block: Block, text: str) -> dict[str, Any]:
    if block.kind == "reasoning":
        return {"type": "thinking_delta", "thinking": text}
    if block.kind == "text":
        return {"type": "text_delta", "text": text}
    return {"type": "input_json_delta", "partial_json": text}


def _frame(event: dict[str, Any]) -> bytes:
    return frame(event, event=event["type"])
