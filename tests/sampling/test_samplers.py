"""Single samplers: by hand, at the edges, and what each promises of what it keeps."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sampler_cases import OFF, Fixed, apply, distribution, history_of, logits_of

from linnet.engine.sampling.candidates import Candidates
from linnet.engine.sampling.chain import Sampler, make_chain
from linnet.engine.sampling.params import SamplingParams

QUICK = settings(max_examples=100, deadline=None)


@QUICK
@given(
    k=st.one_of(st.integers(1, 50), st.integers(1, 9000)),
    n_vocab=st.sampled_from([1, 7, 2047, 2048, 2049, 4096, 8191]),
    n_levels=st.sampled_from([1, 2, 50, 10**6]),
    seed=st.integers(0, 99),
)
def test_top_k_keeps_the_highest_and_of_equal_ones_the_first(
    k: int, n_vocab: int, n_levels: int, seed: int
) -> None:
    logits = np.random.default_rng(seed).integers(0, n_levels, n_vocab).astype(np.float32)
    kept = apply(replace(OFF, top_k=k), logits)
    assert kept.ids.tolist() == np.lexsort((np.arange(n_vocab), -logits))[:k].tolist()
    assert kept.logits.tolist() == logits[kept.ids].tolist()


def test_penalties_by_hand() -> None:
    logits = np.array([2, -2, 2, 0], np.float32)
    params = replace(OFF, repeat_penalty=2, presence_penalty=0.5, frequency_penalty=0.25)
    after = apply(params, logits, [0, 1, 1])
    assert after.logits.tolist() == [2 / 2 - 0.5 - 0.25, -2 * 2 - 0.5 - 2 * 0.25, 2, 0]


@QUICK
@given(st.lists(st.integers(0, 3), max_size=20), st.integers(-1, 21))
def test_a_history_counts_the_last_tokens(ids: list[int], last_n: int) -> None:
    history = history_of(SamplingParams(repeat_last_n=last_n), ids)
    assert history.ids == ids
    assert history.counts == Counter(ids if last_n < 0 else ids[max(0, len(ids) - last_n) :])
    assert 0 not in history.counts.values()


@pytest.mark.parametrize(
    ("last_n", "accepted", "counts"),
    [
        (0, [1, 2], {}),
        (1, [1, 2], {2: 1}),
        (3, [1, 2, 2, 3], {2: 2, 3: 1}),
        (3, [2, 2, 2, 2, 3], {2: 2, 3: 1}),
        (-1, [1] * 200 + [2], {1: 200, 2: 1}),
    ],
)
def test_penalties_look_back_on_the_last_tokens(
    last_n: int, accepted: list[int], counts: dict[int, int]
) -> None:
    params = SamplingParams(
        temperature=0, frequency_penalty=0.125, presence_penalty=1, repeat_last_n=last_n
    )
    sampler = Sampler(params, 5, prompt=accepted[:2])
    for token_id in accepted[2:]:
        sampler.accept(token_id)
    for token_id in range(4):  # token 4 is taken once the penalty weighs more than the difference
        count = counts.get(token_id, 0)
        logits = np.array([-100, -100, -100, -100, 0], np.float32)
        logits[token_id] = 0.125 * count + (count > 0)
        assert sampler.sample(logits) == token_id
        logits[token_id] -= 0.0625
        assert sampler.sample(logits) == 4


@pytest.mark.parametrize("share", [0, 0.2, 0.6, 0.95, 0.999])
@pytest.mark.parametrize("spread", [0.01, 1, 2, 5])
def test_top_p_keeps_no_more_and_no_less_than_its_share(share: float, spread: float) -> None:
    logits = logits_of(4000, spread=spread)
    params = replace(OFF, top_p=share)
    kept = apply(params, logits).ids
    weights = np.exp(logits.astype(np.float64))
    masses = np.cumsum(weights[kept]) / weights.sum()
    assert masses[-1] >= share - 1e-12
    assert len(kept) == 1 or masses[-2] < share + 1e-12
    assert weights[kept].tolist() == sorted(weights, reverse=True)[: len(kept)]


def test_at_temperature_0_the_first_of_the_highest_is_taken() -> None:
    logits = np.array([1, 3, 0, 3, 3], np.float32)
    for others in ({}, {"top_k": 0}, {"top_k": 0, "top_p": 1.0, "min_p": 0.0}):
        sampler = Sampler(SamplingParams(temperature=0, **others), 5)
        assert [sampler.sample(logits) for _ in range(20)] == [1] * 20
    biased = SamplingParams(temperature=0, logit_bias={3: 0.5})
    assert Sampler(biased, 5).sample(logits) == 3


def test_a_very_low_temperature_is_not_an_overflow() -> None:
    logits = np.array([-3e38, 3e38, 1], np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert Sampler(replace(OFF, temperature=1e-300), 3).sample(logits) == 1


def test_typ_p_keeps_the_tokens_of_a_surprise_near_the_entropy() -> None:
    shares = np.array([0.5, 0.2, 0.2, 0.05, 0.05])
    entropy = -(shares * np.log(shares)).sum()  # 1.29; the surprises are 0.69, 1.61 and 3.0
    assert np.abs(-np.log(shares) - entropy).argmin() == 1
    logits = np.log(shares).astype(np.float32)
    kept = {p: apply(replace(OFF, typ_p=p), logits).ids.tolist() for p in (0, 0.3, 0.5, 0.97)}
    assert kept == {0: [1], 0.3: [1, 2], 0.5: [0, 1, 2], 0.97: [0, 1, 2, 3, 4]}


def test_typ_p_drops_what_has_no_probability() -> None:
    logits = np.array([0, -np.inf, 0, -2000], np.float32)
    assert apply(replace(OFF, typ_p=0.9), logits).ids.tolist() == [0, 2]


def test_top_n_sigma_goes_by_the_spread_of_the_logits() -> None:
    logits = np.array([0, 1, 2, 3, 4], np.float32)  # of a standard deviation of sqrt(2)
    left = {n: distribution(apply(replace(OFF, top_n_sigma=n), logits)) for n in (0.7, 0.8, 2.0)}
    assert [sorted(shares) for shares in left.values()] == [[4], [3, 4], [2, 3, 4]]
    moved = np.append(logits * 7 - 1000, -np.inf).astype(np.float32)  # which changes nothing
    assert sorted(distribution(apply(replace(OFF, top_n_sigma=0.8), moved))) == [3, 4]
    even = np.full(4, 1e38, np.float32)
    assert len(distribution(apply(replace(OFF, top_n_sigma=0.5), even))) == 4


def test_xtc_drops_all_but_the_last_of_the_likely() -> None:
    logits = np.log(np.array([0.1, 0.35, 0.05, 0.3, 0.2])).astype(np.float32)

    def kept(threshold: float) -> list[int]:
        on = replace(OFF, xtc_probability=1, xtc_threshold=threshold)
        return apply(on, logits).ids.tolist()

    assert kept(0.32) == [0, 1, 2, 3, 4]  # one alone stays
    assert kept(0.25) == [0, 2, 3, 4]
    assert kept(0.15) == [0, 2, 4]
    assert kept(0) == [2]
    assert make_chain(replace(OFF, xtc_probability=1, xtc_threshold=0.51)) == []
    halves = replace(OFF, xtc_probability=1, xtc_threshold=0.5)
    assert apply(halves, np.zeros(2, np.float32)).ids.tolist() == [1]
    assert apply(halves, np.zeros(1, np.float32)).ids.tolist() == [0]


def test_xtc_strikes_as_often_as_it_is_told() -> None:
    params = replace(OFF, xtc_probability=0.3, xtc_threshold=0.2, seed=5)
    sampler = Sampler(params, 3)
    drawn = Counter(sampler.sample(np.log([0.6, 0.3, 0.1]).astype(np.float32)) for _ in range(4000))
    assert drawn[0] / 4000 == pytest.approx(0.7 * 0.6, abs=0.03)
    assert drawn[1] / 4000 == pytest.approx(0.7 * 0.3 + 0.3 * 0.75, abs=0.03)


@pytest.mark.parametrize(
    ("shares", "t"),
    [
        ([0.25, 0.25, 0.25, 0.25], 1.5),
        ([1 / 2, 1 / 2, 0, 0], 0.5 + 1.0 * 0.5**2),  # half of the highest entropy
        ([1 / 2, 1 / 4, 1 / 8, 1 / 8], 0.5 + 1.0 * 0.875**2),
    ],
)
def test_a_dynamic_temperature_rises_with_the_entropy(shares: list[float], t: float) -> None:
    with np.errstate(divide="ignore"):
        logits = np.log(shares).astype(np.float32)
    params = replace(OFF, dynatemp_range=0.5, dynatemp_exponent=2)
    assert apply(params, logits).logits == pytest.approx(logits / t, rel=1e-6)


def test_a_dynamic_temperature_of_0_is_greedy() -> None:
    sure = np.array([0, 5000, 0], np.float32)
    params = replace(OFF, temperature=0.5, dynatemp_range=0.5)
    assert apply(params, sure).ids.tolist() == [1]
    assert apply(params, sure[:1]).ids.tolist() == [0]
    even = replace(OFF, temperature=0, dynatemp_range=3)
    assert len(distribution(apply(even, np.zeros(4, np.float32)))) == 4


# ---- Mirostat ------------------------------------------------------------------------------------


def test_mirostat_stands_in_for_the_other_samplers() -> None:
    others = {"top_k": 1, "typ_p": 0.5, "repeat_penalty": 2.0, "dry_multiplier": 1.0}
    cool = {"temperature": 0.5, "dynatemp_range": 0.5, "logit_bias": {0: 1.0}}
    params = replace(OFF, **others, **cool, mirostat=2)
    assert [f.__name__ for f in make_chain(params)] == ["logit_bias", "temperature", "mirostat"]
    logits = logits_of(9)
    (_, warm, _) = make_chain(params)
    after = warm(Candidates(np.arange(9), logits), params, history_of(params, []))
    assert after.logits == pytest.approx(logits / 0.5)


@pytest.mark.parametrize("tau", [1.0, 2.5, 4.0])
def test_mirostat_comes_to_the_surprise_it_aims_for(tau: float) -> None:
    shares = 1 / np.arange(1, 2001)
    shares /= shares.sum()
    sampler = Sampler(replace(OFF, mirostat=2, mirostat_tau=tau, seed=3), 2000)
    assert sampler.history.mu == 2 * tau
    logits = np.log(shares).astype(np.float32)
    surprises = []
    for _ in range(3000):
        allowed = -np.log2(shares) <= sampler.history.mu
        allowed[0] = True
        token_id = sampler.sample(logits)
        assert allowed[token_id]
        surprises.append(-math.log2(shares[token_id] / shares[allowed].sum()))
    assert np.mean(surprises[500:]) == pytest.approx(tau, rel=0.03)


def test_mirostat_moves_mu_by_the_surprise_among_what_was_allowed() -> None:
    logits = np.log2([0.5, 0.25, 0.125, 0.125]).astype(np.float32) * np.float32(math.log(2))
    params = replace(OFF, mirostat=2, mirostat_tau=1.25, mirostat_eta=0.5)  # mu: 2.5 bits
    sampler = Sampler(params, 4)
    sampler.history.random = Fixed(0.99)
    assert sampler.sample(logits) == 1  # of two thirds and a third
    assert sampler.history.mu == pytest.approx(2.5 - 0.5 * (math.log2(3) - 1.25))
    sampler.history.mu = -3.0
    assert sampler.sample(logits) == 0  # one stays, whose surprise is 0
    assert sampler.history.mu == pytest.approx(-3.0 + 0.5 * 1.25)
