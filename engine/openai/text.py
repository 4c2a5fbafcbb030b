"""Completions of texts: choices whole, or as they come."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from linnet.engine.openai.logprobs import Rows, columns
from linnet.engine.running.generation import Chunk, Generation
from linnet.engine.text.tokenizer import Tokenizer


class TextChoice:
    """One answer, chunk by chunk: each as a choice of a stream."""

    def __init__(
        self, index: int, generation: Generation, tokenizer: Tokenizer, *,
        echo: str | Sequence[int | str] | None = None, offset: int = 0,
    ) -> None:  # fmt: skip
        """`echo`: the prompt, which comes first: a text as it was given, others as that of its ids.
        `offset`: that of the first token of an answer without it."""
        self._index, self._generation, params = index, generation, generation.params
        self._prompt = generation.ids[: generation.stats.n_prompt]
        self._echo = (
            echo
            if echo is None or isinstance(echo, str)
            else tokenizer.decode(self._prompt, skip_special=False)
        )
        self._rows = None
        if params.logprobs is not None:
            self._rows = Rows(tokenizer, skip_special=params.skip_special, offset=offset)

    def push(self, chunk: Chunk) -> dict[str, Any]:
        """What a chunk adds. Among the logprobs are those of the end token, as clients expect some
        for a token that they ask for."""
        text, rows = chunk.text, []
        if self._echo is not None:
            logprobs = self._generation.prompt_logprobs
            if self._rows and logprobs is not None:
                rows += self._rows.of_prompt(self._echo, self._prompt, logprobs)
            text, self._echo = self._echo + text, None
        if self._rows and chunk.logprobs is not None:
            rows.append(self._rows.of_token(chunk.logprobs))
        return {
            "index": self._index, "text": text, "logprobs": columns(rows) if rows else None,
            "finish_reason": chunk.finish_reason,
        }  # fmt: skip


def joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The choice that the chunks of an answer make up."""
    tables = [part["logprobs"] for part in parts if part["logprobs"]]
    names = tables[0].keys() if tables else ()
    return {
        **parts[-1],
        "text": "".join(part["text"] for part in parts),
        "logprobs": {name: [*chain(*(table[name] for table in tables))] for name in names} or None,
    }
