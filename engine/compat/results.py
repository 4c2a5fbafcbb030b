"""What llama-cpp-python's methods return, of the chunks of one answer: whole, or as they come."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from linnet.engine.chat.formats.parts import Part
from linnet.engine.chat.formats.parts import joined as joined_parts
from linnet.engine.openai.answers import chat_choice, delta_choice, deltas, finish_reason
from linnet.engine.openai.logprobs import entry
from linnet.engine.openai.text import TextChoice, joined
from linnet.engine.openai.usage import counts
from linnet.engine.running.generation import Chunk, Output
from linnet.engine.text.tokenizer import Tokenizer

Results = Iterator[dict[str, Any]]


def text_completion(chunks: Iterator[Chunk], model: str, choice: TextChoice) -> dict[str, Any]:
    every = [*map(_without_end, chunks)]
    head, output = _head("cmpl", "text_completion", model), Output.of(every)
    return head | {"choices": [joined([*map(choice.push, every)])], "usage": _usage(output)}


def text_chunks(chunks: Iterator[Chunk], model: str, choice: TextChoice) -> Results:
    """The same in pieces; the last has no text, and a finish_reason."""
    head = _head("cmpl", "text_completion", model)
    for chunk in map(_without_end, chunks):
        told = choice.push(replace(chunk, finish_reason=None))
        if told["text"] or told["logprobs"]:
            yield head | {"choices": [told]}
        if chunk.finish_reason is not None:
            end = {"text": "", "logprobs": None, "finish_reason": chunk.finish_reason}
            yield head | {"choices": [told | end]}


def chat_completion(chunks: Iterator[Chunk], model: str, tokenizer: Tokenizer) -> dict[str, Any]:
    every = [*chunks]
    output, part = Output.of(every), joined_parts(map(_part, every))
    logprobs = [each for chunk in every for each in _logprobs(chunk, tokenizer) or ()]
    reason = finish_reason(output.finish_reason, bool(part.tool_calls))
    choice = chat_choice(0, part, reason, logprobs=logprobs or None)
    head = _head("chatcmpl", "chat.completion", model)
    return head | {"choices": [choice], "usage": _usage(output)}


def chat_chunks(chunks: Iterator[Chunk], model: str, tokenizer: Tokenizer) -> Results:
    """The same in pieces: first the role, last a finish_reason."""
    head, n_calls = _head("chatcmpl", "chat.completion.chunk", model), 0
    yield head | {"choices": [delta_choice(0, {"role": "assistant"})]}
    for chunk in chunks:
        part, logprobs = _part(chunk), _logprobs(chunk, tokenizer)
        for delta in [*deltas(part, n_calls)] or ([{}] if logprobs else []):
            yield head | {"choices": [delta_choice(0, delta, logprobs=logprobs)]}
            logprobs = None
        n_calls += len(part.tool_calls)
        if chunk.finish_reason is not None:
            reason = finish_reason(chunk.finish_reason, n_calls > 0)
            yield head | {"choices": [delta_choice(0, {}, reason)]}


def _part(chunk: Chunk) -> Part:
    """Where nothing was read, all of the text is content."""
    return Part(content=chunk.text) if chunk.part is None else chunk.part


def _logprobs(chunk: Chunk, tokenizer: Tokenizer) -> list[dict[str, Any]] | None:
    """Of its token, where they were asked for."""
    if chunk.token_id is None or chunk.logprobs is None:
        return None
    return [entry(tokenizer, chunk.logprobs)]


def _without_end(chunk: Chunk) -> Chunk:
    """The same, but for the logprobs of an end token, which are not told there."""
    return chunk if chunk.token_id is not None else replace(chunk, logprobs=None)


def _head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    created = int(time.time())
    return {"id": f"{prefix}-{uuid.uuid4()}", "object": kind, "created": created, "model": model}


def _usage(output: Output) -> dict[str, int]:
    return counts(output.stats.n_prompt, output.stats.n_generated)
