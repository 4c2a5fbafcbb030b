"""Which slot a request takes: prefixes that are cached are kept, moved on, copied, or read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from linnet.engine.running.prefix_file import PrefixFile
from linnet.engine.running.prompt_cache import WORTH_READING, PromptCache
from linnet.engine.running.session import Session

WORTH_COPYING = 16  # tokens; fewer are computed again
SIZES = 1 << 12  # of sequences, of which the bytes are remembered


class Prefixes:
    """The slots of a session as places for requests, under one budget of memory.

    A slot that no request uses is parked: its sequence stays until the slot or its memory is
    needed, the one unused for longest first. `stored`: prefixes on disk, if they are kept there.
    """

    def __init__(self, session: Session, stored: PromptCache | None = None) -> None:
        self._session, self.stored = session, stored
        self._n_bytes = lru_cache(SIZES)(session.runner.graph.sequence_bytes)
        self._last_used = [0] * session.n_slots
        self._clock = 0

    def take(self, ids: Sequence[int], n_positions: int, used: Mapping[int, int]) -> int | None:
        """A slot for a request that begins with `ids` and may come to hold `n_positions`; what is
        cached of `ids` is in it, and nothing else. None where there is no slot, or no memory, left.

        `used`: the slots of requests under way, and how many positions each may come to hold.

            the slot that ends with the longest cached prefix of ids, or else
            the slot unused for longest, to which the longest prefix is copied;
            where a file has so many more that reading it pays, they come from there
        """
        session = self._session
        room = session.runner.kv_bytes - self._n_bytes(n_positions) - self._in_use(used)
        parked = self._parked(used)
        if not parked or room < 0:
            return None
        source, target, n = self._choose(ids, parked)
        file, n_in_file = self.stored.longest(ids) if self.stored else (None, 0)
        if self.stored and file and n_in_file >= n + WORTH_READING:
            if not self.stored.read(file, session, target, n_in_file):
                return self.take(ids, n_positions, used)
            n = n_in_file
        elif n and target != source:
            session.copy(source, target, n)
        else:
            session.sequences[target].truncate(n)
        if n and self._touched(target) > n_positions:
            session.release(target, n_positions)
        self._make_room([slot for slot in parked if not n or slot != target], room)
        self.touch(target)
        return target

    def _choose(self, ids: Sequence[int], parked: Sequence[int]) -> tuple[int, int, int]:
        """Which slot gives how many of `ids` to which of those that are parked."""
        target = parked[0]
        source = max(range(self._session.n_slots), key=lambda slot: self._reusable(ids, slot))
        n = self._reusable(ids, source)
        if source in parked and (len(parked) == 1 or self._goes_on(source, n)):
            target = source
        elif n < WORTH_COPYING:
            n = 0
        elif target == source:  # where another conversation goes on, perhaps
            target = parked[1]
        return source, target, n

    def load(self, file: PrefixFile, used: Mapping[int, int]) -> None:
        """Put all of a file into the slot unused for longest. Raises RuntimeError where there is no
        slot or no memory left, and what `PrefixFile.read` raises."""
        session, n = self._session, len(file.ids)
        parked = self._parked(used)
        room = session.runner.kv_bytes - self._n_bytes(n) - self._in_use(used)
        if not parked or room < 0:
            raise RuntimeError("requests under way have all slots, or all memory (kv_tokens)")
        file.read(session, parked[0], n)
        self._make_room(parked[1:], room)
        self.touch(parked[0])

    def check(self, n_positions: int) -> None:
        """Raise ValueError, with figures, where not even an empty cache has room for so many."""
        most, needed = self._session.runner.kv_bytes, self._n_bytes(n_positions)
        if needed > most:
            one = self._session.runner.graph.slot_bytes
            budget = f"kv_tokens has room for {self._session.n_ctx * most // one}"
            raise ValueError(f"prompt and max_tokens come to {n_positions} tokens; {budget}")

    def holding(self, ids: Sequence[int]) -> int | None:
        """A slot that has all of `ids` as a prompt computes them, so that it can give them."""
        for sequence in self._session.sequences:
            n = len(ids)
            if (
                sequence.n_from_prompts >= n
                and sequence.ids[:n] == ids
                and sequence.can_go_on_at(n)
            ):
                return sequence.slot
        return None

    def cached(self, ids: Sequence[int]) -> int:
        """How many of `ids`, from the first, some slot has."""
        return max(sequence.reusable(ids) for sequence in self._session.sequences)

    def touch(self, slot: int) -> None:
        """The slot has just been used."""
        self._clock += 1
        self._last_used[slot] = self._clock

    def has_room(self, slot: int, n_positions: int) -> bool:
        """Whether all slots fit the budget once this one holds so many positions."""
        held = (self._n_bytes(self._touched(other)) for other in range(self._session.n_slots))
        more = self._n_bytes(n_positions) - self._n_bytes(self._touched(slot))
        return sum(held) + max(0, more) <= self._session.runner.kv_bytes

    def _parked(self, used: Mapping[int, int]) -> list[int]:
        """The slots that no request uses, the one unused for longest first."""
        slots = set(range(self._session.n_slots)) - used.keys()
        return sorted(slots, key=self._last_used.__getitem__)

    def _in_use(self, used: Mapping[int, int]) -> int:
        """Bytes that requests under way have, or may come to have."""
        return sum(self._n_bytes(max(n, self._touched(slot))) for slot, n in used.items())

    def _reusable(self, ids: Sequence[int], slot: int) -> int:
        return self._session.sequences[slot].reusable(ids)

    def _goes_on(self, slot: int, n: int) -> bool:
        """Whether `n` tokens are all that a later prompt could have taken from the slot, but for an
        answer that it leaves out."""
        sequence = self._session.sequences[slot]
        return n > 0 and n >= sequence.n_from_prompts - sequence.n_answer - 1

    def _make_room(self, parked: Sequence[int], room: int) -> None:
        """Give back the memory of parked slots, in this order, until the others fit `room`."""
        held = {slot: self._n_bytes(self._touched(slot)) for slot in parked}
        for slot in parked:
            if sum(held.values()) <= room:
                return
            if held.pop(slot):
                self._session.release(slot)

    def _touched(self, slot: int) -> int:
        return self._session.sequences[slot].n_touched
