"""linnet as comparisons drive it: see `llamacpp_engine` for the same of llama.cpp."""

from __future__ import annotations

import time

from comparing import rate

from linnet import LLM
from linnet.kernels.program import Program
from linnet.models.graph import Graph

TOKEN = 300  # any does: speed depends on how many there are, not on what they are


class Engine:
    """One model, loaded; every method returns tokens a second."""

    def __init__(self, file: str, *, n_threads: int, n_ctx: int) -> None:
        self._llm = LLM(file, n_threads=n_threads, n_ctx=n_ctx)
        self._session = self._llm.session()
        self._batches: dict[int, _Batch] = {}

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
        if n_sequences not in self._batches:
            self._batches[n_sequences] = _Batch(self._llm, n_sequences, n_ctx=n_tokens)
        return n_sequences * rate(self._batches[n_sequences].extend, n_tokens)


class _Batch:
    """A program for one token of each of several sequences."""

    def __init__(self, llm: LLM, n_sequences: int, *, n_ctx: int) -> None:
        self._n = n_sequences
        self._session = llm.session()  # whose threads run it
        self._program = Program(n_sequences, n_sequences)
        graph = Graph(self._program, n_ctx=n_ctx, n_slots=n_sequences, exact=False)
        self._program.lay_out(keep=[llm.model.record(graph)])
        self._lowered = self._program.lower(
            self._session.library, n_tokens=n_sequences, n_outputs=n_sequences
        )

    def extend(self, position: int) -> None:
        """Append a token to every sequence."""
        program = self._program
        program.state[:2] = self._n
        program.tokens.data[:] = TOKEN
        program.positions.data[:] = position
        program.slots.data[:] = program.outputs.data[:] = range(self._n)
        with self._session.exclusively():
            self._session.team.run(self._lowered)
