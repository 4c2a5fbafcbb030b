"""Answers to conversations: whole, or in deltas."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from linnet.engine.chat.formats.parts import Part, ToolCall


def chat_choice(
    index: int, said: Part, reason: str, *, logprobs: Sequence[Any] | None = None
) -> dict[str, Any]:
    """A whole answer; `reason`: its finish_reason. `logprobs`: those of `logprobs.entry`."""
    told = _content(logprobs)
    return {"index": index, "message": message(said), "logprobs": told, "finish_reason": reason}


def delta_choice(
    index: int, delta: Mapping[str, Any], reason: str | None = None, *,
    logprobs: Sequence[Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Some of an answer that is streamed; `reason`: its finish_reason, with the last."""
    told = _content(logprobs)
    return {"index": index, "delta": delta, "logprobs": told, "finish_reason": reason}


def message(said: Part) -> dict[str, Any]:
    """An answer as a message; reasoning by both names that clients look for."""
    message: dict[str, Any] = {"role": "assistant", "content": said.content}
    if said.reasoning:
        message |= _reasoning(said)
    if said.tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in said.tool_calls]
        message["content"] = said.content or None
    return message


def deltas(part: Part, n_calls: int) -> Iterator[dict[str, Any]]:
    """What a part adds to a streamed answer that has so many tool calls."""
    if part.reasoning:
        yield _reasoning(part)
    if part.content:
        yield {"content": part.content}
    for index, call in enumerate(map(_tool_call, part.tool_calls), n_calls):
        function = call["function"]  # who is called, then with what
        yield {"tool_calls": [{"index": index, **call, "function": {**function, "arguments": ""}}]}
        yield {"tool_calls": [{"index": index, "function": {"arguments": function["arguments"]}}]}


def arguments_text(call: ToolCall) -> str:
    """A call's arguments in JSON, or what the model wrote in place of that."""
    arguments = call["function"]["arguments"]
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def finish_reason(reason: str | None, has_calls: bool) -> str:
    """Of an answer, why its generation ended, or that it calls tools."""
    reason = reason or "stop"
    return "tool_calls" if has_calls and reason == "stop" else reason


def _content(logprobs: Sequence[Any] | None) -> dict[str, Any] | None:
    return None if logprobs is None else {"content": logprobs, "refusal": None}


def _reasoning(said: Part) -> dict[str, str]:
    return {"reasoning_content": said.reasoning, "reasoning": said.reasoning}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    """With an id, and arguments as JSON text."""
    function = {"name": call["function"]["name"], "arguments": arguments_text(call)}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
