"""Each sampler against its formula in float64, their order, and what is drawn."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sampler_cases import OFF, Fixed, apply, distribution, history_of, logits_of
from support.sampler_formulas import expected

from linnet.engine.sampling.candidates import Candidates, NonFiniteLogits
from linnet.engine.sampling.chain import SAMPLERS, Sampler, make_chain
from linnet.engine.sampling.params import DEFAULT_ORDER, SamplingParams

QUICK = settings(max_examples=100, deadline=None)
# For each sampler, parameters that turn it on, and it alone.
ON: dict[str, dict[str, Any]] = {
    "logit_bias": {"logit_bias": {1: 2.0}},
    "penalties": {"repeat_penalty": 1.5, "presence_penalty": 0.25, "frequency_penalty": 0.5},
    "dry": {"dry_multiplier": 0.8, "dry_allowed_length": 1, "dry_sequence_breakers": []},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "top_k": {"top_k": 3},
    "typ_p": {"typ_p": 0.6},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.3},
    "xtc": {"xtc_probability": 1.0, "xtc_threshold": 0.1},
    "temperature": {"temperature": 0.5},
}


def same(found: dict[int, float], wanted: dict[int, float], *, rel: float, abs: float = 0) -> bool:
    """Whether the same tokens have the same probabilities, of thousands in a moment."""
    return found.keys() == wanted.keys() and np.allclose(
        [found[i] for i in wanted], [*wanted.values()], rtol=rel, atol=abs
    )


# ---- all of them ---------------------------------------------------------------------------------


def test_the_order_is_that_of_llama_cli() -> None:
    order = "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature"
    assert ";".join(DEFAULT_ORDER) == order
    assert [*SAMPLERS] == order.split(";")
    assert ["logit_bias", *SAMPLERS] == [*ON]


def test_the_defaults_are_those_of_llama_cli() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.8, 40, 0.95, 0.05)
    assert (params.repeat_penalty, params.repeat_last_n) == (1.0, 64)
    assert (params.presence_penalty, params.frequency_penalty) == (0.0, 0.0)
    assert (params.typ_p, params.top_n_sigma) == (1.0, -1.0)
    assert (params.xtc_probability, params.xtc_threshold) == (0.0, 0.1)
    assert (params.dry_multiplier, params.dry_base, params.dry_allowed_length) == (0.0, 1.75, 2)
    assert params.dry_penalty_last_n == 64
    assert params.dry_sequence_breakers == ("\n", ":", '"', "*")
    assert (params.dynatemp_range, params.dynatemp_exponent) == (0.0, 1.0)
    assert (params.mirostat, params.mirostat_tau, params.mirostat_eta) == (0, 5.0, 0.1)
    assert [f.__name__ for f in make_chain(params)] == ["top_k", "top_p", "min_p", "temperature"]


@pytest.mark.parametrize("name", ON)
def test_a_sampler_runs_only_when_its_parameters_ask_for_it(name: str) -> None:
    assert make_chain(OFF) == []
    assert [f.__name__ for f in make_chain(replace(OFF, **ON[name]))] == [name]


@pytest.mark.parametrize("name", ON)
@pytest.mark.parametrize("n_vocab", [5, 300, 900])
def test_a_sampler_does_what_its_formula_says(name: str, n_vocab: int) -> None:
    params = replace(OFF, **ON[name])
    ids = [1, 2, 4, 1, 2, 2, 4, 1, 2]
    for seed in range(3):
        logits = logits_of(n_vocab, seed)
        after = distribution(apply(params, logits, ids))
        assert same(after, expected(params, logits, ids), rel=1e-5)
        assert not same(after, expected(OFF, logits, ids), rel=1e-5) or name == "xtc"


@pytest.mark.parametrize("name", ON)
def test_a_sampler_changes_nothing_that_it_is_given(name: str) -> None:
    logits = logits_of(50)
    logits.flags.writeable = False
    params = replace(OFF, **ON[name])
    history = history_of(params, [1, 1, 3, 1, 1])
    (sampler,) = make_chain(params)
    after = sampler(Candidates(np.arange(50), logits), params, history)
    assert 1 <= len(after.ids) <= 50
    assert (history.ids, history.counts) == ([1, 1, 3, 1, 1], {1: 4, 3: 1})


@QUICK
@given(data=st.data(), seed=st.integers(0, 1000), n_vocab=st.sampled_from([3, 40, 900]))
def test_all_samplers_together_do_what_their_formulas_say(
    data: st.DataObject, seed: int, n_vocab: int
) -> None:
    def some(*values: Any) -> Any:
        return data.draw(st.sampled_from(values))

    params = SamplingParams(
        samplers=data.draw(st.permutations(DEFAULT_ORDER)) if some(True, False) else DEFAULT_ORDER,
        top_k=some(0, 1, 2, 40, 5000),
        top_p=some(0, 0.3, 0.9, 0.95, 1),
        min_p=some(0, 0.05, 0.4, 1),
        typ_p=some(1, 1, 0.4, 0.9),
        top_n_sigma=some(-1, 0, 0.7, 2),
        xtc_probability=some(0, 1),
        xtc_threshold=some(0.05, 0.2),
        temperature=some(0, 0.3, 0.8, 1, 5),
        dynatemp_range=some(0, 0, 0.5),
        dynatemp_exponent=some(0.5, 2),
        repeat_penalty=some(1, 1.3, 0.7),
        presence_penalty=some(0, 0.6),
        frequency_penalty=some(0, 0.2, -0.4),
        repeat_last_n=some(0, 4, 64, -1),
        dry_multiplier=some(0, 1.1),
        dry_base=some(1, 1.5),
        dry_allowed_length=some(1, 2),
        dry_penalty_last_n=some(0, 4, 64, -1),
        dry_sequence_breakers=(),
        logit_bias=some({}, {2: -1.0}, {2: 3.0}),
    )
    logits = logits_of(n_vocab, seed, spread=some(0.3, 2, 8))
    ids = data.draw(st.lists(st.integers(0, 2), max_size=9))
    found = distribution(apply(params, logits, ids))
    assert same(found, expected(params, logits, ids), rel=1e-4, abs=1e-12)


# ---- their order ---------------------------------------------------------------------------------


def test_samplers_run_in_the_order_given_and_as_often() -> None:
    names = ("temperature", "top_p", "temperature")
    params = SamplingParams(samplers=names, temperature=0.5, top_p=0.8)
    assert tuple(f.__name__ for f in make_chain(params)) == names
    cooled = replace(OFF, temperature=0.5)
    logits = logits_of(30)
    first = expected(replace(cooled, top_p=0.8, samplers=names[:2]), logits)
    assert distribution(apply(params, logits)) == pytest.approx(
        {i: p**2 / sum(q**2 for q in first.values()) for i, p in first.items()}, rel=1e-5
    )
    assert make_chain(SamplingParams(samplers=[], repeat_penalty=2)) == []


def test_a_bias_is_first_in_any_order() -> None:
    params = SamplingParams(samplers=["top_k"], top_k=1, logit_bias={3: 50.0})
    assert apply(params, logits_of(9)).ids.tolist() == [3]


@pytest.mark.parametrize("name", ["penalties", "dry"])
def test_tokens_are_found_among_those_that_others_left(name: str) -> None:
    """Some of the repeated are gone, and what is left is ordered by logit."""
    params = replace(OFF, **ON[name], top_k=4, samplers=["top_k", name])
    logits = np.array([0, 1, 2, 3, 4, 5, 6], np.float32)
    ids = [3, 0, 5, 3, 0, 5, 3]
    assert distribution(apply(params, logits, ids)) == pytest.approx(expected(params, logits, ids))


@pytest.mark.parametrize(
    ("given", "chain"),
    [
        ({}, ["temperature"]),
        ({"top_n_sigma": 1.0}, ["temperature"]),
        ({"typ_p": 0.5}, ["top_k", "typ_p", "temperature"]),
        ({"xtc_probability": 0.5}, ["top_k", "top_p", "min_p", "xtc", "temperature"]),
        ({"samplers": ["top_k", "penalties", "top_p", "temperature"], "repeat_penalty": 2.0},
         ["top_k", "penalties", "temperature"]),
        ({"samplers": ["temperature", "top_k"]}, ["temperature", "top_k"]),
        ({"samplers": ["top_k", "top_p"]}, ["top_k", "top_p"]),
        ({"dynatemp_range": 0.5}, ["top_k", "top_p", "min_p", "temperature"]),
    ],
)  # fmt: skip
def test_at_temperature_0_only_what_changes_the_token_runs(
    given: dict[str, Any], chain: list[str]
) -> None:
    params = SamplingParams(temperature=0, **given)
    assert [f.__name__ for f in make_chain(params)] == chain


# ---- drawing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_vocab", [5, 600])
@pytest.mark.parametrize("name", ON)
def test_tokens_are_drawn_as_often_as_their_probabilities_say(name: str, n_vocab: int) -> None:
    params = replace(OFF, **ON[name], seed=7)
    logits = np.full(n_vocab, -30, np.float32)
    logits[-5:] = 1.0, 0.2, -0.3, 1.4, 0.6
    recent = [n_vocab - 1, n_vocab - 2] * 2
    sampler = Sampler(params, n_vocab, prompt=recent)
    n_draws = 4000
    drawn = Counter(sampler.sample(logits) for _ in range(n_draws))
    shares = {i: p for i, p in expected(params, logits, recent).items() if p > 1e-9}
    assert drawn.keys() <= shares.keys()
    deviation = sum((drawn[i] - n_draws * p) ** 2 / (n_draws * p) for i, p in shares.items())
    assert deviation < 18.5  # of chi-square with 4 degrees of freedom, 99.9 per cent are below


@pytest.mark.parametrize("number", [0.0, 0.3, 1 - 2**-53])
def test_a_token_of_no_probability_is_never_drawn(number: float) -> None:
    logits = np.array([-np.inf, -1e9, 1.1, -np.inf, 0.3, -2e9, -np.inf], np.float32)
    sampler = Sampler(OFF, 7)
    sampler.history.random = Fixed(number)
    assert sampler.sample(logits) == (4 if number > 0.9 else 2)


def test_the_same_seed_gives_the_same_tokens() -> None:
    def tokens(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(seed=seed, temperature=2), 1000)
        return [sampler.sample(logits_of(1000, i)) for i in range(20)]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)
    assert tokens(None) != tokens(None)


def test_the_numbers_behind_a_seed_stay_the_same() -> None:
    sampler = Sampler(SamplingParams(seed=42, top_k=0, top_p=1, min_p=0, temperature=1), 100)
    assert [sampler.sample(np.zeros(100, np.float32)) for _ in range(5)] == [77, 43, 85, 69, 9]


def test_logits_are_left_as_they_are() -> None:
    params = SamplingParams(logit_bias={3: 5.0}, repeat_penalty=2, temperature=0.5, seed=1)
    logits = logits_of(3000)
    before = logits.copy()
    Sampler(params, 3000, prompt=[1, 2, 3]).sample(logits)
    assert np.array_equal(logits, before)


def test_ends_are_never_drawn_when_they_are_to_be_ignored() -> None:
    logits = np.array([0, 9, 9, 1], np.float32)
    going_on = SamplingParams(ignore_eos=True, temperature=0, logit_bias={1: 100.0})
    assert Sampler(going_on, 4, eog_ids={1, 2}).sample(logits) == 3
    assert Sampler(replace(going_on, ignore_eos=False), 4, eog_ids={1, 2}).sample(logits) == 1


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=0), OFF])
@pytest.mark.parametrize("n_vocab", [4, 5000])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({0: np.nan}, r"token 0 has nan \(1 are NaN or \+Inf\)"),
        ({2: np.inf, 3: np.nan}, r"token 2 has inf \(2 are NaN or \+Inf\)"),
        ({-1: np.inf}, r"has inf \(1 are"),
        (dict.fromkeys(range(5000), -np.inf), "all are -inf"),
    ],
)
def test_logits_that_are_not_finite_are_refused(
    params: SamplingParams, n_vocab: int, values: dict[int, float], message: str
) -> None:
    logits = logits_of(n_vocab)
    for index, value in values.items():
        if index < n_vocab:
            logits[index] = value
    with pytest.raises(NonFiniteLogits, match=message):
        Sampler(params, n_vocab).sample(logits)


def test_some_logits_may_be_minus_infinity_but_not_all() -> None:
    logits = np.array([1, -np.inf, 0], np.float32)
    banned = SamplingParams(logit_bias={0: -math.inf})
    assert {Sampler(banned, 3).sample(logits) for _ in range(50)} == {2}
    with pytest.raises(NonFiniteLogits, match="all are -inf"):
        Sampler(replace(banned, logit_bias={0: -math.inf, 2: -math.inf}), 3).sample(logits)


EXTREMES = st.sampled_from([-np.inf, -3.4e38, -1e30, -100, -1e-45, 0, 1e-45, 1, 100, 3.4e38])


@settings(max_examples=500, deadline=None)
@given(data=st.data(), values=st.lists(EXTREMES, min_size=1, max_size=30))
def test_no_parameters_and_logits_are_too_much(data: st.DataObject, values: list[float]) -> None:
    """A token of some probability is drawn, without a warning from numpy."""
    numbers = {
        "temperature": (0, 1e-300, 1e-30, 1, 100), "dynatemp_range": (0, 0.5, 100),
        "dynatemp_exponent": (0, 1, 100), "top_k": (0, 1, 10**6), "top_p": (0, 1e-300, 0.5, 1),
        "min_p": (0, 1e-300, 1), "typ_p": (0, 1e-300, 0.9, 1), "top_n_sigma": (-1, 0, 1e-300, 100),
        "xtc_probability": (0, 0.5, 1), "xtc_threshold": (0, 1e-300, 0.5), "mirostat": (0, 2),
        "mirostat_tau": (0, 100), "mirostat_eta": (0, 100), "repeat_penalty": (0.01, 1, 100),
        "presence_penalty": (-100, 0, 100), "frequency_penalty": (-100, 0, 100),
        "repeat_last_n": (-1, 0, 1, 64), "dry_multiplier": (0, 1e-300, 100),
        "dry_base": (1, 1.75, 100), "dry_allowed_length": (1, 2**31 - 1),
        "dry_penalty_last_n": (-1, 0, 1, 2**31 - 1), "seed": (0, 1, 2),
    }  # fmt: skip
    given = {name: data.draw(st.sampled_from(some)) for name, some in numbers.items()}
    names = data.draw(st.lists(st.sampled_from(DEFAULT_ORDER), max_size=12))
    params = SamplingParams(**given, samplers=names, dry_sequence_breakers=[])
    logits = np.array(values, np.float32)
    prompt = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=20))
    sampler = Sampler(params, len(values), prompt=prompt)
    with np.errstate(all="raise", under="ignore"):
        for _ in range(3):
            try:
                token_id = sampler.sample(logits)
            except NonFiniteLogits:
                assert abs(logits.max()) > 1e30 or params.repeat_penalty != 1
                break
            assert logits[token_id] > -np.inf
            sampler.accept(token_id)


@pytest.mark.parametrize("shape", [(4,), (6,), (5, 1), ()])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits have shape .*; it must be \(5,\)"):
        Sampler(SamplingParams(), 5).sample(np.zeros(shape, np.float32))


@pytest.mark.parametrize("token_id", [-1, 5])
def test_a_token_out_of_the_vocabulary_is_refused(token_id: int) -> None:
    refused = pytest.raises(ValueError, match=f"is {token_id}; it must be 0 to 4")
    with refused:
        Sampler(SamplingParams(), 5).accept(token_id)
    with pytest.raises(ValueError, match=f"is {token_id}; it must be 0 to 4"):
        Sampler(SamplingParams(), 5, prompt=[0, token_id])
    with pytest.raises(ValueError, match="it must be 0 to 4"):
        Sampler(SamplingParams(logit_bias={5: 1.0}), 5)
