"""From logits to a token id: small pure functions, one a sampler, applied one after another.

The samplers and their order are those of llama-cli, and what each does is what llama.cpp's does
(src/llama-sampler.cpp). To add one, write the function and give it a line in `SAMPLERS`, at the
end; if it has a parameter, also a field in `SamplingParams`, from which its flag follows.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from linnet.engine.sampling.params import SamplingParams

__all__ = ["SAMPLERS", "Candidates", "NonFiniteLogits", "Sampler", "SamplingParams", "make_chain"]


class NonFiniteLogits(RuntimeError):
    """Logits that give no probabilities: one is NaN or +Inf, or all are -Inf."""


class Sampler:
    """Chooses the tokens of one generation. Holds its random numbers and the tokens so far."""

    def __init__(
        self,
        params: SamplingParams,
        n_vocab: int,
        *,
        prompt: Iterable[int] = (),
        eog_ids: Collection[int] = (),
    ) -> None:
        """`prompt` are tokens that penalties look back on; `eog_ids` those that end a generation,
        which `params.ignore_eos` rules out.

        Raises `ValueError` for an id out of the vocabulary.
        """
        if params.ignore_eos:
            params = replace(
                params, logit_bias={**params.logit_bias, **dict.fromkeys(eog_ids, -math.inf)}
            )
        if n_vocab < 1:
            raise ValueError(f"n_vocab is {n_vocab}; it must be at least 1")
        self._params = params
        self._ids = _all_ids(n_vocab)
        self._chain = make_chain(params)
        self._random = np.random.Generator(np.random.PCG64(params.seed))
        self._recent: deque[int] = deque()
        self._counts: Counter[int] = Counter()
        for token_id in params.logit_bias:
            self._check_id("a token id in logit_bias", token_id)
        for token_id in prompt:
            self.accept(token_id)

    def sample(self, logits: NDArray[np.float32]) -> int:
        """The next token's id, from `logits` (n_vocab,), which stay as they are.

        It is not taken to be part of the text until `accept` says so. Raises `NonFiniteLogits`,
        and `ValueError` for another shape.
        """
        logits = np.asarray(logits, np.float32)
        if logits.shape != self._ids.shape:
            raise ValueError(f"logits have shape {logits.shape}; it must be {self._ids.shape}")
        candidates = Candidates(self._ids, _checked(logits))
        for apply in self._chain:
            candidates = apply(candidates, self._params, self._counts)
        return _draw(candidates, self._random)

    def accept(self, token_id: int) -> None:
        """Count `token_id` as part of the text; raises `ValueError` if it is out of range."""
        self._check_id("token id", token_id)
        self._recent.append(token_id)
        self._counts[token_id] += 1
        if 0 <= self._params.repeat_last_n < len(self._recent):
            oldest = self._recent.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]

    def _check_id(self, name: str, token_id: int) -> None:
        if not 0 <= token_id < len(self._ids):
            raise ValueError(f"{name} is {token_id}; it must be 0 to {len(self._ids) - 1}")


@lru_cache(maxsize=1)
def _all_ids(n_vocab: int) -> NDArray[np.intp]:
    """(n_vocab,) every token's id: one array for all samplers, of which there may be thousands."""
    ids = np.arange(n_vocab)
    ids.flags.writeable = False
    return ids


# ---- candidates ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The tokens that may still be chosen."""

    ids: NDArray[np.intp]  # (n,)
    logits: NDArray[np.floating]  # (n,)
    in_order: bool = False  # highest logit first, of equal ones lowest id first; else ids ascend

    def keep(self, which: NDArray[np.bool_] | slice) -> Candidates:
        """Only these."""
        index = which if isinstance(which, slice) else np.flatnonzero(which)
        return Candidates(self.ids[index], self.logits[index], self.in_order)

    def ordered(self) -> Candidates:
        """The same, in order."""
        if self.in_order:
            return self
        order = np.argsort(-self.logits, kind="stable")
        return Candidates(self.ids[order], self.logits[order], in_order=True)

    def weights(self) -> NDArray[np.float64]:
        """(n,) what the probabilities are proportional to; the highest is 1."""
        below: NDArray[np.float64] = np.subtract(self.logits, self.logits.max(), dtype=np.float64)
        return np.exp(below)


# ---- samplers ------------------------------------------------------------------------------------
#
# Each takes the candidates, the parameters, and how often each token was used of late. The first
# two run while all tokens are candidates, so that a token's id is also its index.


def logit_bias(candidates: Candidates, params: SamplingParams, _: Mapping[int, int]) -> Candidates:
    """logit += bias. -inf rules a token out; `NonFiniteLogits` if that leaves none."""
    ids = np.array(list(params.logit_bias))
    logits = candidates.logits.copy()
    with np.errstate(over="ignore"):
        logits[ids] += np.array(list(params.logit_bias.values()))
    return replace(candidates, logits=_checked(logits))


def penalties(
    candidates: Candidates, params: SamplingParams, recent: Mapping[int, int]
) -> Candidates:
    """Lower the logits of the tokens among the last `repeat_last_n`.

    logit = (logit / repeat_penalty if logit > 0 else logit * repeat_penalty)
            - count * frequency_penalty - presence_penalty

    The first line is that of Keskar et al., 2019, "CTRL: a conditional transformer language model",
    with llama.cpp's repair for logits below 0; the second is that of the OpenAI API.
    """
    if not recent:
        return candidates
    ids = np.array(list(recent))
    counts = np.array(list(recent.values()))
    old = candidates.logits[ids].astype(np.float64)
    new = np.where(old > 0, old / params.repeat_penalty, old * params.repeat_penalty)
    logits = candidates.logits.copy()
    with np.errstate(over="ignore"):
        logits[ids] = new - counts * params.frequency_penalty - params.presence_penalty
    return replace(candidates, logits=_checked(logits))


def top_k(candidates: Candidates, params: SamplingParams, _: Mapping[int, int]) -> Candidates:
    """Keep the `top_k` highest (Fan et al., 2018, "Hierarchical neural story generation"); of
    equal ones, the lower ids."""
    bound = _lower_bound(candidates.logits, params.top_k)
    return candidates.keep(candidates.logits >= bound).ordered().keep(slice(params.top_k))


def top_p(candidates: Candidates, params: SamplingParams, _: Mapping[int, int]) -> Candidates:
    """Keep the fewest that together have a probability of at least `top_p`, likeliest first
    (Holtzman et al., 2019, "The curious case of neural text degeneration")."""
    weights = candidates.weights()
    total = weights.sum()
    # All below this have less than 1 - top_p together (half of it, as sums are rounded), so they
    # need not be put in order.
    least = (1 - params.top_p) * total / len(weights) / 2
    candidates = candidates.keep(weights >= least).ordered()
    n_kept = 1 + np.searchsorted(np.cumsum(candidates.weights()), params.top_p * total)
    return candidates.keep(slice(n_kept))


def min_p(candidates: Candidates, params: SamplingParams, _: Mapping[int, int]) -> Candidates:
    """Keep those at least `min_p` times as likely as the likeliest (Nguyen et al., 2024, "Turning
    up the heat: min-p sampling for creative and coherent LLM outputs")."""
    least = np.float64(candidates.logits.max()) + math.log(params.min_p)
    return candidates.keep(candidates.logits >= least)


def temperature(candidates: Candidates, params: SamplingParams, _: Mapping[int, int]) -> Candidates:
    """logit /= temperature; at 0, keep the highest only (of equal ones, that of the lowest id)."""
    highest = candidates.logits.argmax()
    if params.temperature == 0:
        return candidates.keep(slice(highest, highest + 1))
    below = np.subtract(candidates.logits, candidates.logits[highest], dtype=np.float64)
    with np.errstate(over="ignore"):  # to -inf, which is what it should be
        return replace(candidates, logits=below / params.temperature)


def _draw(candidates: Candidates, random: np.random.Generator) -> int:
    """The id of one candidate, each as likely as the softmax of the logits says."""
    if len(candidates.ids) == 1:
        return int(candidates.ids[0])
    edges = np.cumsum(candidates.weights())
    point = random.random() * edges[-1]  # below edges[-1], as random() is at most 1 - 2**-53
    return int(candidates.ids[np.searchsorted(edges, point, side="right")])


def _lower_bound(logits: NDArray[np.floating], k: int) -> float:
    """A number that at least k logits reach, and few more, at the price of little more than one
    pass: of as many groups of logits as are worth it, the k-th highest maximum."""
    n_groups = max(1024, 4 * k)
    if len(logits) < 2 * n_groups:
        return -math.inf
    rest = len(logits) % n_groups
    highest = logits[rest:].reshape(-1, n_groups).max(axis=0)
    return float(np.partition(highest, n_groups - k)[n_groups - k])


def _checked(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """The same logits; raises `NonFiniteLogits` unless the highest is finite and none is NaN."""
    if not math.isfinite(logits.max()):  # of anything and NaN, the maximum is NaN
        wrong = np.flatnonzero(~(logits < np.inf))
        found = "all are -inf"
        if len(wrong):
            found = f"token {wrong[0]} has {logits[wrong[0]]} ({len(wrong)} are NaN or +Inf)"
        raise NonFiniteLogits(f"no token can be chosen by these logits: {found}")
    return logits


SamplerFunction: TypeAlias = Callable[[Candidates, SamplingParams, Mapping[int, int]], Candidates]


@dataclass(frozen=True, slots=True)
class Stage:
    """A sampler, and when it does anything at all."""

    apply: SamplerFunction
    is_on: Callable[[SamplingParams], bool]


def _looks_back(params: SamplingParams) -> bool:
    strengths = params.repeat_penalty, params.presence_penalty, params.frequency_penalty
    return params.repeat_last_n != 0 and strengths != (1, 0, 0)


SAMPLERS: Final = (
    Stage(logit_bias, lambda params: bool(params.logit_bias)),
    Stage(penalties, _looks_back),
    Stage(top_k, lambda params: params.top_k > 0 and params.temperature > 0),
    Stage(top_p, lambda params: params.top_p < 1 and params.temperature > 0),
    Stage(min_p, lambda params: params.min_p > 0 and params.temperature > 0),
    Stage(temperature, lambda params: params.temperature != 1),
)


def make_chain(params: SamplingParams) -> list[SamplerFunction]:
    """The samplers that do anything with these parameters, in their order."""
    return [stage.apply for stage in SAMPLERS if stage.is_on(params)]
