"""From prompts to texts: each prompt's own way, and the passes that several share."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linnet.engine.running.session import Progress, Session
from linnet.engine.sampling.params import SamplingParams
from linnet.engine.sampling.samplers import NonFiniteLogits, Sampler
from linnet.engine.text.stopping import StopMatcher
from linnet.engine.text.tokenizer import Tokenizer

Floats = npt.NDArray[np.float32]


@dataclass(slots=True)
class Stats:
    """What a generation took. Seconds are wall-clock, what others took meanwhile included.

    `n_prompt`: tokens of the prompt. `n_cached`: those of them that were in the cache.
    `n_generated`: tokens after it, but for an end token.
    `prompt_seconds`: what the prompt took. `generate_seconds`: from the first token to the last.
    """

    n_prompt: int
    n_cached: int = 0
    n_generated: int = 0
    prompt_seconds: float = 0.0
    generate_seconds: float = 0.0

    @property
    def prompt_rate(self) -> float:
        """Tokens a second of the prompt, but for those cached."""
        n = self.n_prompt - self.n_cached
        return n / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def generate_rate(self) -> float:
        """Tokens a second after the first, whose time is the prompt's."""
        steps = self.n_generated - 1
        return steps / self.generate_seconds if steps > 0 and self.generate_seconds else 0.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a generation: the text that one more token made certain, perhaps none.

    Each has a `text` and a `token_id`, but for the last, which has the rest of the text, and what
    the others have not: a `finish_reason` and the `stats`, as an `Output` has them.
    """

    text: str
    token_id: int | None = None
    finish_reason: str | None = None
    stats: Stats | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A whole generation.

    `text`: what follows the prompt, up to a stop string. `token_ids`: those it took, but for an end
    token. `finish_reason`: "stop" for an end token or a stop string, "length" for max_tokens or a
    full context. `stats`: see `Stats`.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    stats: Stats

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Output:
        """Raises RuntimeError where the last chunk is missing."""
        if not chunks or chunks[-1].finish_reason is None or chunks[-1].stats is None:
            raise RuntimeError("the generation ended without its last chunk")
        token_ids = [chunk.token_id for chunk in chunks if chunk.token_id is not None]
        text = "".join(chunk.text for chunk in chunks)
        return cls(text, token_ids, chunks[-1].finish_reason, chunks[-1].stats)


class Generation:
    """One prompt's way through sampler, detokeniser and stop strings."""

    def __init__(
        self, session: Session, tokenizer: Tokenizer, ids: Sequence[int], params: SamplingParams
    ) -> None:
        """Raises ContextOverflow and ValueError."""
        self.ids = ids = session.check(ids)
        self.token_id = -1  # the latest
        self.stats = Stats(n_prompt=len(ids))
        # The last token of a full context needs no place in the cache, but nothing can follow it.
        room = session.n_ctx - len(ids) + 1
        self._limit = room if params.max_tokens is None else min(params.max_tokens, room)
        self._end_ids = frozenset() if params.ignore_eos else tokenizer.eog_ids
        self._sampler = Sampler(params, session.n_vocab, prompt=ids, eog_ids=tokenizer.eog_ids)
        self._detokenizer = tokenizer.detokenizer(continues=True)
        self._matcher = StopMatcher(params.stop)
        self._started = 0.0

    def prompt(
        self, session: Session, slot: int, owner: object, progress: Progress | None
    ) -> Floats:
        """Begin in a slot; returns the logits of the first token."""
        self.stats.n_cached = session.n_cached(self.ids, slot)
        started = time.perf_counter()
        logits = session.prompt(self.ids, slot=slot, owner=owner, progress=progress)
        self._started = time.perf_counter()
        self.stats.prompt_seconds = self._started - started
        return logits

    def draw(self, logits: Floats) -> list[Chunk]:
        """What a row of logits adds: a token's chunk, and the last one where it ends with that."""
        stats = self.stats
        if stats.n_generated == self._limit:  # at once: for a limit of 0
            return [self._last("length")]
        token_id = self.token_id = self._sampler.sample(finite(logits))
        if token_id in self._end_ids:
            return [self._last("stop")]
        self._sampler.accept(token_id)
        stats.n_generated += 1
        stats.generate_seconds = time.perf_counter() - self._started
        chunk = Chunk(self._matcher.push(self._detokenizer.push(token_id)), token_id)
        if stats.n_generated < self._limit and self._matcher.matched is None:
            return [chunk]
        return [chunk, self._last("length")]

    def _last(self, finish_reason: str) -> Chunk:
        rest = self._matcher.push(self._detokenizer.finish()) + self._matcher.finish()
        if self._matcher.matched is not None:
            finish_reason = "stop"
        return Chunk(rest, finish_reason=finish_reason, stats=self.stats)


def generate(
    session: Session, generations: Sequence[Generation], progress: Progress | None = None
) -> Iterator[tuple[int, Chunk]]:
    """The chunks of all generations as they are made, each with its generation's index.

    As many as the session has slots go on together, a token of each in every pass over the weights;
    when one ends, the next prompt takes its slot:

        while a prompt waits or a generation runs:
            if a slot is free:  logits of one prompt
            else:               logits of one more token of each that runs
            draw a token from each row
    """
    owner = object()
    waiting = deque(enumerate(generations))
    running: dict[int, tuple[int, Generation]] = {}  # by slot
    free = list(range(min(session.n_slots, len(generations))))
    while waiting or running:
        if waiting and free:
            index, generation = waiting.popleft()
            slot = _best_slot(session, free, generation.ids)
            free.remove(slot)
            running[slot] = index, generation
            rows = {slot: generation.prompt(session, slot, owner, progress)}
        else:
            tokens = {slot: generation.token_id for slot, (_, generation) in running.items()}
            rows = dict(zip(tokens, session.extend_each(tokens, owner=owner), strict=True))
        for slot, row in rows.items():
            index, generation = running[slot]
            for chunk in generation.draw(row):
                session.check_owner(owner)  # what was sampled from were our logits to the end
                if chunk.finish_reason is not None:
                    del running[slot]
                    free.append(slot)
                yield index, chunk


def _best_slot(session: Session, free: Sequence[int], ids: Sequence[int]) -> int:
    """The first of those that have most of a prompt cached."""
    return max(free, key=lambda slot: session.n_cached(ids, slot))


def finite(logits: Floats) -> Floats:
    """The same logits. Raises NonFiniteLogits where one is NaN or infinite."""
    for extreme in (logits.min(), logits.max()):  # of NaN and numbers, both are NaN
        if not math.isfinite(extreme):
            raise NonFiniteLogits(f"the model's logits are not all finite: {extreme} is among them")
    return logits
