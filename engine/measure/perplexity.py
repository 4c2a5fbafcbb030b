"""How well a model predicts a text: its perplexity, in windows as llama-perplexity takes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linnet.engine.checks import whole
from linnet.engine.running.finite import finite
from linnet.engine.running.runner import Floats
from linnet.engine.running.session import Session
from linnet.models.parts.config import MAX_CONTEXT

LEAST_N_CTX = 3  # with fewer tokens, none of a window is scored
LOGIT_BYTES = 32 << 20  # of one pass, so that memory stays bounded


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a text: the model reads `ids`, from an empty context, and is scored on `targets`.

    `targets` follow the tokens from the middle on, so that each is predicted from at least half a
    window.
    """

    ids: Sequence[int]  # (n_ctx - 1,): the last token is only predicted
    targets: npt.NDArray[np.int64]  # (n_ctx - 1 - n_ctx // 2,)

    @property
    def first(self) -> int:
        """The position in `ids` that the first target follows."""
        return len(self.ids) - len(self.targets)


def n_windows(n_tokens: int, n_ctx: int, most: int | None = None, *, at_least: int = 2) -> int:
    """How many whole windows a text has, or `most`. Raises ValueError where they are too few."""
    whole("n_ctx", n_ctx, LEAST_N_CTX, MAX_CONTEXT)
    whole("chunks", most, 1, MAX_CONTEXT)
    if n_tokens < at_least * n_ctx:
        needed = f"a context of {n_ctx} needs {at_least * n_ctx} or more"
        raise ValueError(f"the text has {n_tokens} tokens; {needed}")
    return min(n_tokens // n_ctx, most or n_tokens)


def windows(ids: npt.NDArray[np.integer], n_ctx: int, *, bos_id: int | None) -> Iterator[Window]:
    """Cut `ids` (n_windows * n_ctx,); `bos_id`, where there is one, replaces the first of each."""
    for part in ids.reshape(-1, n_ctx):
        read = part[:-1].tolist()
        if bos_id is not None:
            read[0] = bos_id
        yield Window(read, part[n_ctx // 2 + 1 :].astype(np.int64))


def rows_a_pass(n_vocab: int, n_ctx: int) -> int:
    """How many rows of logits the `Session` for `n_ctx` tokens may make at a time."""
    return max(1, min(n_ctx, LOGIT_BYTES // (4 * n_vocab)))


def scored(session: Session, window: Window) -> Iterator[tuple[Floats, slice]]:
    """The logits that predict the window's targets, in parts (n, n_vocab), and which targets.

    Raises what `Session.each_logits` raises, and NonFiniteLogits.
    """
    done = 0
    for rows in session.each_logits(window.ids, first=window.first):
        yield finite(rows), slice(done, done + len(rows))
        done += len(rows)


def log_sum_exp(logits: Floats) -> npt.NDArray[np.float64]:
    """Of each row: (n, n_vocab) -> (n,)"""
    most = logits.max(axis=1)
    sums = np.exp(logits - most[:, None]).sum(axis=1, dtype=np.float64)
    return np.asarray(most + np.log(sums))


def losses(logits: Floats, targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """-log p(target) of each row (n,), in nats: logits (n, n_vocab), targets (n,)."""
    return np.asarray(log_sum_exp(logits) - logits[np.arange(len(targets)), targets])


class Mean:
    """A mean of numbers that come in parts, and its standard error."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.float64]] = []

    def add(self, values: npt.NDArray[np.float64]) -> None:
        self._parts.append(values)

    @property
    def values(self) -> npt.NDArray[np.float64]:
        return np.concatenate(self._parts)

    @property
    def n(self) -> int:
        return sum(map(len, self._parts))

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def error(self) -> float:
        """sqrt(variance / (n - 1)); 0 for one number."""
        values = self.values
        return float(values.std()) / math.sqrt(max(len(values) - 1, 1))

    @property
    def perplexity(self) -> float:
        """exp(mean), where the numbers are losses."""
        return math.exp(self.mean)

    @property
    def perplexity_error(self) -> float:
        """Of the first order: exp(mean) times the error of the mean."""
        return self.perplexity * self.error
