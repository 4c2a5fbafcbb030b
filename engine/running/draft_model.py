"""Drafts from a smaller model with the same vocabulary (arXiv:2211.17192)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from linnet.engine.running.batch import Part
from linnet.engine.running.drafts import FORGET, MEMORY, Guess, Rate
from linnet.engine.running.generation import Generation
from linnet.engine.running.policy import FEWEST, GAP, PassSize
from linnet.engine.running.sequence import CachedSequence, n_common
from linnet.engine.running.session import Session
from linnet.kernels.ops.base import MOST_FEW_ROWS

FIRST_RATE = 0.7  # until there is experience


@dataclass(slots=True)
class _Drafted:
    """A generation and what the model holds of it."""

    sequence: CachedSequence
    n_known: int = 0  # tokens of the sequence that are known to be the generation's
    rate: Rate = field(default_factory=lambda: Rate(FIRST_RATE))
    guess: Guess | None = None


class DraftModel:
    """Guesses the likeliest tokens, one after another, of all generations in the same passes.

    Each has a slot while it goes on, the one that holds most of its tokens; it gets none, and no
    drafts, where all are in use. What the slot lacks of a prompt is computed first, a part in front
    of each pass, as long as is bearable for the others. The bits of these passes are in no result.
    """

    def __init__(self, session: Session, *, n_parallel: int, close: Callable[[], object]) -> None:
        """`close`: to be called at the end."""
        runner = session.runner
        n_slots = min(n_parallel, session.n_slots, runner.kv_bytes // runner.graph.slot_bytes)
        self._session, self._close = session, close
        self._free = session.sequences[: max(1, n_slots)]
        self._drafted: dict[Generation, _Drafted] = {}  # at most one a slot
        self._prompt_pass = PassSize(FEWEST, session.n_batch)
        self.seconds = 0.0

    def close(self) -> None:
        self._close()

    def rates(self, generations: Sequence[Generation]) -> list[float]:
        return [self._rate(generation) for generation in generations]

    def _rate(self, generation: Generation) -> float:
        drafted = self._drafted.get(generation) or self._begin(generation)
        if drafted is None or len(generation.ids) + MOST_FEW_ROWS > self._session.n_ctx:
            return 0.0
        if drafted.guess:
            drafted.guess.check(generation.ids)
            drafted.guess = None
        else:
            drafted.rate.value += (FIRST_RATE - drafted.rate.value) * FORGET
            self.seconds -= self.seconds * FORGET
        return drafted.rate.value

    def _begin(self, generation: Generation) -> _Drafted | None:
        """Give it a slot, if there is one."""
        for other, drafted in list(self._drafted.items()):
            if other.over:
                self._free.append(drafted.sequence)
                del self._drafted[other]
        if not self._free:
            return None
        best = max(self._free, key=lambda sequence: n_common(sequence.ids, generation.ids))
        self._free.remove(best)
        return self._drafted.setdefault(generation, _Drafted(best))

    def draft(self, lengths: Mapping[Generation, int]) -> dict[Generation, list[int]]:
        lacking = {generation: self._lacking(generation) for generation in lengths}
        for generation, ids in lacking.items():
            if len(ids) > MOST_FEW_ROWS:
                self._read(generation, ids)
                return {}
        drafts: dict[Generation, list[int]] = {}
        room = MOST_FEW_ROWS
        for generation, ids in lacking.items():
            if len(ids) <= room:
                drafts[generation] = []
                room -= len(ids)
        started, n = self._clock(), 0
        while going := [each for each, ids in drafts.items() if len(ids) < lengths[each]]:
            parts = [
                Part(self._drafted[each].sequence.slot, drafts[each][-1:] or lacking[each])
                for each in going
            ]
            for each, logits in zip(going, self._session.run(parts, few=True), strict=True):
                drafts[each].append(int(logits.values.argmax()))
            n += 1
        seconds = (self._clock() - started) / n
        self.seconds += (seconds - self.seconds) / (MEMORY if self.seconds else 1)
        for generation, ids in drafts.items():
            drafted = self._drafted[generation]
            drafted.guess = Guess(len(generation.ids), ids, drafted.rate)
        return drafts

    def _lacking(self, generation: Generation) -> list[int]:
        """The tokens that its slot lacks; what it holds of others, as drafts that were wrong, is
        forgotten. Never none: logits of the last one are wanted."""
        drafted, ids = self._drafted[generation], generation.ids
        held, known = drafted.sequence, min(drafted.n_known, len(drafted.sequence.ids))
        n = min(known + n_common(held.ids[known:], ids[known:]), len(ids) - 1)
        if n < len(held.ids):
            self._session.truncate(held.slot, n if held.can_go_on_at(n) else 0)
        drafted.n_known = len(held.ids)
        return ids[drafted.n_known :]

    def _read(self, generation: Generation, ids: Sequence[int]) -> None:
        """Compute a part of a prompt."""
        part = ids[: self._prompt_pass.tokens]
        started = self._clock()
        slot = self._drafted[generation].sequence.slot
        self._session.run([Part(slot, part, 0)], few=False)
        self._prompt_pass.ran(len(part), self._clock() - started, GAP)

    def _clock(self) -> float:
        """Seconds, without those of compiling, which is done once."""
        return time.perf_counter() - self._session.runner.library.compile_seconds


def check_vocabulary(ours: Sequence[str], theirs: Sequence[str], name: str) -> None:
    """Raise ValueError where a draft model's tokens are not those of the model of that name."""
    if len(ours) != len(theirs):
        found = f"the vocabulary has {len(ours)} tokens, and {name!r} {len(theirs)}"
        raise ValueError(f"{found}; a draft model must have the same")
    for token_id, pair in enumerate(zip(ours, theirs, strict=True)):
        if pair[0] != pair[1]:
            found = f"token {token_id} is {pair[0]!r}, and in {name!r} {pair[1]!r}"
            raise ValueError(f"{found}; a draft model must have the same vocabulary")
