"""One request: from a prompt to events, through sampler, detokeniser and stop strings."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from linnet.engine.chat.formats.parts import Part, ToolCall, joined
from linnet.engine.running.finite import checked
from linnet.engine.running.sequence import CachedSequence
from linnet.engine.sampling.chain import Sampler
from linnet.engine.sampling.constraint import Rule
from linnet.engine.sampling.logits import Logits
from linnet.engine.sampling.logprobs import TokenLogprob
from linnet.engine.sampling.params import SamplingParams
from linnet.engine.text.stopping import StoppingDetokenizer
from linnet.engine.text.tokenizer import Tokenizer
from linnet.kernels.runtime.team import Interrupted


@dataclass(slots=True)
class Stats:
    """What a generation took. Seconds are wall-clock, what others took meanwhile included.

    `n_prompt`: tokens of the prompt. `n_cached`: those of them that were in the cache.
    `n_generated`: tokens after it, but for an end token.
    `prompt_seconds`: what the prompt took. `generate_seconds`: from the first token to the last.
    `queue_seconds`: how long it waited before its prompt began.
    `n_drafts`: passes that tried drafts of it, and with them `n_drafted` tokens, of which
    `n_accepted` were what was drawn.
    """

    n_prompt: int
    n_cached: int = 0
    n_generated: int = 0
    prompt_seconds: float = 0.0
    generate_seconds: float = 0.0
    queue_seconds: float = 0.0
    n_drafts: int = 0
    n_drafted: int = 0
    n_accepted: int = 0

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

    @property
    def pass_rate(self) -> float:
        """Passes a second after the first token, each of which may bring several."""
        n = self.n_generated - 1 - self.n_accepted
        return n / self.generate_seconds if n > 0 and self.generate_seconds else 0.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a generation: the text that one more token made certain, perhaps none.

    Each has a `text` and a `token_id`, but for the last, which has the rest of the text, and what
    the others have not: a `finish_reason`, the `stats` and, where they were asked for, the
    `prompt_logprobs`, as an `Output` has them. `logprobs`: the token's, where they were asked for;
    the last chunk's are those of the end token, if one ended the text. In a chat, `part` is what
    has become certain of reasoning, content and tool calls.
    """

    text: str
    token_id: int | None = None
    finish_reason: str | None = None
    stats: Stats | None = None
    part: Part | None = None
    logprobs: TokenLogprob | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A whole generation.

    `text`: what follows the prompt, up to a stop string. `token_ids`: those it took, but for an end
    token. `finish_reason`: "stop" for an end token or a stop string, "length" for max_tokens or a
    full context. `stats`: see `Stats`. `logprobs`: where they were asked for, of each of
    `token_ids`; None, too, where there are none. `prompt_logprobs`: the same of each token of the
    prompt, None for the first.

    Of a chat, the same by what it is: `reasoning`, None without any; `content`, the answer itself;
    `tool_calls`, dicts {"type": "function", "function": {"name", "arguments"}}. They are read by
    the markers that the chat template knows (`linnet.engine.chat.formats`); without any, all is
    content. Of other prompts None, None and [].
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    stats: Stats
    reasoning: str | None = None
    content: str | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Output:
        """Raises RuntimeError where the last chunk is missing."""
        last = chunks[-1] if chunks else Chunk("")
        if last.finish_reason is None or last.stats is None:
            raise RuntimeError("the generation ended without its last chunk")
        token_ids = [chunk.token_id for chunk in chunks if chunk.token_id is not None]
        text = "".join(chunk.text for chunk in chunks)
        parts = [chunk.part for chunk in chunks if chunk.part is not None]
        said = joined(parts)
        logprobs = [chunk.logprobs for chunk in chunks[:-1] if chunk.logprobs is not None]
        return cls(
            text, token_ids, last.finish_reason, last.stats, said.reasoning or None,
            said.content if parts else None, [*said.tool_calls], logprobs or None,
            last.prompt_logprobs,
        )  # fmt: skip

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, to be put back into a conversation."""
        content = self.text if self.content is None else self.content
        return Part(self.reasoning or "", content, tuple(self.tool_calls)).message


class PromptProgress(NamedTuple):
    """So many of the prompt's tokens have their keys and values."""

    n_done: int
    n_tokens: int


Event = Chunk | PromptProgress | Exception


def is_last(event: Event) -> bool:
    """Whether nothing of its generation follows: its last chunk, or an error."""
    return isinstance(event, Exception) or (
        isinstance(event, Chunk) and event.finish_reason is not None
    )


class Generation:
    """A prompt on its way: the ids so far, what was drawn from their logits, and what to tell.

    `ids`: prompt and generated tokens. `params`: what is wanted. `sequence`: the slot with their
    keys and values, None while it waits. `events`: what its reader has not taken yet. `over`:
    nothing follows those.
    """

    def __init__(
        self, ids: Sequence[int], params: SamplingParams, tokenizer: Tokenizer, *, n_ctx: int,
        n_vocab: int, constraint: Rule | None = None,
    ) -> None:  # fmt: skip
        """`ids`: checked ones, at most `n_ctx`. `constraint`: what tokens may come; the text ends
        where it is over. Raises ValueError."""
        self.ids, self.stats = list(ids), Stats(n_prompt=len(ids))
        self.sequence: CachedSequence | None = None
        self.events: deque[Event] = deque()
        self.over = False
        self.turn = 0  # the last one it had, where not all that decode fit a pass
        # The last token of a full context needs no place in the cache, but nothing can follow it.
        room = n_ctx - len(ids) + 1
        self._limit = room if params.max_tokens is None else min(params.max_tokens, room)
        self._end_ids = frozenset() if params.ignore_eos else tokenizer.eog_ids
        self._end_ids |= frozenset(params.stop_token_ids)
        self.params = params
        self._prompt_logprobs: list[TokenLogprob | None] = [None]
        self._sampler = Sampler(
            params, n_vocab, prompt=ids, eog_ids=tokenizer.eog_ids, tokenizer=tokenizer,
            constraint=constraint,
        )  # fmt: skip
        self._constraint = constraint
        self._text = StoppingDetokenizer(tokenizer, params.stop, skip_special=params.skip_special)
        self._arrived = time.perf_counter()
        self._begun = self._started = 0.0  # its prompt; its first token

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended it."""
        return self._text.matched

    @property
    def n_positions(self) -> int:
        """How many positions of the cache it may come to fill."""
        return self.stats.n_prompt + max(0, self._limit - 1)

    @property
    def n_left(self) -> int:
        """How many more tokens it may come to have."""
        return self._limit - self.stats.n_generated

    def forced(self) -> list[int]:
        """Tokens that likely come next: see `Rule.forced`."""
        return [] if self._constraint is None else self._constraint.forced()

    def begin(self, sequence: CachedSequence) -> None:
        """Take a slot, which holds a beginning of `ids`; again, perhaps, after losing one."""
        if not self._begun:
            self._begun = time.perf_counter()
            self.stats.queue_seconds = self._begun - self._arrived
            self.stats.n_cached = len(sequence.ids)
            self.events.append(PromptProgress(self.stats.n_cached, self.stats.n_prompt))
        self.sequence = sequence

    def pending(self, sequence: CachedSequence) -> list[int]:
        """The tokens that its slot's sequence lacks, in order. Those of the prompt go first, and
        alone: generated ones take other passes. Never none: logits of the last one are wanted."""
        if len(sequence.ids) >= len(self.ids):  # and have been lost, as where Ctrl-C came between
            _forget(sequence, len(self.ids) - 1)
        n_prompt = self.stats.n_prompt
        if self.scores_prompt:
            self._go_back(sequence)
            n_prompt -= 1  # the last one says nothing of the prompt, and has logits of its own
        end = n_prompt if len(sequence.ids) < n_prompt else len(self.ids)
        return self.ids[len(sequence.ids) : end]

    def prompt_advanced(self, n_done: int) -> None:
        """Tell how many tokens of the prompt are done, unless it is one of an earlier slot."""
        if not self.stats.n_generated:
            self.stats.prompt_seconds = time.perf_counter() - self._begun
            self.events.append(PromptProgress(n_done, self.stats.n_prompt))

    @property
    def prompt_logprobs(self) -> list[TokenLogprob | None] | None:
        """Of the prompt's tokens, where they were asked for: all of them once there is a chunk."""
        return None if self.params.prompt_logprobs is None else self._prompt_logprobs

    @property
    def prefix(self) -> list[int]:
        """The ids of which all but the last may come from the cache: none that is to be scored."""
        return self.ids[: len(self._prompt_logprobs)] if self.scores_prompt else self.ids

    @property
    def scores_prompt(self) -> bool:
        """Whether logits of the prompt's tokens are wanted, of each that `pending` gives."""
        is_wanted = self.params.prompt_logprobs is not None
        return is_wanted and len(self._prompt_logprobs) < self.stats.n_prompt

    def score(self, rows: Sequence[Logits]) -> None:
        """Take the logits of the tokens that were pending, each of which tells of the next.

        Raises NonFiniteLogits.
        """
        n_top = self.params.prompt_logprobs
        for logits in rows:
            token_id = self.ids[len(self._prompt_logprobs)]
            logprob = TokenLogprob.of(checked(logits), token_id, n_top or 0)
            self._prompt_logprobs.append(logprob)

    def _go_back(self, sequence: CachedSequence) -> None:
        """Have the slot hold no more of the prompt than is scored, and no more scored than that."""
        _forget(sequence, len(self._prompt_logprobs) - 1)
        del self._prompt_logprobs[len(sequence.ids) + 1 :]

    def draw_each(self, rows: Sequence[Logits], drafts: Sequence[int]) -> None:
        """Draw a token from the first row, and from the next while what was drawn is the draft that
        it goes on from. The slot is left with what it would hold without drafts.

        `drafts`: one for each row after the first. Raises what `draw` raises.
        """
        stats, n_known = self.stats, len(self.ids)
        stats.n_drafts += bool(drafts)
        stats.n_drafted += len(drafts)
        try:
            for logits, draft in zip(rows, [*drafts, None], strict=True):
                self.draw(logits)
                if self.over or self.ids[-1] != draft:
                    break
                stats.n_accepted += 1
                n_known += 1
        finally:
            if self.sequence:
                _forget(self.sequence, n_known)

    def draw(self, logits: Logits) -> None:
        """Draw a token from the last one's logits, and tell what it adds.

        Raises NonFiniteLogits and what samplers raise.
        """
        stats, now = self.stats, time.perf_counter()
        if not self._started:
            self._started, stats.prompt_seconds = now, now - self._begun
        if stats.n_generated == self._limit:  # at once: for a limit of 0
            return self._end("length")
        token_id = self._sampler.sample(checked(logits))
        n_top, logprobs = self.params.logprobs, None
        if n_top is not None:
            logprobs = TokenLogprob.of(logits, token_id, n_top)
        if token_id in self._end_ids:
            return self._end("stop", logprobs)
        self._sampler.choose(token_id)
        self.ids.append(token_id)
        stats.n_generated += 1
        stats.generate_seconds = time.perf_counter() - self._started
        self.events.append(Chunk(self._text.push(token_id), token_id, logprobs=logprobs))
        if self._constraint is not None and self._constraint.is_over:
            self._end("stop")
        elif stats.n_generated == self._limit or self._text.matched:
            self._end("length")
        return None

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.over = True
        self.events.append(error)

    def cancel(self) -> None:
        """End without its rest, from any thread; whoever still reads is told Interrupted."""
        if not self.over:
            self.fail(Interrupted("the generation was stopped"))

    def _end(self, finish_reason: str, logprobs: TokenLogprob | None = None) -> None:
        rest = self._text.finish()
        if self._text.matched:
            finish_reason = "stop"
        self.over = True
        self.events.append(
            Chunk(
                rest, finish_reason=finish_reason, stats=self.stats, logprobs=logprobs,
                prompt_logprobs=self.prompt_logprobs,
            )
        )  # fmt: skip


def _forget(sequence: CachedSequence, n: int) -> None:
    """All that a slot holds beyond `n` tokens, or all where it cannot go on there."""
    if len(sequence.ids) > n:
        sequence.truncate(n if sequence.can_go_on_at(n) else 0)
