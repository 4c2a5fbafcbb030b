"""One sequence under way: its cache of keys and values, and the passes that extend it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from linnet.engine.machine import available_memory
from linnet.kernels.jit import Library
from linnet.kernels.program import Lowered, Program
from linnet.kernels.team import Team
from linnet.models import Model
from linnet.models.graph import Graph

Floats = npt.NDArray[np.float32]
PROMPT_TOKENS = 512  # in one pass
OUTPUTS = 32  # rows of logits one pass makes


class ContextOverflow(ValueError):
    """More tokens than the context holds; raised before anything is computed."""

    def __init__(self, n_tokens: int, n_ctx: int) -> None:
        super().__init__(
            f"{n_tokens} tokens do not fit the context of {n_ctx}: give a larger n_ctx (-c)"
        )
        self.n_tokens, self.n_ctx = n_tokens, n_ctx


class Session:
    """Tokens in, logits out, for one sequence of up to `n_ctx` tokens.

    Prompts go through the many-row kernels and generated tokens through the few-row kernels, and a
    row comes out the same whatever shares its pass; so the same calls give the same bits. Cached
    positions are reused only where a prompt pass filled them, which keeps that true.

    One call at a time: a second one, from another thread, raises RuntimeError.
    """

    def __init__(
        self, model: Model, library: Library, *, n_threads: int, n_ctx: int, exact: bool = False
    ) -> None:
        """Raises MemoryError, with figures, where the cache and buffers would not fit."""
        config = model.config
        cache_bytes = (
            2 * config.n_layers * config.n_kv_heads * config.head_dim * n_ctx * (4 if exact else 2)
        )
        _check_memory(cache_bytes, n_ctx)
        self.n_ctx, self.n_vocab = n_ctx, config.n_vocab
        self.library = library
        self.ids: list[int] = []  # the tokens whose keys and values are cached
        self._n_from_prompts = 0  # how many of them, from the first, a prompt pass computed
        self._busy = threading.Lock()
        self.program = Program(min(PROMPT_TOKENS, n_ctx), OUTPUTS)
        graph = Graph(self.program, n_ctx=n_ctx, n_slots=1, exact=exact)
        self._logits = model.record(graph)
        self.program.lay_out(keep=[self._logits])
        self._lowered: dict[tuple[int | None, int | None], Lowered] = {}
        self.team = Team(library, n_threads)

    def prompt(self, ids: Sequence[int]) -> Floats:
        """Make `ids` the sequence; returns the last one's logits (n_vocab,), a view until the next
        call. Raises ContextOverflow, and ValueError for no ids or ids out of the vocabulary."""
        with self._exclusively():
            self._check(ids)
            start = min(self._reusable(ids), len(ids) - 1)
            self._truncate(start)
            step = self.program.max_tokens
            for first in range(start, len(ids), step):
                part = ids[first : first + step]
                last = first + len(part) == len(ids)
                self._pass(part, outputs=[len(part) - 1] if last else [], lowered=(None, 1))
                self._n_from_prompts = len(self.ids)
            return self._row()

    def extend(self, token_id: int) -> Floats:
        """Append one token; returns its logits (n_vocab,), a view until the next call.

        Raises ContextOverflow where the context is full.
        """
        with self._exclusively():
            self._check([token_id])
            if len(self.ids) >= self.n_ctx:
                raise ContextOverflow(len(self.ids) + 1, self.n_ctx)
            self._pass([token_id], outputs=[0], lowered=(1, 1))
            return self._row()

    def all_logits(self, ids: Sequence[int]) -> Floats:
        """Make `ids` the sequence; returns every token's logits (len(ids), n_vocab)."""
        with self._exclusively():
            self._check(ids)
            self._truncate(0)
            logits = np.empty((len(ids), self.n_vocab), np.float32)
            step = min(self.program.max_tokens, self.program.max_outputs)
            for first in range(0, len(ids), step):
                part = ids[first : first + step]
                self._pass(part, outputs=range(len(part)), lowered=(None, None))
                logits[first : first + len(part)] = self._logits.data[: len(part)]
                self._n_from_prompts = len(self.ids)
            return logits

    def reset(self) -> None:
        """Forget the sequence."""
        with self._exclusively():
            self._truncate(0)

    def close(self) -> None:
        """End the threads."""
        self.team.close()

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("this session is in use by another thread; open one for each")
        try:
            yield
        finally:
            self._busy.release()

    def _row(self) -> Floats:
        """The first row of logits."""
        logits: Floats = self._logits.data[0]
        return logits

    def _check(self, ids: Sequence[int]) -> None:
        if not len(ids):
            raise ValueError("no tokens: a prompt needs at least one")
        if len(ids) > self.n_ctx:
            raise ContextOverflow(len(ids), self.n_ctx)
        for token_id in ids:
            if not 0 <= token_id < self.n_vocab:
                raise ValueError(f"token id {token_id} is not in 0..{self.n_vocab - 1}")

    def _reusable(self, ids: Sequence[int]) -> int:
        """How many of `ids`, from the first, are cached as a prompt pass would compute them."""
        n = 0
        for ours, theirs in zip(self.ids[: self._n_from_prompts], ids, strict=False):
            if ours != theirs:
                break
            n += 1
        return n

    def _truncate(self, n: int) -> None:
        del self.ids[n:]
        self._n_from_prompts = min(self._n_from_prompts, n)

    def _pass(
        self, ids: Sequence[int], *, outputs: Sequence[int], lowered: tuple[int | None, int | None]
    ) -> None:
        """Run the program on `ids` at the end of the sequence."""
        program, n, start = self.program, len(ids), len(self.ids)
        if lowered not in self._lowered:
            n_tokens, n_outputs = lowered
            self._lowered[lowered] = program.lower(
                self.library, n_tokens=n_tokens, n_outputs=n_outputs
            )
        program.state[:2] = n, len(outputs)
        program.tokens.data[:n] = ids
        program.positions.data[:n] = range(start, start + n)
        program.outputs.data[: len(outputs)] = outputs
        self.team.run(self._lowered[lowered])
        self.ids.extend(int(token_id) for token_id in ids)


def _check_memory(n_bytes: int, n_ctx: int) -> None:
    available = available_memory()
    if available is not None and n_bytes > available:
        raise MemoryError(
            f"a context of {n_ctx} tokens needs {n_bytes / 1e9:.2f} GB for keys and values, and "
            f"{available / 1e9:.2f} GB are available; a smaller n_ctx (-c) needs less"
        )
