"""How prompts share a pass, and how passes over them are bounded in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.engine.running.policy import (
    DECODE_PASSES,
    FEWEST,
    FEWEST_ALONE,
    GAP,
    SECONDS_ALONE,
    PassSize,
    PromptPasses,
    shares,
)


@given(st.lists(st.integers(1, 1000), max_size=9), st.integers(1, 1000))
def test_a_pass_is_shared_out_evenly_and_filled(lengths: list[int], size: int) -> None:
    given_out = shares(lengths, size)
    assert sum(given_out) == min(size, sum(lengths))
    assert all(0 <= n <= length for n, length in zip(given_out, lengths, strict=True))
    cut = [n for n, length in zip(given_out, lengths, strict=True) if n < length]
    if cut:  # nobody has more than who was cut short, but for a token left over
        assert max(given_out) <= min(cut) + 1


def test_what_is_left_over_goes_to_the_first() -> None:
    assert shares([100, 100, 3], 8) == [3, 3, 2]
    assert shares([5, 1, 100], 100) == [5, 1, 94]
    assert shares([7, 7], 1) == [1, 0]


@pytest.mark.parametrize("fixed", [0.0, 0.01, 0.06])
@pytest.mark.parametrize("each", [0.0002, 0.002, 0.004])
def test_passes_come_near_the_bound_from_below(fixed: float, each: float) -> None:
    """Of seconds that a pass takes whatever its size, and seconds a token."""
    size, bound = PassSize(FEWEST, 4096), max(0.16, fixed + each * FEWEST)
    seconds = 0.0
    for _ in range(40):
        seconds = fixed + each * size.tokens
        size.ran(size.tokens, seconds, bound)
        assert fixed + each * size.tokens <= bound + each
    assert seconds > 0.9 * bound


def test_a_pass_that_is_not_full_makes_the_next_no_larger() -> None:
    size = PassSize(8, 512)
    size.ran(7, 0.001, 0.1)
    assert size.tokens == 8
    for _ in range(3):
        size.ran(size.tokens, 0.01, 0.1)
    assert size.tokens == 64
    size.ran(32, 0.2, 0.1)  # but smaller, where even so few took too long
    assert size.tokens == 16


@pytest.mark.parametrize("most", [1, FEWEST, 512])
def test_passes_stay_within_their_size_however_fast_they_are(most: int) -> None:
    size = PassSize(FEWEST, most)
    assert 0 < size.tokens <= most
    for _ in range(2000):  # so many doublings would be beyond any number
        size.ran(size.tokens, 1e-6, 0.1)
    assert size.tokens == most


def ran(passes: PromptPasses, seconds: float, *, n_prompts: int = 1, n_decoding: int = 1) -> None:
    passes.ran(passes.beside.tokens, seconds, n_prompts, n_decoding)


def test_a_token_and_a_pass_over_prompts_fit_the_gap() -> None:
    passes = PromptPasses(512)
    for _ in range(40):
        passes.decoded(0.03)
        ran(passes, 0.05 + 0.004 * passes.beside.tokens)
    assert pytest.approx(0.05 + 0.004 * passes.beside.tokens, abs=0.004) == GAP - 0.03


def test_where_weights_alone_take_longer_to_read_so_may_a_pass() -> None:
    passes = PromptPasses(512)
    for _ in range(40):
        passes.decoded(0.2)
        ran(passes, 0.3 + 0.01 * passes.beside.tokens)
    assert pytest.approx(0.3 + 0.01 * passes.beside.tokens, rel=0.1) == DECODE_PASSES * 0.2
    for _ in range(40):
        passes.decoded(0.02)
        ran(passes, 1.0)
    assert passes.beside.tokens == FEWEST


def test_decoding_has_as_much_time_as_a_pass_over_prompts_took() -> None:
    passes = PromptPasses(512)
    assert passes.due
    ran(passes, 0.1, n_decoding=7)
    for _ in range(3):
        passes.decoded(0.03)
        assert not passes.due
    passes.decoded(0.03)
    assert passes.due


def test_fewer_that_decode_than_prompts_have_less_of_the_time() -> None:
    passes = PromptPasses(512)
    ran(passes, 0.1, n_prompts=4, n_decoding=1)
    assert not passes.due
    passes.decoded(0.025)
    assert passes.due


def test_prompts_alone_leave_off_for_who_arrives_but_not_for_little() -> None:
    passes = PromptPasses(512)
    for _ in range(10):
        passes.ran(passes.alone.tokens, 0.002 * passes.alone.tokens, 1, 0)
    assert passes.alone.tokens == pytest.approx(SECONDS_ALONE / 0.002, abs=1)
    for _ in range(10):
        passes.ran(passes.alone.tokens, 0.05 * passes.alone.tokens, 1, 0)
    assert passes.alone.tokens == FEWEST_ALONE
    assert passes.due
