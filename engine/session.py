"""One sequence under way: its cache of keys and values, and the passes that extend it."""

from __future__ import annotations

import os
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
ROPE_BYTES = 24  # what making the table of rotations takes, for each number turned and position


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

    One call at a time: a second one, from another thread, raises RuntimeError. So does any call
    once the session is closed, or in a process forked from the one that opened it.
    """

    def __init__(
        self, model: Model, library: Library, *, n_threads: int, n_ctx: int, exact: bool = False
    ) -> None:
        """Raises MemoryError, with figures, where the cache and buffers would not fit."""
        config = model.config
        per_layer = 2 * config.n_kv_heads * config.head_dim * (4 if exact else 2)
        per_token = config.n_layers * per_layer + ROPE_BYTES * config.n_rot
        _check_memory(per_token * n_ctx, f"a context of {n_ctx} tokens", "n_ctx (-c)")
        self.n_ctx, self.n_vocab = n_ctx, config.n_vocab
        self.library = library
        self.ids: list[int] = []  # the tokens whose keys and values are cached
        self._n_from_prompts = 0  # how many of them, from the first, a prompt pass computed
        self._owner: object = None
        self._closed = False
        self._process = os.getpid()
        self._busy = threading.RLock()  # not left locked to us where Ctrl-C comes between
        self.program = Program(min(PROMPT_TOKENS, n_ctx), OUTPUTS)
        graph = Graph(self.program, n_ctx=n_ctx, n_slots=1, exact=exact)
        self._logits = model.record(graph)
        self.program.lay_out(keep=[self._logits])
        self._lowered: dict[tuple[int | None, int | None], Lowered] = {}
        self.team = Team(library, n_threads)

    def prompt(self, ids: Sequence[int], *, owner: object = None) -> Floats:
        """Make `ids` the sequence; returns the last one's logits (n_vocab,), a view until the next
        call. `owner`: who may extend it. Raises what `check` raises."""
        with self.exclusively():
            self.check(ids)
            self._owner = owner
            start = min(self._reusable(ids), len(ids) - 1)
            self._truncate(start)
            step = self.program.max_tokens
            for first in range(start, len(ids), step):
                part = ids[first : first + step]
                last = first + len(part) == len(ids)
                self._pass(part, outputs=[len(part) - 1] if last else [], lowered=(None, 1))
                self._n_from_prompts = len(self.ids)
            return self._row()

    def extend(self, token_id: int, *, owner: object = None) -> Floats:
        """Append one token; returns its logits (n_vocab,), a view until the next call.

        Raises ContextOverflow where the context is full, and RuntimeError where another owner has
        begun a sequence since.
        """
        with self.exclusively():
            self.check_owner(owner)
            self.check([token_id])
            if len(self.ids) >= self.n_ctx:
                raise ContextOverflow(len(self.ids) + 1, self.n_ctx)
            self._pass([token_id], outputs=[0], lowered=(1, 1))
            return self._row()

    def all_logits(self, ids: Sequence[int]) -> Floats:
        """Make `ids` the sequence; returns every token's logits (len(ids), n_vocab).

        Raises what `check` raises, and MemoryError.
        """
        with self.exclusively():
            self.check(ids)
            n_bytes = len(ids) * self.n_vocab * 4
            _check_memory(n_bytes, f"logits of {len(ids)} tokens", "number of tokens")
            self._owner = None
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
        with self.exclusively():
            self._owner = None
            self._truncate(0)

    def close(self) -> None:
        """End the threads, after the pass that may be under way."""
        with self._busy:
            self._closed = True
            self.team.close()

    def check(self, ids: Sequence[int]) -> None:
        """Raise ContextOverflow, or ValueError for no ids or ids that the vocabulary lacks."""
        if not len(ids):
            raise ValueError("no tokens: a prompt needs at least one")
        if len(ids) > self.n_ctx:
            raise ContextOverflow(len(ids), self.n_ctx)
        for token_id in ids:
            whole = isinstance(token_id, int | np.integer) and not isinstance(token_id, bool)
            if not whole or not 0 <= token_id < self.n_vocab:
                limits = f"a whole number from 0 to {self.n_vocab - 1}"
                raise ValueError(f"token id is {token_id!r}; it must be {limits}")

    def check_owner(self, owner: object) -> None:
        """Raise RuntimeError where the sequence is not this owner's any more."""
        if owner is not self._owner:
            raise RuntimeError("a later call has begun another sequence in this session")

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Keep other threads from session and team meanwhile. Raises RuntimeError."""
        if self._process != os.getpid():
            raise RuntimeError("this session was opened before the process forked; open one here")
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("this session is in use by another thread; open one for each")
        try:
            if self._closed:
                raise RuntimeError("this session is closed")
            yield
        finally:
            self._busy.release()

    def _row(self) -> Floats:
        """The first row of logits."""
        logits: Floats = self._logits.data[0]
        return logits

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


def _check_memory(n_bytes: int, what: str, smaller: str) -> None:
    available = available_memory()
    if available is not None and n_bytes > available:
        raise MemoryError(
            f"{what} needs {n_bytes / 1e9:.2f} GB of memory, and {available / 1e9:.2f} GB are "
            f"available; a smaller {smaller} needs less"
        )
