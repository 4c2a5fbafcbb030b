"""What is worth doing while nobody waits: answers become prompts, and prefixes go to disk."""

from __future__ import annotations

from collections.abc import Callable

from linnet.engine.running.batch import Part
from linnet.engine.running.generation import Generation
from linnet.engine.running.prefixes import Prefixes
from linnet.engine.running.sequence import CachedSequence
from linnet.engine.running.session import Session


class Idle:
    """Work on the slots of requests that have ended, the latest first.

    An answer's tokens went through the kernels for few rows, so a next prompt that contains them
    cannot use what is cached of them. Computed again as a prompt, they are there when it comes.
    """

    def __init__(self, session: Session, prefixes: Prefixes) -> None:
        self._session, self._prefixes = session, prefixes
        self._ended: dict[int, tuple[list[int], int]] = {}  # by slot: prompt and answer; n_prompt
        self._seen: dict[int, list[int]] = {}  # by slot: the same, after `step` was done with it

    def ended(self, generation: Generation) -> None:
        """A request has ended by itself, in the slot that it still has."""
        if generation.sequence is not None:
            slot = generation.sequence.slot
            self._ended.pop(slot, None)
            self._seen.pop(slot, None)
            self._ended[slot] = generation.ids, generation.stats.n_prompt

    def step(self, wanted: Callable[[], bool]) -> bool:
        """A pass, or a file, at the most; False where nothing is left to do.

        Raises Interrupted where the session is stopped, or a file is being written as somebody is
        `wanted`: the next call goes on.
        """
        while self._ended:
            slot = next(reversed(self._ended))
            ids, n_prompt = self._ended[slot]
            sequence, has_written = self._session.sequences[slot], False
            if sequence.ids == ids[: len(sequence.ids)]:  # or another request has had the slot
                if answer := self._uncomputed(sequence, ids):
                    self._compute(sequence, answer, n_prompt)
                    return True
                has_written = self._write(sequence, wanted)
            self._ended.pop(slot, None)
            self._seen[slot] = ids
            if has_written:
                return True
        return False

    def close(self) -> None:
        """Write what `step` had no time for, or what was not worth it while more might come."""
        waiting = {slot: ids for slot, (ids, _) in self._ended.items()}
        for slot, ids in (self._seen | waiting).items():
            sequence = self._session.sequences[slot]
            if sequence.ids == ids[: len(sequence.ids)]:
                self._write(sequence, lambda: False, last=True)
        self._ended.clear()
        self._seen.clear()

    def _uncomputed(self, sequence: CachedSequence, ids: list[int]) -> list[int]:
        """The tokens that are yet to be computed as a prompt; none where layers do not keep what
        the first of them sees, or where others would have to give way."""
        start, end = sequence.n_from_prompts, min(len(ids), self._session.n_ctx)
        if not 0 < start < end or not sequence.can_go_on_at(start):
            return []
        return ids[start:end] if self._prefixes.has_room(sequence.slot, end) else []

    def _compute(self, sequence: CachedSequence, ids: list[int], n_prompt: int) -> None:
        self._session.truncate(sequence.slot, sequence.n_from_prompts)
        part = Part(sequence.slot, ids[: self._session.n_batch], 0)
        self._session.run([part], few=False)
        sequence.n_answer = len(sequence.ids) - n_prompt

    def _write(
        self, sequence: CachedSequence, wanted: Callable[[], bool], *, last: bool = False
    ) -> bool:
        stored, n = self._prefixes.stored, sequence.n_from_prompts
        if stored is None or not n or not sequence.can_go_on_at(n):
            return False
        if not stored.worth_writing(sequence.ids[:n], last=last):
            return False
        stored.write(sequence.slot, n, wanted=wanted)
        return True
