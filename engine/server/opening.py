"""A model, opened for requests."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from linnet.engine.async_llm import AsyncLLM
from linnet.engine.sampling.params import SamplingParams
from linnet.kernels.ops.base import MOST_FEW_ROWS


def prepared(open_model: Callable[[], AsyncLLM]) -> AsyncLLM:
    """A model with all its kernels, its vocabulary, in a trie, too, and its template's process, so
    that nobody's first request has to wait for them."""
    llm = open_model()
    model = llm.llm
    model.scheduler.session.runner.prepare(MOST_FEW_ROWS)
    with suppress(ValueError):  # without a vocabulary or a template, requests that need it say so
        model.tokenizer.prepare()
        model.constraints.prepare()
        ids = model.tokenizer.encode(" ")
        list(model.stream(ids, SamplingParams(max_tokens=1)))
        model.chat_template.encode([{"role": "user", "content": " "}])
    return llm
