"""Sequences under way: what each slot of the cache holds, and the passes that extend them."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from linnet.engine.checks import token_ids
from linnet.engine.machine import available_memory, check_memory
from linnet.engine.running.batch import Batch, Part
from linnet.engine.running.lease import Lease
from linnet.engine.running.runner import Floats, Runner
from linnet.engine.running.sequence import CachedSequence, ContextOverflow
from linnet.engine.sampling.logits import Logits
from linnet.kernels.ops.base import MOST_FEW_ROWS, Array

Progress = Callable[[int, int], object]  # is told tokens done, and tokens in all


class Session:
    """Tokens in, logits out, for as many sequences as a runner has slots.

    Prompts go through the kernels for many rows, `n_batch` tokens a pass, and generated tokens
    through those for few, of one sequence or of several. A row comes out the same whatever shares
    its pass; so the same calls give the same bits. Cached positions are reused only where a prompt
    pass filled them, which keeps that true.

    One call at a time: see `Lease`. A call that ends early, for Ctrl-C or `stop`, keeps the passes
    it has finished.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.n_ctx, self.n_batch, self.n_vocab = runner.n_ctx, runner.n_batch, runner.n_vocab
        rings = runner.graph.rings
        self.sequences = [CachedSequence(rings, slot) for slot in range(runner.n_slots)]
        self.lease = Lease(runner.team)

    @property
    def n_slots(self) -> int:
        return len(self.sequences)

    @property
    def ids(self) -> list[int]:
        """The tokens of slot 0 whose keys and values are cached."""
        return self.sequences[0].ids

    def run(self, parts: Sequence[Part], *, few: bool, few_outputs: bool = True) -> list[Logits]:
        """One pass, which appends each part to its slot's sequence; ids have been checked.

        `few`: see `Batch`; at most MOST_FEW_ROWS tokens then, and else `n_batch`. Returns the
        logits wanted, views until the next pass. Raises, with nothing done, ContextOverflow and
        what `Lease.hold` raises; and Interrupted, after which sequences are as before or, where a
        pass writes over what they were made of, empty.
        """
        with self.lease.hold():
            return self.runner.logits(self._run(parts, few=few, few_outputs=few_outputs))

    def prompt(
        self, ids: Sequence[int], *, slot: int = 0, progress: Progress | None = None
    ) -> Floats:
        """Make `ids` the slot's sequence; returns the last one's logits (n_vocab,), a view until
        the next call. `progress` is called before the first pass and after each. Raises what
        `check` raises, and Interrupted."""
        with self.lease.hold():
            ids, sequence = self.check(ids), self._sequence(slot)
            start = sequence.reusable(ids)
            sequence.truncate(start)
            if progress:
                progress(start, len(ids))
            for first in range(start, len(ids), self.n_batch):
                part = ids[first : first + self.n_batch]
                done = first + len(part)
                batch = self._run([Part(slot, part, int(done == len(ids)))], few=False)
                if progress:
                    progress(done, len(ids))
            row: Floats = self.runner.rows(batch)[0]
            return row

    def extend(self, token_id: int, *, slot: int = 0) -> Floats:
        """Append one token; returns its logits (n_vocab,), a view until the next call.

        Raises what `extend_each` raises.
        """
        row: Floats = self.extend_each({slot: [token_id]})[0]
        return row

    def extend_each(self, tokens: Mapping[int, Sequence[int]]) -> Floats:
        """Append tokens to each of several sequences, given by slot, in one pass: bit for bit what
        one after another gives. At most MOST_FEW_ROWS tokens in all.

        Returns their logits (n_tokens, n_vocab), in the order given, a view until the next call.
        Raises, with nothing done, ContextOverflow where a context would be full, and ValueError for
        wrong ids or slots, or too many of them.
        """
        with self.lease.hold():
            parts = [
                Part(slot, token_ids(ids, self.n_vocab), len(ids)) for slot, ids in tokens.items()
            ]
            n = sum(len(part.ids) for part in parts)
            if not 0 < n <= MOST_FEW_ROWS:
                raise ValueError(f"{n} tokens; a pass takes at least one, at most {MOST_FEW_ROWS}")
            return self.runner.rows(self._run(parts, few=True))

    def truncate(self, slot: int, n: int) -> None:
        """Forget all but the first `n` tokens of a slot's sequence, as for drafts that were wrong.

        Raises ValueError where its layers do not keep any more what the next token would see.
        """
        with self.lease.hold():
            sequence = self._sequence(slot)
            if not 0 <= n <= len(sequence.ids) or not sequence.can_go_on_at(n):
                n_ids = len(sequence.ids)
                raise ValueError(f"slot {slot} cannot go back to {n} of its {n_ids} tokens")
            sequence.truncate(n)

    def copy(self, source: int, target: int, n: int) -> None:
        """Make the first `n` tokens of a slot's sequence another slot's, without computing them.

        Raises ValueError where `source` does not hold them, or its layers do not keep what the next
        token would see: of a sequence that has gone on, rings and states may have lost it.
        """
        with self.lease.hold():
            ours, theirs = self._check_gives(source, n), self._sequence(target)
            if source != target:
                theirs.truncate(0)
                self.runner.graph.copy(source, target, n)
                theirs.take(ours, n)

    def held(self, slot: int, n: int) -> list[Array]:
        """What the layers keep of the first `n` tokens of a slot's sequence: views, until the next
        call. Raises what `copy` raises."""
        with self.lease.hold():
            self._check_gives(slot, n)
            return self.runner.graph.held(slot, n)

    def restore(
        self, slot: int, ids: Sequence[int], n_computed: int, fill: Callable[[list[Array]], object]
    ) -> None:
        """Make `ids` the slot's sequence: `fill` writes what `held` gave of them, of a sequence of
        which so many were computed. What it raises leaves the slot empty."""
        with self.lease.hold():
            sequence = self._sequence(slot)
            sequence.truncate(0)
            sequence.n_touched = max(sequence.n_touched, len(ids))
            fill(self.runner.graph.held(slot, len(ids)))
            sequence.restore(ids, n_computed)

    def release(self, slot: int, first: int = 0) -> None:
        """Forget a slot's tokens from `first` on, and give their memory back to the system."""
        with self.lease.hold():
            sequence = self._sequence(slot)
            sequence.truncate(min(first, len(sequence.ids)))
            self.runner.graph.release(slot, first)
            sequence.released(first)

    def all_logits(self, ids: Sequence[int]) -> Floats:
        """Make `ids` the sequence of slot 0; returns every token's logits (len(ids), n_vocab).

        Raises what `check` raises, Interrupted, and MemoryError.
        """
        ids = self.check(ids)
        width = self.runner.width
        check_memory(
            len(ids) * width * 4, available_memory(), f"logits of {len(ids)} tokens",
            "a smaller number of tokens needs less",
        )  # fmt: skip
        logits = np.empty((len(ids), width), np.float32)
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
        with self.lease.hold():
            ids = self.check(ids)
            self.sequences[0].truncate(0)
            for start in range(0, first, self.n_batch):
                part = ids[start : min(start + self.n_batch, first)]
                self._run([Part(0, part, 0)], few=False, few_outputs=False)
            step = min(self.n_batch, self.runner.n_outputs)
            for start in range(first, len(ids), step):
                part = ids[start : start + step]
                batch = self._run([Part(0, part, len(part))], few=False, few_outputs=False)
                yield self.runner.rows(batch)

    def stop(self) -> None:
        """End the call that is under way, from any thread; there it raises Interrupted."""
        self.lease.stop()

    def reset(self) -> None:
        """Forget all sequences."""
        with self.lease.hold():
            for sequence in self.sequences:
                sequence.truncate(0)

    def close(self) -> None:
        """End the threads, after the call that may be under way."""
        self.lease.close()
        self.runner.close()

    def check(self, ids: Sequence[int]) -> list[int]:
        """The same, as a list of our own. Raises ContextOverflow, or ValueError for no ids or ids
        that the vocabulary lacks."""
        if not isinstance(ids, Sequence | np.ndarray) or isinstance(ids, str | bytes | bytearray):
            raise ValueError(f"ids is {reprlib.repr(ids)}; it must be a list of token ids")
        ids = list(ids)
        if len(ids) > self.n_ctx:
            raise ContextOverflow(len(ids), self.n_ctx)
        return token_ids(ids, self.n_vocab)

    def _sequence(self, slot: int) -> CachedSequence:
        if type(slot) is not int or slot not in range(self.n_slots):
            limits = f"a whole number from 0 to {self.n_slots - 1}"
            raise ValueError(f"slot is {slot!r}; it must be {limits}")
        return self.sequences[slot]

    def _check_gives(self, slot: int, n: int) -> CachedSequence:
        sequence = self._sequence(slot)
        if not 0 <= n <= len(sequence.ids) or not sequence.can_go_on_at(n):
            n_ids = len(sequence.ids)
            raise ValueError(f"slot {slot} cannot give {n} of its {n_ids} tokens")
        return sequence

    def _run(self, parts: Sequence[Part], *, few: bool, few_outputs: bool = True) -> Batch:
        """The pass that was made; the runner has its rows until the next."""
        sequences = [self._sequence(part.slot) for part in parts]
        ends = [len(sequence.ids) for sequence in sequences]
        for end, part in zip(ends, parts, strict=True):
            if end + len(part.ids) > self.n_ctx:
                raise ContextOverflow(end + len(part.ids), self.n_ctx)
        batch = Batch.of(parts, ends, few=few, few_outputs=few_outputs)
        try:
            for sequence, part in zip(sequences, parts, strict=True):
                sequence.begin(len(part.ids))
            self.lease.run(lambda: self.runner.run(batch), short=few)
        except BaseException:
            for sequence in sequences:
                sequence.interrupted()
            raise
        for sequence, part in zip(sequences, parts, strict=True):
            sequence.extend(part.ids, by_prompt=not few)
        return batch
