"""What a server counts: plain numbers, of requests since it began.

Names and buckets are vLLM's, so that what is drawn for one can be drawn for the other.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from linnet.engine.running.generation import Chunk, Generation, PromptProgress

REASONS = "stop", "length", "abort", "error"
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40,
    80, 160, 640, 2560,
)  # fmt: skip
NEXT_TOKEN = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
REQUEST = (
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
)  # fmt: skip
TOKENS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
PASS_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
PASS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Histogram:
    """How many numbers were at most each of some bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.total = 0.0
        self._counts = [0] * (len(bounds) + 1)  # the last: beyond all bounds

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def cumulative(self) -> list[int]:
        """Up to each bound, and at last all."""
        return [*accumulate(self._counts)]


@dataclass
class Metrics:
    """`finished`: requests by how they ended: "stop", "length", "abort" where the client went,
    "error". `answered`: HTTP requests by route, "" for none, and status. Times in seconds."""

    finished: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    embedded_tokens: int = 0
    generated_tokens: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    first_token: Histogram = field(default_factory=lambda: Histogram(FIRST_TOKEN))
    next_token: Histogram = field(default_factory=lambda: Histogram(NEXT_TOKEN))
    whole: Histogram = field(default_factory=lambda: Histogram(REQUEST))
    queued: Histogram = field(default_factory=lambda: Histogram(REQUEST))
    prompts: Histogram = field(default_factory=lambda: Histogram(TOKENS))
    answers: Histogram = field(default_factory=lambda: Histogram(TOKENS))
    pass_tokens: Histogram = field(default_factory=lambda: Histogram(PASS_TOKENS))
    passes: dict[str, Histogram] = field(
        default_factory=lambda: {kind: Histogram(PASS) for kind in ("prompt", "decode")}
    )

    def passed(self, n_tokens: int, seconds: float, is_prompt: bool) -> None:
        """The scheduler has run a pass."""
        self.pass_tokens.observe(n_tokens)
        self.passes["prompt" if is_prompt else "decode"].observe(seconds)


class Watch:
    """One generation, from when it is asked for."""

    def __init__(self, metrics: Metrics, generation: Generation) -> None:
        self._metrics, self._generation = metrics, generation
        self._began = self._latest = time.perf_counter()
        self._has_begun = self._is_over = False

    def saw(self, event: Chunk | PromptProgress) -> None:
        """An event of it."""
        if isinstance(event, PromptProgress):
            return
        if event.token_id is not None:
            now, metrics = time.perf_counter(), self._metrics
            histogram = metrics.next_token if self._has_begun else metrics.first_token
            histogram.observe(now - self._latest)
            self._latest, self._has_begun = now, True
        if event.finish_reason is not None:
            self.end(event.finish_reason)

    def end(self, reason: str) -> None:
        """Nothing more comes of it; `reason`: where it did not come to its own end."""
        if self._is_over:
            return
        self._is_over = True
        metrics, stats = self._metrics, self._generation.stats
        metrics.finished[reason] += 1
        metrics.whole.observe(time.perf_counter() - self._began)
        metrics.queued.observe(stats.queue_seconds)
        metrics.prompts.observe(stats.n_prompt)
        metrics.answers.observe(stats.n_generated)
        metrics.prompt_tokens += stats.n_prompt
        metrics.cached_tokens += stats.n_cached
        metrics.generated_tokens += stats.n_generated
        metrics.drafts += stats.n_drafts
        metrics.draft_tokens += stats.n_drafted
        metrics.accepted_tokens += stats.n_accepted
