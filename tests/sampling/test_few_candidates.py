"""The token that is drawn from few candidates is the one drawn from the whole vocabulary."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support import whole_vocabulary
from support.sampler_cases import Floats, history_of
from support.whole_vocabulary import logits_with_blocks, token

from linnet.engine.sampling import candidates, samplers
from linnet.engine.sampling.candidates import Candidates, NonFiniteLogits, highest_first
from linnet.engine.sampling.chain import Sampler
from linnet.engine.sampling.params import DEFAULT_ORDER, SamplingParams

Random = np.random.Generator
# Of each sampler, parameters to pick from.
CHOICES: dict[str, dict[str, list[Any]]] = {
    "top_k": {"top_k": [1, 2, 40, 255, 256, 300, 5000]},
    "top_p": {"top_p": [0, 1e-9, 0.1, 0.5, 0.9, 0.95, 0.999, 1 - 1e-8, 1 - 1e-12]},
    "min_p": {"min_p": [1e-9, 0.001, 0.05, 0.5, 1]},
    "temperature": {"temperature": [0, 1e-30, 0.3, 0.8, 1.5, 50]},
    "dynatemp": {"dynatemp_range": [0.5]},
    "penalties": {"repeat_penalty": [0.5, 1.3], "presence_penalty": [0, 3, -100],
                  "frequency_penalty": [0, 0.5], "repeat_last_n": [64, -1]},
    "dry": {"dry_multiplier": [0.8, 50], "dry_sequence_breakers": [()]},
    "logit_bias": {"logit_bias": ["few", "likeliest", "up"]},
    "typ_p": {"typ_p": [0.3, 0.9]},
    "top_n_sigma": {"top_n_sigma": [0.5, 1.5]},
    "xtc": {"xtc_probability": [0.5], "xtc_threshold": [0.01, 0.1]},
    "mirostat": {"mirostat": [2]},
}  # fmt: skip


def some_logits(rng: Random, n: int) -> Floats:
    kind = rng.integers(7)
    if kind == 0:  # ties
        values = rng.integers(-3, 4, n).astype(float)
    elif kind == 1:
        values = np.zeros(n)
    elif kind == 2:  # one is sure
        values = rng.normal(size=n)
        values[rng.integers(n)] += 40
    elif kind == 3:  # as languages have it
        values = -rng.uniform(1, 3) * np.log(rng.permutation(n) + 1)
    elif kind == 4:
        values = rng.normal(size=n) * 1e30
    else:
        values = rng.normal(size=n) * rng.choice([0.1, 1, 2, 4, 8])
    values[rng.integers(n, size=3)] = rng.choice([-0.0, -1e4, values.max()])
    return values.astype(np.float32)


def some_params(rng: Random, names: list[str], values: Floats, seed: int) -> SamplingParams:
    given: dict[str, Any] = {"temperature": 1, "top_k": 0, "top_p": 1, "min_p": 0, "seed": seed}
    for name in names:
        for field, choices in CHOICES[name].items():
            given[field] = choices[rng.integers(len(choices))]
    ids = rng.permutation(len(values))[:5].tolist()
    biases = {"few": dict.fromkeys(ids, -1.5), "up": dict.fromkeys(ids, 25.0),
              "likeliest": {int(values.argmax()): -math.inf}}  # fmt: skip
    if "logit_bias" in given:
        given["logit_bias"] = biases[given["logit_bias"]]
    if rng.random() < 0.3:
        given["samplers"] = tuple(rng.permutation(DEFAULT_ORDER).tolist())
    return SamplingParams(**given)


def differences(rng: Random, names: list[str], n_vocab: int, seed: int, n_tokens: int = 3) -> str:
    """Draw some tokens one after another each way."""
    values = some_logits(rng, n_vocab)
    params = some_params(rng, names, values, seed)
    prompt = rng.integers(0, min(n_vocab, 50), 12).tolist()
    history = history_of(params, prompt)
    from_blocks, from_values = (Sampler(params, n_vocab, prompt=prompt) for _ in range(2))
    for _ in range(n_tokens):
        expected = token(params, values, history)
        for sampler, logits in ((from_blocks, logits_with_blocks(values)), (from_values, values)):
            try:
                found: int | None = sampler.sample(logits)
            except NonFiniteLogits:
                found = None
            if found != expected:
                return f"{found}, not {expected}, with {params}"
        if expected is None:
            return ""
        for each in (from_blocks, from_values):
            each.accept(expected)
        history.append(expected)
        values = some_logits(rng, n_vocab)
    return ""


@pytest.mark.parametrize("n_vocab", [1, 300, 5000])
@pytest.mark.parametrize("name", CHOICES)
def test_each_sampler_alone_draws_the_same_tokens(name: str, n_vocab: int) -> None:
    for seed in range(100):
        rng = np.random.default_rng([seed, n_vocab])
        assert differences(rng, [name], n_vocab, seed) == ""


@pytest.mark.parametrize("sparse", [candidates._SPARSE, 1])  # by blocks more or less often
@pytest.mark.parametrize("n_vocab", [700, 2048, 40_000])
def test_samplers_together_draw_the_same_tokens(
    monkeypatch: pytest.MonkeyPatch, n_vocab: int, sparse: float
) -> None:
    monkeypatch.setattr(candidates, "_SPARSE", sparse)
    for seed in range(400 if n_vocab < 10_000 else 30):
        rng = np.random.default_rng([seed, n_vocab])
        names = [name for name in CHOICES if rng.random() < 0.3 and name != "mirostat"]
        assert differences(rng, names, n_vocab, seed, n_tokens=2) == ""


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_top_p_is_exact_where_a_total_in_f32_would_not_do(share: float) -> None:
    """Where the probabilities reach top_p to the last digits with a token, and just not."""
    rng = np.random.default_rng(1)
    values = (rng.normal(size=5000) * 3).astype(np.float32)
    every = Candidates(np.arange(5000), values)
    edges = np.cumsum(every.ordered().weights())
    logits = logits_with_blocks(values)
    first = int(np.searchsorted(edges, share * edges[-1]))
    for n in range(first, first + 40):
        for nudge in (0, 1e-15, -1e-15, 1e-9, -1e-9, 3e-6, -3e-6):
            params = SamplingParams(top_p=float(edges[n] / edges[-1] + nudge))
            kept = samplers.top_p(Candidates.all(logits), params, history_of(params, []))
            exact = whole_vocabulary.top_p(every, params, history_of(params, []))
            assert kept.ids.tolist() == exact.ids.tolist()
            assert abs(len(kept.ids) - n - 1) <= 1


def test_numbers_at_the_edges_draw_what_all_edges_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "_CHUNK", 64)
    values = np.repeat(np.float32([1, -np.inf, 0, -40]), 50)
    every = Candidates(np.arange(200), values)
    edges = np.cumsum(every.weights())
    sure = 0
    for i in range(200):
        for nudge in (-1e-9, -1e-16, 0, 1e-16, 1e-9):
            number = min(max(float(edges[i] / edges[-1]) + nudge, 0), 1 - 2**-53)
            expected = int(np.searchsorted(edges, number * edges[-1], side="right"))
            found = candidates._draw_by_chunks(every, number)
            assert found in (None, expected)
            sure += found is not None
    assert 150 < sure < 1000


@pytest.mark.parametrize("n", [10, 1024, 3000])
def test_order_is_that_of_a_stable_sort(n: int) -> None:
    rng = np.random.default_rng(n)
    for seed in range(20):
        values = some_logits(np.random.default_rng(seed), n)
        values[rng.integers(n, size=4)] = [0.0, -0.0, -np.inf, 1e-45]
        assert np.array_equal(highest_first(values), np.argsort(-values, kind="stable"))


def test_what_is_known_of_logits_follows_their_changes() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        n = int(rng.integers(1, 1500))
        every = Candidates.all(logits_with_blocks(some_logits(rng, n)))
        index = rng.permutation(n)[: rng.integers(1, n + 1)]
        new = rng.normal(size=len(index)) * rng.choice([1, 30, 500])
        new[rng.random(len(index)) < 0.2] = -np.inf
        try:
            changed = every.with_logits(index, new)
        except NonFiniteLogits:
            assert len(index) == n
            continue
        assert changed.blocks is not None
        fresh = logits_with_blocks(changed.logits)  # type: ignore[arg-type]
        assert np.array_equal(changed.blocks.maxima, fresh.blocks.maxima)
        assert changed.highest == fresh.blocks.highest == changed.logits.max()
        total, doubt = changed.total()
        assert abs(total - changed.weights().sum()) <= doubt
        assert changed.likeliest().ids.tolist() == [changed.logits.argmax()]
