"""Which slot a request takes: prefixes that are cached are kept, moved on, or copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from linnet.engine.running.session import Session

WORTH_COPYING = 16  # tokens; fewer are computed again


class Prefixes:
    """The slots of a session as places for requests, under one budget of memory.

    A slot that no request uses is parked: its sequence stays until the slot or its memory is
    needed, the one unused for longest first.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._last_used = [0] * session.n_slots
        self._clock = 0

    def take(self, ids: Sequence[int], n_positions: int, used: Mapping[int, int]) -> int | None:
        """A slot for a request that begins with `ids` and may come to hold `n_positions`; what is
        cached of `ids` is in it, and nothing else. None where there is no slot, or no memory, left.

        `used`: the slots of requests under way, and how many positions each may come to hold.

            the slot that ends with the longest cached prefix of ids, or else
            the slot unused for longest, to which the longest prefix is copied
        """
        session = self._session
        needed = self._n_bytes(n_positions)
        needed += sum(self._n_bytes(max(n, self._touched(slot))) for slot, n in used.items())
        parked = sorted(set(range(session.n_slots)) - used.keys(), key=self._last_used.__getitem__)
        if not parked or needed > session.runner.kv_bytes:
            return None
        target = parked[0]
        source = max(range(session.n_slots), key=lambda slot: self._reusable(ids, slot))
        n = self._reusable(ids, source)
        if source in parked and (len(parked) == 1 or self._goes_on(source, n)):
            target = source
        elif n < WORTH_COPYING:
            n = 0
        elif target == source:  # where another conversation goes on, perhaps
            target = parked[1]
        if n and target != source:
            session.copy(source, target, n)
        else:
            session.sequences[target].truncate(n)
        room = session.runner.kv_bytes - needed
        self._make_room([slot for slot in parked if not n or slot != target], room)
        self.touch(target)
        return target

    def cached(self, ids: Sequence[int]) -> int:
        """How many of `ids`, from the first, some slot has."""
        return max(sequence.reusable(ids) for sequence in self._session.sequences)

    def touch(self, slot: int) -> None:
        """The slot has just been used."""
        self._clock += 1
        self._last_used[slot] = self._clock

    def _reusable(self, ids: Sequence[int], slot: int) -> int:
        return self._session.sequences[slot].reusable(ids)

    def _goes_on(self, slot: int, n: int) -> bool:
        """Whether `n` tokens are all that a later prompt could have taken from the slot."""
        return n > 0 and n >= self._session.sequences[slot].n_from_prompts - 1

    def _make_room(self, parked: Sequence[int], room: int) -> None:
        """Give back the memory of parked slots, in this order, until the others fit `room`."""
        held = {slot: self._n_bytes(self._touched(slot)) for slot in parked}
        for slot in parked:
            if sum(held.values()) <= room:
                return
            if held.pop(slot):
                self._session.release(slot)

    def _n_bytes(self, n_positions: int) -> int:
        return self._session.runner.graph.sequence_bytes(n_positions)

    def _touched(self, slot: int) -> int:
        return self._session.sequences[slot].n_touched
