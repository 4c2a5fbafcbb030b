"""Sampling parameters: what they take, what they are kept as, and what they refuse."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from linnet.engine.sampling.parameter import MAX_STOP_CHARACTERS
from linnet.engine.sampling.params import PARAMETERS, SamplingParams

WITHOUT_FLAG = {  # of token ids and functions, which programs know
    "stop_token_ids", "logits_processors"
}  # fmt: skip
INTEGERS = {
    "max_tokens": 0, "top_k": 0, "repeat_last_n": -1, "seed": 0, "dry_allowed_length": 1,
    "dry_penalty_last_n": -1, "min_tokens": 0, "logprobs": 0, "prompt_logprobs": 0,
}  # fmt: skip
NUMBERS = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typ_p": (0, 1),
    "top_n_sigma": (-1, 100),
    "xtc_probability": (0, 1),
    "xtc_threshold": (0, 1),
    "dynatemp_range": (0, 100),
    "dynatemp_exponent": (0, 100),
    "repeat_penalty": (0.01, 100),
    "presence_penalty": (-100, 100),
    "frequency_penalty": (-100, 100),
    "dry_multiplier": (0, 100),
    "dry_base": (1, 100),
    "mirostat_tau": (0, 100),
    "mirostat_eta": (0, 100),
}


def test_every_parameter_says_what_it_takes_and_has_a_flag_or_a_reason_for_none() -> None:
    for name in SamplingParams.__slots__:
        with pytest.raises(ValueError, match=f"^{name} is .*; it must be "):
            SamplingParams(**{name: object()})
    assert {name for name in PARAMETERS if not PARAMETERS[name].flags} == WITHOUT_FLAG
    flags = [flag for parameter in PARAMETERS.values() for flag in parameter.flags]
    assert all(re.fullmatch(r"-\w{1,2}|--[a-z][a-z-]+", flag) for flag in flags)


@pytest.mark.parametrize("name", ["max_tokens", "seed", "logprobs", "prompt_logprobs"])
def test_minus_one_is_none(name: str) -> None:
    for value in (-1, None, np.int64(-1)):
        assert getattr(SamplingParams(**{name: value}), name) is None
    assert SamplingParams(top_k=-1).top_k == 0


def test_a_text_has_a_length_by_default() -> None:
    assert SamplingParams().max_tokens == SamplingParams.from_metadata({}).max_tokens == 512


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_checked(name: str) -> None:
    low = INTEGERS[name]
    for value in (True, 1.0, -1.0, math.nan, "1", low - 2, 2**64, np.float32(1), [1]):
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
    for value in (low, high, 1, np.float32(1.5) if low == 1 else np.float32(0.5)):
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
        ({"seed": -2}, "seed is -2; it must be an integer from 0 to .*, or -1 or None"),
        ({"min_tokens": 513}, "min_tokens is 513; it must be at most max_tokens, which is 512"),
        ({"mirostat": 1}, "mirostat is 1; it must be 0, which is off, or 2, which is Mirostat 2.0"),
        ({"mirostat": 2.0}, r"mirostat is 2\.0"),
        ({"mirostat": True}, "mirostat is True"),
        (
            {"samplers": "top_k;top_q"},
            r"samplers\[1\] is 'top_q'; it must be one of penalties,",
        ),
        ({"samplers": ["infill"]}, r"samplers\[0\] is 'infill'"),
        ({"samplers": ""}, r"samplers\[0\] is ''"),
        ({"samplers": [7]}, r"samplers\[0\] is 7"),
        ({"samplers": 7}, "samplers is 7; it must be at most 100 names"),
        ({"samplers": "top_k;" * 100}, "samplers is 'top_k;.*; it must be at most 100 names"),
        ({"dry_sequence_breakers": ["a" * 41]}, r"dry_sequence_breakers\[0\] is .* 40 bytes"),
        ({"dry_sequence_breakers": ["é" * 21]}, r"dry_sequence_breakers\[0\] is .* 40 bytes"),
        ({"dry_sequence_breakers": ["a", ""]}, r"dry_sequence_breakers\[1\] is ''"),
        ({"dry_sequence_breakers": ["\udcff"]}, r"dry_sequence_breakers\[0\] is '\\udcff'"),
        ({"dry_sequence_breakers": ["a"] * 101}, "has 101 strings; it must be at most 100"),
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


def test_samplers_go_by_the_names_that_llama_cli_knows() -> None:
    names = "Top-K;topp;nucleus;typ;typ-p;MIN_P;temp;xtc;top-n-sigma;topnsigma;penalties;dry"
    assert SamplingParams(samplers=names).samplers == (
        "top_k", "top_p", "top_p", "typ_p", "typ_p", "min_p", "temperature", "xtc", "top_n_sigma",
        "top_n_sigma", "penalties", "dry",
    )  # fmt: skip
    assert SamplingParams(samplers=names.split(";")) == SamplingParams(samplers=names)
    assert SamplingParams(samplers=[]).samplers == ()


def test_breakers_are_strings_or_none() -> None:
    def kept(breakers: object) -> tuple[str, ...]:
        return tuple(SamplingParams(dry_sequence_breakers=breakers).dry_sequence_breakers)

    assert kept("\n") == ("\n",)
    assert kept(["é" * 20, "none"]) == ("é" * 20, "none")
    assert kept([]) == kept("none") == kept(["none"]) == ()
