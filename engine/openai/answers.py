"""Answers to conversations: whole, or in deltas."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from linnet.engine.chat.formats.parts import Part


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
        message["tool_calls"] = [_tool_call(*call) for call in complete_calls(said)]
        message["content"] = said.content or None
    return message


def deltas(part: Part, n_calls: int) -> Iterator[dict[str, Any]]:
    """What a part adds to a streamed answer that has so many tool calls, the one under way not
    counted."""
    if part.reasoning:
        yield _reasoning(part)
    if part.content:
        yield {"content": part.content}
    for piece in part.call_pieces:
        if piece.name is not None:  # who is called, then with what
            yield {"tool_calls": [{"index": n_calls, **_tool_call(piece.name, "")}]}
        if piece.text:
            yield {"tool_calls": [{"index": n_calls, "function": {"arguments": piece.text}}]}
        n_calls += piece.is_last


def complete_calls(said: Part) -> Iterator[tuple[str, str]]:
    """Of each call in an answer, its name and its arguments in JSON."""
    name, arguments = "", ""
    for piece in said.call_pieces:
        name, arguments = (name, arguments) if piece.name is None else (piece.name, "")
        arguments += piece.text
        if piece.is_last:
            yield name, arguments


def finish_reason(reason: str | None, has_calls: bool) -> str:
    """Of an answer, why its generation ended, or that it calls tools."""
    reason = reason or "stop"
    return "tool_calls" if has_calls and reason == "stop" else reason


def _content(logprobs: Sequence[Any] | None) -> dict[str, Any] | None:
    return None if logprobs is None else {"content": logprobs, "refusal": None}


def _reasoning(said: Part) -> dict[str, str]:
    return {"reasoning_content": said.reasoning, "reasoning": said.reasoning}


def _tool_call(name: str, arguments: str) -> dict[str, Any]:
    """With an id."""
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
