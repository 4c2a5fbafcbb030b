"""From logits to a token id: samplers, applied one after another.

They, and their order, are those of llama-cli. To add one, write the function and give it a line in
`SAMPLERS`, and its name to `DEFAULT_ORDER` in `linnet.engine.sampling.params`; if it has a
parameter, also a field in `SamplingParams`, from which its flag follows.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from linnet.engine.sampling.candidates import Candidates, checked, draw
from linnet.engine.sampling.constraint import Rule
from linnet.engine.sampling.dry import breaker_tails, dry
from linnet.engine.sampling.history import History
from linnet.engine.sampling.logits import Logits, all_ids
from linnet.engine.sampling.mask import Mask
from linnet.engine.sampling.params import SamplingParams
from linnet.engine.sampling.samplers import (
    logit_bias,
    min_p,
    mirostat,
    penalties,
    temperature,
    top_k,
    top_n_sigma,
    top_p,
    typ_p,
    xtc,
)
from linnet.engine.text.tokenizer import Tokenizer


class Sampler:
    """Chooses the tokens of one generation. Its history is what it knows from token to token."""

    def __init__(
        self,
        params: SamplingParams,
        n_vocab: int,
        *,
        prompt: Iterable[int] = (),
        eog_ids: Collection[int] = (),
        tokenizer: Tokenizer | None = None,
        constraint: Rule | None = None,
    ) -> None:
        """`prompt` are tokens that penalties look back on; `eog_ids` those that end a generation,
        which `params.ignore_eos` and `min_tokens` rule out; `tokenizer` is needed for
        `dry_sequence_breakers`. `constraint`: what tokens may come; others have logits of -inf
        after the processors and before any sampler.

        Raises `ValueError` for an id out of the vocabulary, and for a tokenizer that is missing;
        `TokenizerError` for a sequence breaker that the vocabulary has no way to write.
        """
        if params.ignore_eos:
            params = replace(
                params, logit_bias={**params.logit_bias, **dict.fromkeys(eog_ids, -math.inf)}
            )
        if n_vocab < 1:
            raise ValueError(f"n_vocab is {n_vocab}; it must be at least 1")
        self._params = params
        self._n_vocab, self._ends = n_vocab, np.array(sorted({*eog_ids, *params.stop_token_ids}))
        self._chain = make_chain(params)
        self._constraint = constraint
        breakers = params.dry_sequence_breakers if dry in self._chain else ()
        self.history = History.of(params, breaker_tails(breakers, tokenizer))
        for token_id in params.logit_bias:
            self._check_id("a token id in logit_bias", token_id)
        for token_id in params.stop_token_ids:
            self._check_id("a token id in stop_token_ids", token_id)
        for token_id in prompt:
            self.accept(token_id)
        self._n_prompt = len(self.history.ids)

    def sample(self, logits: NDArray[np.float32] | Logits) -> int:
        """The next token's id, from `logits` (n_vocab,), which stay as they are. Those of a pass,
        all finite, take less time; the token is the same.

        It is not taken to be part of the text until `accept` says so. Raises `NonFiniteLogits`,
        `ValueError` for another shape, and what logits processors raise.
        """
        candidates = self._candidates(logits)
        if len(self._ends) and len(self.history.ids) - self._n_prompt < self._params.min_tokens:
            candidates = candidates.with_logits(self._ends, -math.inf)
        for apply in self._chain:
            candidates = apply(candidates, self._params, self.history)
        return int(candidates.ids[draw(candidates, self.history.random)])

    def _candidates(self, logits: NDArray[np.float32] | Logits) -> Candidates:
        """All tokens, by the logits that the processors and the constraint leave."""
        processors, mask = self._params.logits_processors, self._filled_mask()
        if isinstance(logits, Logits) and not processors:
            return Candidates.all(logits if mask is None else mask.apply(logits))
        values = np.asarray(logits.values if isinstance(logits, Logits) else logits, np.float32)
        if values.shape != (self._n_vocab,):
            raise ValueError(f"logits have shape {values.shape}; it must be {(self._n_vocab,)}")
        for i, process in enumerate(processors):
            given: Any = process(self.history.ids.copy(), values.copy())
            is_array = isinstance(given, np.ndarray)
            if not is_array or given.shape != values.shape or given.dtype != np.float32:
                found = f"{given.dtype} {given.shape}" if is_array else reprlib.repr(given)
                limits = f"an array of float32 {values.shape}"
                raise ValueError(f"logits_processors[{i}] returned {found}; it must be {limits}")
            values = given
        if mask is not None:
            values = mask.of(values)
        return Candidates(all_ids(self._n_vocab), checked(values))

    def _filled_mask(self) -> Mask | None:
        """Of the tokens that may come next; None where any may."""
        if self._constraint is None or self._constraint.is_free:
            return None
        self._constraint.fill()
        return self._constraint.mask

    def accept(self, token_id: int) -> None:
        """Count `token_id` as part of the text; raises `ValueError` if it is out of range."""
        self._check_id("token id", token_id)
        self.history.append(token_id)

    def choose(self, token_id: int) -> None:
        """The same of one that `sample` gave."""
        if self._constraint is not None:
            self._constraint.accept(token_id)
        self.accept(token_id)

    def _check_id(self, name: str, token_id: int) -> None:
        if not 0 <= token_id < self._n_vocab:
            raise ValueError(f"{name} is {token_id}; it must be 0 to {self._n_vocab - 1}")


SamplerFunction: TypeAlias = Callable[[Candidates, SamplingParams, History], Candidates]


@dataclass(frozen=True, slots=True)
class Stage:
    """A sampler, and when it does anything at all."""

    apply: SamplerFunction
    is_on: Callable[[SamplingParams], bool]
    keeps_highest: bool = False  # the likeliest token, and what is likeliest


def _looks_back(params: SamplingParams) -> bool:
    strengths = params.repeat_penalty, params.presence_penalty, params.frequency_penalty
    return params.repeat_last_n != 0 and strengths != (1, 0, 0)


def _is_greedy(params: SamplingParams) -> bool:
    return params.temperature == 0 and (params.dynatemp_range == 0 or params.mirostat > 0)


_LOGIT_BIAS: Final = Stage(logit_bias, lambda params: bool(params.logit_bias))
_MIROSTAT: Final = Stage(mirostat, lambda params: params.mirostat > 0)
_STAGES: Final = (
    Stage(penalties, _looks_back),
    Stage(dry, lambda params: params.dry_multiplier > 0 and params.dry_penalty_last_n != 0),
    Stage(top_n_sigma, lambda params: params.top_n_sigma > 0, keeps_highest=True),
    Stage(top_k, lambda params: params.top_k > 0, keeps_highest=True),
    Stage(typ_p, lambda params: params.typ_p < 1),
    Stage(top_p, lambda params: params.top_p < 1, keeps_highest=True),
    Stage(min_p, lambda params: params.min_p > 0, keeps_highest=True),
    Stage(xtc, lambda params: params.xtc_probability > 0 and params.xtc_threshold <= 0.5),
    Stage(temperature, lambda params: params.temperature != 1 or params.dynatemp_range > 0),
)
SAMPLERS: Final = {stage.apply.__name__: stage for stage in _STAGES}


def make_chain(params: SamplingParams) -> list[SamplerFunction]:
    """The samplers that do anything with these parameters, in their order.

    With Mirostat, these are the temperature and itself. At a temperature of 0, which takes the
    likeliest token, those just before that would keep that one anyway are left out.
    """
    names = ["temperature"] if params.mirostat else params.samplers
    stages = [_LOGIT_BIAS, *(SAMPLERS[name] for name in names), _MIROSTAT]
    chain: list[Stage] = []
    for stage in stages:
        if stage.apply is temperature and _is_greedy(params):
            while chain and chain[-1].keeps_highest:
                chain.pop()
        if stage.is_on(params):
            chain.append(stage)
    return [stage.apply for stage in chain]
