"""Logits and what samplers leave of them, and a small vocabulary for those that look at texts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from linnet.engine.sampling import samplers
from linnet.engine.sampling.candidates import Candidates
from linnet.engine.sampling.chain import Sampler, make_chain
from linnet.engine.sampling.history import History
from linnet.engine.sampling.params import SamplingParams
from linnet.engine.text.tokenizer import Tokenizer

MERGES = ("a b", "c d", "a :", ": b", "Ċ a", "* *", "ab cd", "# #", "a #", "ab *", "** c", ": Ċ")
TOKENS = (*"abcdxy:*#ĊĠ", *(merge.replace(" ", "") for merge in MERGES))
METADATA: dict[str, Any] = {  # the same as `scripts/compare_samplers.py` writes for llama.cpp
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": list(TOKENS),
    "tokenizer.ggml.merges": list(MERGES),
}
TOKENIZER = Tokenizer.from_metadata(METADATA)

Floats = NDArray[np.float32]

# Every sampler off: the softmax of the logits as they are.
OFF = SamplingParams(temperature=1, top_k=0, top_p=1, min_p=0)


def logits_of(n: int, seed: int = 0, spread: float = 2.0) -> Floats:
    return (np.random.default_rng(seed).normal(size=n) * spread).astype(np.float32)


def history_of(params: SamplingParams, ids: list[int]) -> History:
    history = History.of(params, tails=lambda token_id: ())
    for token_id in ids:
        history.append(token_id)
    return history


def apply(params: SamplingParams, logits: Floats, ids: list[int] | None = None) -> Candidates:
    """The candidates that the samplers leave, after the tokens `ids`."""
    candidates = Candidates(np.arange(len(logits)), logits)
    history = history_of(params, ids or [])
    for sampler in make_chain(params):
        candidates = sampler(candidates, params, history)
    return candidates


class Fixed(np.random.Generator):
    """Random numbers that are always the same."""

    def __init__(self, number: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, *_: Any, **__: Any) -> Any:
        return self.number


class Run:
    """One generation whose tokens are chosen from outside."""

    def __init__(
        self, params: SamplingParams, prompt: Iterable[int], tokenizer: Tokenizer = TOKENIZER
    ) -> None:
        self._params = params
        self._chain = make_chain(params)
        self._ids = np.arange(tokenizer.n_vocab)
        self._sampler = Sampler(params, tokenizer.n_vocab, prompt=prompt, tokenizer=tokenizer)

    def step(self, logits: Floats, chosen: int | None) -> dict[int, float]:
        """The probability of each token that may follow; then `chosen` does, if it is not None."""
        drawn_from: list[Candidates] = []

        def draw(candidates: Candidates, _: np.random.Generator) -> int:
            drawn_from.append(candidates)
            return int((candidates.ids == chosen).argmax())  # the first where it is none of them

        candidates = Candidates(self._ids, logits)
        with mock.patch.object(samplers, "draw", draw):
            for apply in self._chain:
                candidates = apply(candidates, self._params, self._sampler.history)
        if chosen is not None:
            self._sampler.accept(chosen)
        return distribution(drawn_from[0] if drawn_from else candidates)


def distribution(candidates: Candidates) -> dict[int, float]:
    """By token id; those of no probability are left out."""
    shares = zip(candidates.ids.tolist(), candidates.probabilities().tolist(), strict=True)
    return {token_id: p for token_id, p in shares if p > 0}
