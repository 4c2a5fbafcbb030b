"""Sampling: parameters, each sampler against its formula in float64, and what comes out."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from linnet.engine.sampling.params import MAX_STOP_CHARACTERS, PARAMETERS
from linnet.engine.sampling.samplers import (
    SAMPLERS,
    Candidates,
    NonFiniteLogits,
    Sampler,
    SamplingParams,
    make_chain,
)

QUICK = settings(max_examples=100, deadline=None)
Logits = NDArray[np.float32]

# Every sampler off: the softmax of the logits as they are.
OFF = SamplingParams(temperature=1, top_k=0, top_p=1, min_p=0)
# For each sampler, parameters that turn it on, and it alone.
ON: dict[str, dict[str, Any]] = {
    "logit_bias": {"logit_bias": {1: 2.0}},
    "penalties": {"repeat_penalty": 1.5, "presence_penalty": 0.25, "frequency_penalty": 0.5},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.3},
    "temperature": {"temperature": 0.5},
}


def logits_of(n: int, seed: int = 0, spread: float = 2.0) -> Logits:
    return (np.random.default_rng(seed).normal(size=n) * spread).astype(np.float32)


def probabilities(
    params: SamplingParams, logits: Logits, recent: list[int] | None = None
) -> dict[int, float]:
    """The probability of each token that may be drawn, by the samplers as they stand."""
    candidates = Candidates(np.arange(len(logits)), logits)
    for apply in make_chain(params):
        candidates = apply(candidates, params, Counter(recent or []))
    weights = candidates.weights() / candidates.weights().sum()
    return {int(i): float(p) for i, p in zip(candidates.ids, weights, strict=True) if p > 0}


def expected(
    params: SamplingParams, logits: Logits, recent: list[int] | None = None
) -> dict[int, float]:
    """The same in plain float64, from the formulas."""
    logit = {i: float(value) for i, value in enumerate(logits)}
    for i, bias in params.logit_bias.items():
        logit[i] += bias
    for i, count in Counter(recent or []).items():
        logit[i] *= params.repeat_penalty if logit[i] <= 0 else 1 / params.repeat_penalty
        logit[i] -= params.presence_penalty + count * params.frequency_penalty
    order = sorted(logit, key=lambda i: (-logit[i], i))
    order = order[: params.top_k or None]
    weight = {i: math.exp(logit[i] - logit[order[0]]) for i in order}
    reached, kept = 0.0, []
    for i in order:
        kept.append(i)
        reached += weight[i] / sum(weight.values())
        if params.top_p < 1 and reached >= params.top_p:
            break
    kept = [i for i in kept if weight[i] >= params.min_p]
    if params.temperature == 0:
        return {kept[0]: 1.0}
    weight = {i: weight[i] ** (1 / params.temperature) for i in kept}
    return {i: w / sum(weight.values()) for i, w in weight.items() if w > 0}


# ---- the registry --------------------------------------------------------------------------------


def test_the_order_is_that_of_llama_cli() -> None:
    names = [stage.apply.__name__ for stage in SAMPLERS]
    assert names == ["logit_bias", "penalties", "top_k", "top_p", "min_p", "temperature"]
    assert names == list(ON)


def test_the_defaults_are_those_of_llama_cli() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.8, 40, 0.95, 0.05)
    assert (params.repeat_penalty, params.repeat_last_n) == (1.0, 64)
    assert (params.presence_penalty, params.frequency_penalty) == (0.0, 0.0)
    assert [f.__name__ for f in make_chain(params)] == ["top_k", "top_p", "min_p", "temperature"]


@pytest.mark.parametrize("name", ON)
def test_a_sampler_runs_only_when_its_parameters_ask_for_it(name: str) -> None:
    assert make_chain(OFF) == []
    assert [f.__name__ for f in make_chain(replace(OFF, **ON[name]))] == [name]


@pytest.mark.parametrize("name", ON)
@pytest.mark.parametrize("n_vocab", [5, 300, 2500])
def test_a_sampler_does_what_its_formula_says(name: str, n_vocab: int) -> None:
    params = replace(OFF, **ON[name])
    recent = [1, 2, 2, 4]
    for seed in range(3):
        logits = logits_of(n_vocab, seed)
        assert probabilities(params, logits, recent) == pytest.approx(
            expected(params, logits, recent if name == "penalties" else None), rel=1e-5
        )


@pytest.mark.parametrize("name", ON)
def test_a_sampler_changes_nothing_that_it_is_given(name: str) -> None:
    logits = logits_of(50)
    logits.flags.writeable = False
    recent = Counter([1, 1, 3])
    candidates = Candidates(np.arange(50), logits)
    (apply,) = make_chain(replace(OFF, **ON[name]))
    after = apply(candidates, replace(OFF, **ON[name]), recent)
    assert 1 <= len(after.ids) <= 50
    assert recent == Counter([1, 1, 3])


@QUICK
@given(data=st.data(), seed=st.integers(0, 1000), n_vocab=st.sampled_from([3, 40, 2500]))
def test_all_samplers_together_do_what_their_formulas_say(
    data: st.DataObject, seed: int, n_vocab: int
) -> None:
    some = st.sampled_from
    params = SamplingParams(
        top_k=data.draw(some([0, 1, 2, 40, 5000])),
        top_p=data.draw(some([0, 0.3, 0.9, 0.95, 1])),
        min_p=data.draw(some([0, 0.05, 0.4, 1])),
        temperature=data.draw(some([0, 0.3, 0.8, 1, 5])),
        repeat_penalty=data.draw(some([1, 1.3, 0.7])),
        presence_penalty=data.draw(some([0, 0.6])),
        frequency_penalty=data.draw(some([0, 0.2, -0.4])),
        logit_bias={2: data.draw(some([-1.0, 3.0]))} if data.draw(st.booleans()) else {},
    )
    logits = logits_of(n_vocab, seed, spread=data.draw(some([0.3, 2, 8])))
    recent = data.draw(st.lists(st.integers(0, 2), max_size=9))
    assert probabilities(params, logits, recent) == pytest.approx(
        expected(params, logits, recent), rel=1e-4, abs=1e-12
    )


# ---- single samplers -----------------------------------------------------------------------------


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
    (apply,) = make_chain(replace(OFF, top_k=k))
    kept = apply(Candidates(np.arange(n_vocab), logits), replace(OFF, top_k=k), {})
    assert kept.ids.tolist() == np.lexsort((np.arange(n_vocab), -logits))[:k].tolist()
    assert kept.logits.tolist() == logits[kept.ids].tolist()


def test_penalties_by_hand() -> None:
    logits = np.array([2, -2, 2, 0], np.float32)
    params = replace(OFF, repeat_penalty=2, presence_penalty=0.5, frequency_penalty=0.25)
    (apply,) = make_chain(params)
    after = apply(Candidates(np.arange(4), logits), params, {0: 1, 1: 2})
    assert after.logits.tolist() == [2 / 2 - 0.5 - 0.25, -2 * 2 - 0.5 - 2 * 0.25, 2, 0]


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
    (apply,) = make_chain(params)
    kept = apply(Candidates(np.arange(4000), logits), params, {}).ids
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


# ---- drawing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_vocab", [5, 3000])
@pytest.mark.parametrize("name", ON)
def test_tokens_are_drawn_as_often_as_their_probabilities_say(name: str, n_vocab: int) -> None:
    params = replace(OFF, **ON[name], seed=7)
    logits = np.full(n_vocab, -30, np.float32)
    logits[-5:] = 1.0, 0.2, -0.3, 1.4, 0.6
    recent = [n_vocab - 1, n_vocab - 2]
    sampler = Sampler(params, n_vocab, prompt=recent)
    n_draws = 4000
    drawn = Counter(sampler.sample(logits) for _ in range(n_draws))
    shares = {i: p for i, p in expected(params, logits, recent).items() if p > 1e-9}
    assert drawn.keys() <= shares.keys()
    deviation = sum((drawn[i] - n_draws * p) ** 2 / (n_draws * p) for i, p in shares.items())
    assert deviation < 18.5  # of chi-square with 4 degrees of freedom, 99.9 per cent are below


class Fixed(np.random.Generator):
    """Random numbers that are always the same."""

    def __init__(self, number: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, *_: Any, **__: Any) -> Any:
        return self.number


@pytest.mark.parametrize("number", [0.0, 0.3, 1 - 2**-53])
def test_a_token_of_no_probability_is_never_drawn(number: float) -> None:
    logits = np.array([-np.inf, -1e9, 1.1, -np.inf, 0.3, -2e9, -np.inf], np.float32)
    sampler = Sampler(OFF, 7)
    sampler._random = Fixed(number)
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


def test_a_token_is_chosen_of_128k_in_less_than_a_millisecond() -> None:
    logits = logits_of(128_256)
    sampler = Sampler(SamplingParams(repeat_penalty=1.1), len(logits), prompt=range(64))

    def seconds() -> float:
        start = time.perf_counter()
        sampler.sample(logits)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(50)) < 1e-3


# ---- parameters ----------------------------------------------------------------------------------

WITHOUT_FLAG = {"logit_bias"}  # a mapping from token ids, which programs know
INTEGERS = {"max_tokens": 0, "top_k": 0, "repeat_last_n": -1, "seed": 0}
NUMBERS = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repeat_penalty": (0.01, 100),
    "presence_penalty": (-100, 100),
    "frequency_penalty": (-100, 100),
}


def test_every_parameter_says_what_it_takes_and_has_a_flag_or_a_reason_for_none() -> None:
    for name in SamplingParams.__slots__:
        with pytest.raises(ValueError, match=f"^{name} is .*; it must be "):
            SamplingParams(**{name: object()})
    assert {name for name in PARAMETERS if not PARAMETERS[name].flags} == WITHOUT_FLAG
    flags = [flag for parameter in PARAMETERS.values() for flag in parameter.flags]
    assert all(re.fullmatch(r"-\w|--[a-z][a-z-]+", flag) for flag in flags)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_checked(name: str) -> None:
    low = INTEGERS[name]
    for value in (True, 1.0, math.nan, "1", low - 1, 2**64, np.float32(1), [1]):
        with pytest.raises(ValueError, match=f"^{name} is .*; it must be an integer from {low} to"):
            SamplingParams(**{name: value})
    if name in ("top_k", "repeat_last_n"):
        with pytest.raises(ValueError, match=f"^{name} is None"):
            SamplingParams(**{name: None})
    for value in (low, 7, np.int64(7)):
        stored = getattr(SamplingParams(**{name: value}), name)
        assert stored == value
        assert type(stored) is int


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_checked(name: str) -> None:
    low, high = NUMBERS[name]
    for value in (
        True,
        math.nan,
        math.inf,
        "1",
        None,
        low - 1e-9,
        high + 1e-9,
        1e308,
        10**400,
        [1],
    ):
        with pytest.raises(ValueError, match=rf"^{name} is .*; it must be a number from {low} to"):
            SamplingParams(**{name: value})
    for value in (low, high, 1, np.float32(0.5)):
        stored = getattr(SamplingParams(**{name: value}), name)
        assert stored == value
        assert type(stored) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"logit_bias": [1, 2]}, "logit_bias is .*; it must be a mapping"),
        ({"logit_bias": {-1: 1.0}}, "a token id in logit_bias is -1; it must be an integer from 0"),
        ({"logit_bias": {"5": 1.0}}, "a token id in logit_bias is '5'"),
        ({"logit_bias": {5: math.nan}}, r"logit_bias\[5\] is nan; .* from -inf to 1000"),
        ({"logit_bias": {5: math.inf}}, r"logit_bias\[5\] is inf; .* from -inf to 1000"),
        ({"logit_bias": {5: True}}, r"logit_bias\[5\] is True"),
        ({"stop": ""}, r"stop\[0\] is ''; it must be a string of at least 1 character"),
        ({"stop": ["a", ""]}, r"stop\[1\] is ''"),
        ({"stop": ["a", 5]}, r"stop\[1\] is 5"),
        ({"stop": 5}, "stop is 5; it must be a string, or a list of strings"),
        ({"stop": ["a" * MAX_STOP_CHARACTERS, "b"]}, "stop has 1000001 characters; .* 1000000"),
        ({"ignore_eos": 1}, "ignore_eos is 1; it must be True or False"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_other_parameters_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParams(**values)


def test_what_parameters_are_kept_as() -> None:
    bias = {np.int64(3): -math.inf, 5: 1}
    params = SamplingParams(stop="end", logit_bias=bias, max_tokens=None)
    bias[7] = 1
    assert params.stop == ("end",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")
    assert params.logit_bias == {3: -math.inf, 5: 1.0}
    assert params.max_tokens is None
    assert hash(params) == hash(replace(params))
    assert SamplingParams(stop=[f"stop {i}" for i in range(10_000)]).stop[-1] == "stop 9999"
