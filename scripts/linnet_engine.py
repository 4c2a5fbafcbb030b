"""linnet as comparisons drive it: see `llamacpp_engine` for the same of llama.cpp."""

from __future__ import annotations

import contextlib
import time

from comparing import rate

from linnet import LLM

TOKEN = 300  # any does: speed depends on how many there are, not on what they are


class Engine:
    """One model, loaded; every method returns tokens a second."""

    def __init__(self, file: str, *, n_threads: int, n_ctx: int) -> None:
        self._llm = LLM(file, n_threads=n_threads, n_ctx=n_ctx)
        self._session = self._llm.session()

    def use_threads(self, n_threads: int) -> None:
        self._session.close()
        self._llm.n_threads = n_threads
        self._session = self._llm.session()

    def prefill(self, n_tokens: int) -> float:
        self._session.reset()
        started = time.perf_counter()
        self._session.prompt([TOKEN] * n_tokens)
        return n_tokens / (time.perf_counter() - started)

    def decode(self, n_tokens: int, depth: int = 1) -> float:
        """Behind `depth` tokens, which are computed only where they are not there already."""
        self._session.prompt([TOKEN] * depth)
        return rate(lambda _: self._session.extend(TOKEN), n_tokens)

    def batch(self, n_sequences: int, n_tokens: int) -> float:
        """Several sequences at once, a token of each in one pass; tokens of all of them."""
        with contextlib.closing(self._llm.session(n_slots=n_sequences)) as session:
            for slot in range(n_sequences):
                session.prompt([TOKEN], slot=slot)
            tokens = {slot: [TOKEN] for slot in range(n_sequences)}
            session.extend_each(tokens)  # its kernel is compiled by then
            return n_sequences * rate(lambda _: session.extend_each(tokens), n_tokens)
