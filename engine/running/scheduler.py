"""The only loop: requests of all callers become passes over the weights, one after another.

    a step:
        drop what was cancelled; give slots to requests that wait
        if prompts are left, and nobody decodes or decoding has had its share of time:
            a pass over parts of prompts, bounded in time where somebody decodes
        else:
            a pass over one more token of each request that decodes, and drafts of what may follow
        draw a token from each row of logits, of those of drafts while they are right

There is no thread of its own: a caller that waits for its next event runs the next step, for all
requests. So one caller alone pays for no hand-over between threads, a request whose reader has left
costs nothing, and there is nothing to end when a process exits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

from linnet.engine.running.batch import Part
from linnet.engine.running.drafts import Drafts
from linnet.engine.running.generation import Event, Generation, is_last
from linnet.engine.running.idle import Idle
from linnet.engine.running.lead import Caller, Lead
from linnet.engine.running.policy import PromptPasses, shares
from linnet.engine.running.prefixes import WORTH_COPYING, Prefixes
from linnet.engine.running.prompt_cache import PromptCache
from linnet.engine.running.sequence import CachedSequence
from linnet.engine.running.session import Session
from linnet.engine.sampling.logits import Logits
from linnet.kernels.ops.base import MOST_FEW_ROWS
from linnet.kernels.runtime.team import Interrupted

AHEAD = 16  # events of a request that nobody has taken yet, and with which it rests
OnPass = Callable[[int, float, bool], object]  # is told tokens, seconds, whether of prompts


class Scheduler:
    """Runs generations in the slots of a session, up to `n_parallel` at a time.

    From any thread: `submit`, `cancel`, `stop`, `events`. `step` and `idle_step` are for one at a
    time, as `events` and `alone` see to. `stored`: prefixes on disk, if they are kept there.
    `drafts`: guesses of tokens, if passes are to try some; not where layers carry a state.
    """

    def __init__(
        self, session: Session, *, n_parallel: int = MOST_FEW_ROWS,
        stored: PromptCache | None = None, drafts: Drafts | None = None,
    ) -> None:  # fmt: skip
        self.session, self.n_parallel = session, min(n_parallel, session.n_slots)
        self.n_preempted = 0  # slots taken from requests that nobody read
        self.on_pass: OnPass = lambda n_tokens, seconds, is_prompt: None
        self.prefixes = Prefixes(session, stored)
        self._idle, self._idling = Idle(session, self.prefixes), False
        self._requests: list[Generation] = []  # unfinished ones, oldest first
        self._prompt_passes = PromptPasses(session.n_batch)
        self.drafts = drafts
        self._turn = 0  # the latest that was given to a request
        self._lead = Lead()
        self._in_pass: Sequence[_Turn] = ()

    # -- for callers --------------------------------------------------------------------------
    @property
    def requests(self) -> list[Generation]:
        """Those that are not over, oldest first; those that run have a sequence."""
        return [generation for generation in list(self._requests) if not generation.over]

    def submit(self, generations: Sequence[Generation]) -> None:
        """Have them run. Compiles what passes over so many requests take that is not there yet, in
        the caller's thread, so that no pass of the others waits for it.

        Raises ValueError for one that the budget of memory (kv_tokens) could never hold,
        RuntimeError once the session is closed, or in a forked process, and CompileError.
        """
        self.session.lease.check()
        for generation in generations:
            self.prefixes.check(generation.n_positions)
        n = min(MOST_FEW_ROWS, self.n_parallel, len(self._requests) + len(generations))
        self.session.runner.prepare(n)
        self._requests.extend(generations)
        if self._idling:
            self.session.stop()

    def cancel(self, generation: Generation) -> None:
        """End one that is not over. A pass that nobody wants any more ends at once; one that it
        shares goes on for the others."""
        generation.cancel()
        turns = self._in_pass
        if turns and all(turn.generation.over for turn in turns):
            self.session.stop()

    def stop(self) -> None:
        """End all that were submitted, and the pass under way."""
        for generation in list(self._requests):
            generation.cancel()
        if self._lead.leader:
            self.session.stop()

    def fail(self, error: Exception) -> None:
        """End all that were submitted with an error."""
        for generation in list(self._requests):
            if not generation.over:
                generation.fail(error)

    def events(self, generations: Sequence[Generation]) -> Iterator[tuple[int, Event]]:
        """Submit them, and give their events as they come, with each one's index.

        What is left of them when the iterator is closed, or fails, is cancelled. Raises what
        `submit` raises, and where a step fails what it raises.
        """
        waiting = deque(enumerate(generations))
        left: dict[int, Generation] = {}
        caller = Caller()
        try:
            while waiting or left:
                if waiting and len(left) <= self.n_parallel:  # as many again wait for their turn
                    n = min(len(waiting), self.n_parallel)
                    some = dict(waiting.popleft() for _ in range(n))
                    left |= some
                    self.submit(list(some.values()))
                self._wait(caller, left.values())
                for index, generation in list(left.items()):
                    while generation.events:
                        event = generation.events.popleft()
                        if is_last(event):
                            left.pop(index, None)
                        yield index, event
        finally:
            for generation in generations:
                self.cancel(generation)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all others from running steps meanwhile."""
        caller = Caller()
        try:
            while not self._lead.take(caller):
                self._lead.rest(caller)
            yield
        finally:
            self._lead.callers.pop(caller, None)
            self._lead.wake()

    def turn(self, caller: Caller, *, all_day: bool = False) -> bool:
        """Run a step, or an idle one, unless somebody else does; False where nothing was done."""
        leads = False
        try:
            leads = self._lead.take(caller)
            return leads and (self.step(brief=all_day) or (all_day and self.idle_step()))
        finally:
            self._lead.callers.pop(caller, None)
            if leads:
                self._lead.wake()

    def rest(self, caller: Caller) -> bool:
        """Until a step of somebody else is over, or a while has passed; False where none is."""
        return self._lead.rest(caller)

    def _wait(self, caller: Caller, generations: Collection[Generation]) -> None:
        """Until one of them has an event: run steps, or wait for the one who does.

        Ctrl-C may come between any two instructions here, and leaves no leader behind.
        """
        while not any(generation.events for generation in generations):
            if not self.turn(caller):
                self._lead.rest(caller)

    # -- a step ---------------------------------------------------------------------------------
    def step(self, *, brief: bool = False) -> bool:
        """A pass at the most; False where there is nothing to do. `brief`: one over prompts leaves
        off after a moment, as others may come meanwhile."""
        waiting: list[Generation] = []
        prompts: list[_Turn] = []
        decoding: list[_Turn] = []
        for generation in list(self._requests):
            if generation.over:
                self._requests.remove(generation)
            elif len(generation.events) < AHEAD:
                if (sequence := generation.sequence) is None:
                    waiting.append(generation)
                else:
                    ids = generation.pending(sequence)
                    in_prompt = len(sequence.ids) < generation.stats.n_prompt
                    (prompts if in_prompt else decoding).append(_Turn(generation, sequence, ids))
        has_room = len(prompts) + len(decoding) < self.n_parallel  # or could take it from who rests
        if waiting and has_room and self._admit(waiting):
            return True  # whoever waits is told of its beginning before its first pass
        try:
            if prompts and (not decoding or self._prompt_passes.due):
                self._prompt_pass(prompts, len(decoding), brief=brief)
            elif decoding:
                self._decode_pass(decoding)
        except Interrupted:  # stopped: nothing was drawn, and who was meant has been cancelled
            return True
        return bool(prompts or decoding)

    def idle_step(self) -> bool:
        """What pays later, where `step` had nothing to do: see `Idle`. A pass at the most, which
        ends once a request is submitted; False where nothing is left. For whoever runs steps all
        day: callers of `events` do not pay for it."""
        self._idling = True
        try:
            return not self.requests and self._idle.step(lambda: bool(self.requests))
        except Interrupted:
            return True
        finally:
            self._idling = False

    def close(self) -> None:
        """Have prefixes that are worth it written to disk, where they are kept there."""
        if self.prefixes.stored is not None and self.session.lease.is_open:
            with self.alone():
                self._idle.close()

    def running(self) -> dict[int, int]:
        """The slots in use, and how many positions each may come to fill."""
        return {g.sequence.slot: g.n_positions for g in self._requests if g.sequence}

    def _admit(self, waiting: Sequence[Generation]) -> bool:
        """Give slots to requests that wait, in order, while there are some; whether any began."""
        began = False
        for generation in waiting:
            if self._is_coming(generation):
                continue
            slot = None
            while slot is None:
                running = self.running()
                if len(running) < self.n_parallel:
                    slot = self.prefixes.take(generation.prefix, generation.n_positions, running)
                if slot is None and not self._preempt():
                    return began
            generation.begin(self.session.sequences[slot])
            began = True
        return began

    def _is_coming(self, generation: Generation) -> bool:
        """Whether a prompt under way will hold more of this one's tokens than any slot does yet: so
        requests with a beginning in common compute it once."""
        coming = [
            other.sequence.will_reuse(other.ids[: other.stats.n_prompt], generation.prefix)
            for other in self._requests
            if other.sequence is not None
            and len(other.sequence.ids) < other.stats.n_prompt
            and len(other.events) < AHEAD  # or it rests
        ]
        more = max(coming, default=0) - WORTH_COPYING
        return more >= 0 and more >= self.prefixes.cached(generation.prefix)

    def _preempt(self) -> bool:
        """Take its slot from a request that nobody reads. It goes on in another one later: its
        prompt as a prompt, what was generated in passes of its kind, so to the same bits."""
        for generation in self._requests:
            if generation.sequence and len(generation.events) >= AHEAD:
                self.prefixes.touch(generation.sequence.slot)
                generation.sequence = None
                self.n_preempted += 1
                return True
        return False

    def _prompt_pass(self, prompts: Sequence[_Turn], n_decoding: int, *, brief: bool) -> None:
        """Of the prompts that come first, or of the first where logits of all its tokens are
        wanted: the kernels for those are others."""
        most, scores = self.session.n_batch, prompts[0].generation.scores_prompt
        prompts = prompts[:1] if scores else [t for t in prompts if not t.generation.scores_prompt]
        if scores:
            most = min(most, self.session.runner.n_outputs)
        if n_decoding:
            most = min(most, self._prompt_passes.beside.tokens)
        elif brief:
            most = min(most, self._prompt_passes.alone.tokens)
        prompts = prompts[:MOST_FEW_ROWS]
        taken = shares([len(turn.ids) for turn in prompts], most)
        cut = [t._replace(ids=t.ids[:n]) for t, n in zip(prompts, taken, strict=True) if n]
        seconds = self._run(cut, few=False, scores=scores)
        self._prompt_passes.ran(sum(taken), seconds, len(prompts), n_decoding)

    def _decode_pass(self, decoding: list[_Turn]) -> None:
        n_rows = sum(len(turn.ids) for turn in decoding)
        if n_rows > MOST_FEW_ROWS:
            decoding = self._next_rows(decoding)
        elif self.drafts:
            found = self.drafts.of([turn.generation for turn in decoding], n_rows)
            decoding = [t._replace(drafts=found.get(t.generation, ())) for t in decoding]
        self._prompt_passes.decoded(self._run(decoding, few=True))

    def _next_rows(self, decoding: Sequence[_Turn]) -> list[_Turn]:
        """As many tokens as a pass has room for, of those whose last turn is longest ago."""
        turns, room = [], MOST_FEW_ROWS
        for turn in sorted(decoding, key=lambda turn: turn.generation.turn):
            if room:
                turn.generation.turn = self._turn = self._turn + 1
                turns.append(turn._replace(ids=turn.ids[:room]))
                room -= len(turns[-1].ids)
        return turns

    def _run(self, turns: Sequence[_Turn], *, few: bool, scores: bool = False) -> float:
        """A pass, whose seconds are returned; a token is drawn for each whose last one is among its
        tokens. `scores`: logits of all its tokens are wanted instead."""
        started, parts = time.perf_counter(), []
        for generation, sequence, ids, drafts in turns:
            n_outputs = int(len(sequence.ids) + len(ids) == len(generation.ids)) + len(drafts)
            parts.append(Part(sequence.slot, [*ids, *drafts], len(ids) if scores else n_outputs))
        try:
            self._in_pass = turns
            rows = iter(self.session.run(parts, few=few, few_outputs=not scores))
        finally:
            self._in_pass = ()
        for turn, part in zip(turns, parts, strict=True):
            if not few:
                turn.generation.prompt_advanced(len(turn.sequence.ids))
            if part.n_outputs:
                self._take(turn, [*islice(rows, part.n_outputs)], scores=scores)
        seconds, n_tokens = time.perf_counter() - started, sum(len(part.ids) for part in parts)
        if few and self.drafts:
            self.drafts.ran(n_tokens, seconds)
        self.on_pass(n_tokens, seconds, not few)
        return seconds

    def _take(self, turn: _Turn, rows: Sequence[Logits], *, scores: bool) -> None:
        """An error of its sampler ends a request, and no other."""
        generation = turn.generation
        try:
            if scores:
                generation.score(rows)
            else:
                generation.draw_each(rows, turn.drafts)
        except Exception as error:
            generation.fail(error)
        except BaseException:  # Ctrl-C in the middle of it
            generation.cancel()
            raise
        if generation.over and generation.sequence:
            self.prefixes.touch(generation.sequence.slot)
            self._idle.ended(generation)


class _Turn(NamedTuple):
    """What a request would have the next pass do: the tokens its sequence lacks, and perhaps
    guesses of those that follow."""

    generation: Generation
    sequence: CachedSequence
    ids: list[int]
    drafts: Sequence[int] = ()
