"""What a generation's samplers remember from token to token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from linnet.engine.sampling.params import SamplingParams

# Of a token, by id: the ids that complete a sequence breaker after it, see `breaker_tails`.
Tails: TypeAlias = Callable[[int], Sequence[tuple[int, ...]]]


@dataclass(slots=True)
class History:
    """The tokens so far, and what is drawn next depends on. Samplers read it; the random numbers
    and `mu` move on as they draw. To append a token takes the same time however many there are.
    """

    random: np.random.Generator
    n_counted: int  # of how many tokens, the latest, there are counts; -1: of all
    tails: Tails  # of DRY's sequence breakers
    mu: float  # Mirostat: the most bits of surprise that a token may have
    ids: list[int] = field(default_factory=list)  # in order, those of the prompt first
    counts: Counter[int] = field(default_factory=Counter)  # by token id; none is 0

    @classmethod
    def of(cls, params: SamplingParams, tails: Tails) -> History:
        """Without any tokens. Mirostat starts at twice the surprise that it aims for."""
        random = np.random.Generator(np.random.PCG64(params.seed))
        return cls(random, params.repeat_last_n, tails, mu=2 * params.mirostat_tau)

    def append(self, token_id: int) -> None:
        """Take `token_id` for the latest token."""
        self.ids.append(token_id)
        self.counts[token_id] += 1
        if 0 <= self.n_counted < len(self.ids):
            oldest = self.ids[-self.n_counted - 1]
            self.counts[oldest] -= 1
            if not self.counts[oldest]:
                del self.counts[oldest]
