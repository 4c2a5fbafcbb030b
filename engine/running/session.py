"""Sequences under way: their cache of keys and values, and the passes that extend them."""

from __future__ import annotations

import os
import reprlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from linnet.engine.checks import token_ids, whole
from linnet.engine.machine import available_memory, check_memory
from linnet.engine.running.interruptible import Interruptible
from linnet.engine.running.sequence import CachedSequence, ContextOverflow
from linnet.kernels.compiler.jit import Library
from linnet.kernels.products.linear import MOST_FEW_ROWS
from linnet.kernels.runtime.program import Lowered, Program
from linnet.kernels.runtime.team import Interrupted, Team
from linnet.models import Model
from linnet.models.parts.graph import Graph, Measure

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], object]  # is told tokens done, and tokens in all
PROMPT_TOKENS = 512  # in one pass
MOST_PROMPT_TOKENS = 16384
MOST_SLOTS = MOST_FEW_ROWS  # so that one pass of the few-row kernels extends them all
OUTPUTS = 32  # rows of logits one pass makes
SLOW = 0.03  # seconds, for a pass that Ctrl-C should not have to wait for


class Session:
    """Tokens in, logits out, for `n_slots` sequences of up to `n_ctx` tokens each.

    Prompts go through the many-row kernels, `n_batch` tokens a pass, and generated tokens through
    the few-row kernels, one of each sequence a pass. A row comes out the same whatever shares its
    pass; so the same calls give the same bits. Cached positions are reused only where a prompt pass
    filled them, which keeps that true.

    One call at a time: a second one, from another thread, raises RuntimeError. So does any call
    once the session is closed, or in a process forked from the one that opened it.

    A call that ends early, for Ctrl-C or `stop`, keeps the passes it has finished. Both act within
    a chunk of work: in prompts, and where tokens take long, a thread of its own leads the pass.

    `n_bytes`: what caches, tables and buffers take once they are full.
    """

    def __init__(
        self, model: Model, library: Library, *, n_threads: int, n_ctx: int, exact: bool = False,
        n_slots: int = 1, n_batch: int = PROMPT_TOKENS, n_outputs: int = OUTPUTS,
        hidden: bool = False,
    ) -> None:  # fmt: skip
        """`n_outputs`: rows of logits that a pass makes at most. `hidden`: leave the output matrix
        out; rows are then the states before it (n_embd), wherever these methods say logits.

        Raises MemoryError, with figures, where the cache and buffers would not fit, and
        ValueError for numbers out of range."""
        whole("n_slots", n_slots, 1, MOST_SLOTS)
        whole("n_batch", n_batch, 1, MOST_PROMPT_TOKENS)
        config = model.config
        self.n_batch = min(n_batch, n_ctx)
        n_bytes = cache_bytes(model, n_ctx, n_slots=n_slots, n_batch=self.n_batch, exact=exact)
        what = f"{n_slots} times " if n_slots > 1 else ""
        what += f"a context of {n_ctx} tokens"
        _check_memory(n_bytes, what, "n_ctx (-c)")
        self.n_ctx, self.n_vocab = n_ctx, config.n_vocab
        self.library = library
        self._owner: object = None
        self._closed = self._in_use = False
        self._stopping = self._slow = False
        self._process = os.getpid()
        self._busy = threading.RLock()  # not left locked to us where Ctrl-C comes between
        self.program = Program(max(self.n_batch, n_slots), max(n_outputs, n_slots))
        self._graph = Graph(self.program, n_ctx=n_ctx, n_slots=n_slots, exact=exact)
        self._logits = model.hidden(self._graph) if hidden else model.record(self._graph)
        self.sequences = [CachedSequence(self._graph.rings) for _ in range(n_slots)]
        what += f" in passes of {self.n_batch}"
        self.n_bytes = self._graph.n_bytes + self.program.layout_bytes(keep=[self._logits])
        _check_memory(self.n_bytes, what, "n_ctx (-c) or n_batch (-b)")
        self.program.lay_out(keep=[self._logits])
        self._lowered: dict[tuple[int | None, int | None], Lowered] = {}
        self.team = Team(library, n_threads)
        self._long = Interruptible(self.team.stop)

    @property
    def n_slots(self) -> int:
        return len(self.sequences)

    @property
    def ids(self) -> list[int]:
        """The tokens of slot 0 whose keys and values are cached."""
        return self.sequences[0].ids

    def prompt(
        self, ids: Sequence[int], *, slot: int = 0, owner: object = None,
        progress: Progress | None = None,
    ) -> Floats:  # fmt: skip
        """Make `ids` the slot's sequence; returns the last one's logits (n_vocab,), a view until
        the next call. `owner`: who may extend sequences from now on. `progress` is called before
        the first pass and after each. Raises what `check` raises, and Interrupted."""
        with self.exclusively():
            ids = self.check(ids)
            sequence = self._sequence(slot)
            self._begin(owner)
            start = self.n_cached(ids, slot)
            sequence.truncate(start)
            if progress:
                progress(start, len(ids))
            for first in range(start, len(ids), self.n_batch):
                part = ids[first : first + self.n_batch]
                last = first + len(part) == len(ids)
                self._prompt_pass(
                    part, slot, first, outputs=[len(part) - 1] if last else [], n_outputs=1
                )
                if progress:
                    progress(first + len(part), len(ids))
            return self._row()

    def n_cached(self, ids: Sequence[int], slot: int = 0) -> int:
        """How many of `ids`, from the first, `prompt` need not compute: never the last."""
        return self._sequence(slot).reusable(ids)

    def extend(self, token_id: int, *, slot: int = 0, owner: object = None) -> Floats:
        """Append one token; returns its logits (n_vocab,), a view until the next call.

        Raises what `extend_each` raises.
        """
        row: Floats = self.extend_each({slot: token_id}, owner=owner)[0]
        return row

    def extend_each(self, tokens: Mapping[int, int], *, owner: object = None) -> Floats:
        """Append a token to each of several sequences, given by slot, in one pass.

        Returns their logits (n, n_vocab), in the order given, a view until the next call. Raises,
        with nothing done, ContextOverflow where a context is full, and RuntimeError where another
        owner has begun a sequence since.
        """
        with self.exclusively():
            self.check_owner(owner)
            if self._stopping:
                raise Interrupted("the generation was stopped")
            ids, slots = token_ids(tokens.values(), self.n_vocab), list(tokens)
            sequences, n = [self._sequence(slot) for slot in slots], len(slots)
            ends = [len(sequence.ids) for sequence in sequences]
            if max(ends) >= self.n_ctx:
                raise ContextOverflow(self.n_ctx + 1, self.n_ctx)
            lowered = self._set(ids, slots, ends, outputs=range(n), lowered=(n, n))
            with self._pass_over(sequences, 1):
                started = time.perf_counter()
                self._run(lowered, interruptible=self._slow)
                self._slow = time.perf_counter() - started > SLOW
            for sequence, token_id in zip(sequences, ids, strict=True):
                sequence.ids.append(token_id)
            logits: Floats = self._logits.data[:n]
            return logits

    def all_logits(self, ids: Sequence[int]) -> Floats:
        """Make `ids` the sequence of slot 0; returns every token's logits (len(ids), n_vocab).

        Raises what `check` raises, Interrupted, and MemoryError.
        """
        ids = self.check(ids)
        n_bytes = len(ids) * self._logits.width * 4
        _check_memory(n_bytes, f"logits of {len(ids)} tokens", "number of tokens")
        logits = np.empty((len(ids), self._logits.width), np.float32)
        done = 0
        for rows in self.each_logits(ids):
            logits[done : done + len(rows)] = rows
            done += len(rows)
        return logits

    def each_logits(self, ids: Sequence[int], *, first: int = 0) -> Iterator[Floats]:
        """The same from position `first` on, in parts (n, n_vocab): views until the next part.

        The session is in use until the iterator ends or is closed. Raises what `check` raises, and
        Interrupted.
        """
        with self.exclusively():
            ids = self.check(ids)
            self._begin(None)
            self.sequences[0].truncate(0)
            for start in range(0, first, self.n_batch):
                part = ids[start : min(start + self.n_batch, first)]
                self._prompt_pass(part, 0, start, outputs=[], n_outputs=None)
            step = min(self.n_batch, self.program.max_outputs)
            for start in range(first, len(ids), step):
                part = ids[start : start + step]
                self._prompt_pass(part, 0, start, outputs=range(len(part)), n_outputs=None)
                rows: Floats = self._logits.data[: len(part)]
                yield rows

    def stop(self) -> None:
        """End the call that is under way, from any thread; there it raises Interrupted.

        Where none is, the next token of the sequences' owner is refused in the same way. Sequences
        that begin later are not affected.
        """
        self._stopping = True
        self.team.stop()

    def reset(self) -> None:
        """Forget all sequences."""
        with self.exclusively():
            self._owner = None
            for sequence in self.sequences:
                sequence.truncate(0)

    def close(self) -> None:
        """End the threads, after the call that may be under way."""
        with self._busy:
            self._closed = True
            self._long.settle()
            self.team.close()

    def check(self, ids: Sequence[int]) -> list[int]:
        """The same, as a list of our own. Raises ContextOverflow, or ValueError for no ids or ids
        that the vocabulary lacks."""
        if not isinstance(ids, Sequence | np.ndarray) or isinstance(ids, str | bytes | bytearray):
            raise ValueError(f"ids is {reprlib.repr(ids)}; it must be a list of token ids")
        ids = list(ids)
        if len(ids) > self.n_ctx:
            raise ContextOverflow(len(ids), self.n_ctx)
        return token_ids(ids, self.n_vocab)

    def check_owner(self, owner: object) -> None:
        """Raise RuntimeError where the sequences are not this owner's any more."""
        if owner is not self._owner:
            raise RuntimeError("a later call has begun another sequence in this session")

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Keep all others from session and team meanwhile: other threads, and what is called back.

        Raises RuntimeError.
        """
        if self._process != os.getpid():
            raise RuntimeError("this session was opened before the process forked; open one here")
        if not self._busy.acquire(blocking=False):
            instead = "an LLM or session for each thread, or give one call a list of prompts"
            raise RuntimeError(f"this session is in use by another thread; open {instead}")
        try:
            if self._in_use:
                raise RuntimeError("this session is amid a call; open one for what is called back")
            if self._closed:
                raise RuntimeError("this session is closed")
            self._in_use = True
            try:
                self._long.settle()
                yield
            except Interrupted:
                self._stopping = False
                raise
            finally:
                self._in_use = False
        finally:
            self._busy.release()

    def _sequence(self, slot: int) -> CachedSequence:
        if type(slot) is not int or slot not in range(self.n_slots):
            limits = f"a whole number from 0 to {self.n_slots - 1}"
            raise ValueError(f"slot is {slot!r}; it must be {limits}")
        return self.sequences[slot]

    def _row(self) -> Floats:
        """The first row of logits."""
        logits: Floats = self._logits.data[0]
        return logits

    def _prompt_pass(
        self, ids: Sequence[int], slot: int, first: int, *, outputs: Sequence[int],
        n_outputs: int | None,
    ) -> None:  # fmt: skip
        """Compute `ids` at the positions from `first`, where the slot's sequence ends."""
        sequence = self.sequences[slot]
        if self._stopping:
            raise Interrupted("the prompt was stopped")
        positions = range(first, first + len(ids))
        lowered = self._set(ids, slot, positions, outputs=outputs, lowered=(None, n_outputs))
        with self._pass_over([sequence], len(ids)):
            self._run(lowered, interruptible=True)
        sequence.ids.extend(ids)
        sequence.n_from_prompts = len(sequence.ids)

    def _begin(self, owner: object) -> None:
        """From now on, sequences are this owner's; a stop was meant for those before."""
        if owner is None or owner is not self._owner:
            self._owner, self._stopping = owner, False

    def _run(self, lowered: Lowered, *, interruptible: bool) -> None:
        """A pass, led by this thread or, so that Ctrl-C is heard meanwhile, by another."""
        if interruptible:
            self._long.run(lambda: self.team.run(lowered), lambda: self._stopping)
        else:
            self.team.run(lowered)

    @contextmanager
    def _pass_over(self, sequences: Sequence[CachedSequence], n: int) -> Iterator[None]:
        """Tell the sequences of a pass over `n` tokens of each, and where it ends midway."""
        for sequence in sequences:
            sequence.begin(n)
        try:
            yield
        except BaseException:
            for sequence in sequences:
                sequence.interrupted()
            raise

    def _set(
        self, ids: Sequence[int], slots: int | Sequence[int], positions: Sequence[int], *,
        outputs: Sequence[int], lowered: tuple[int | None, int | None],
    ) -> Lowered:  # fmt: skip
        """Fill in what the next pass works on; returns the program lowered for it."""
        program, n = self.program, len(ids)
        self._graph.reach(max(positions) + 1)
        if lowered not in self._lowered:
            n_tokens, n_outputs = lowered
            self._lowered[lowered] = program.lower(
                self.library, n_tokens=n_tokens, n_outputs=n_outputs
            )
        program.state[:2] = n, len(outputs)
        program.tokens.data[:n] = ids
        program.slots.data[:n] = slots
        program.positions.data[:n] = positions
        program.outputs.data[: len(outputs)] = outputs
        return self._lowered[lowered]


def cache_bytes(model: Model, n_ctx: int, *, n_slots: int, n_batch: int, exact: bool) -> int:
    """What keys, values and states of so many sequences of `n_ctx` tokens take."""
    measure = Measure(Program(max(n_batch, n_slots), 1), n_ctx=n_ctx, n_slots=n_slots, exact=exact)
    model.hidden(measure)
    return measure.cache_bytes


def slots_that_fit(model: Model, n_ctx: int, *, n_batch: int, exact: bool) -> int:
    """How many sequences half of the available memory has room for, from 1 to MOST_SLOTS."""
    available = available_memory()
    if available is None:
        return MOST_SLOTS
    one = cache_bytes(model, n_ctx, n_slots=1, n_batch=n_batch, exact=exact)
    return max(1, min(MOST_SLOTS, available // 2 // one))


def _check_memory(n_bytes: int, what: str, smaller: str) -> None:
    check_memory(n_bytes, available_memory(), what, f"a smaller {smaller} needs less")
