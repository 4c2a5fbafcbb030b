"""How prompts share a pass, and how passes over them are bounded in time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.engine.running.policy import DECODE_PASSES, FEWEST, SECONDS, PromptPasses, shares


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
    passes, bound = PromptPasses(), max(SECONDS, fixed + each * FEWEST)
    seconds = 0.0
    for _ in range(40):
        seconds = fixed + each * passes.size
        passes.ran(seconds, decode_seconds=0.02)
        assert fixed + each * passes.size <= bound + each
    assert seconds > 0.9 * bound


def test_where_weights_alone_take_longer_to_read_so_may_a_pass() -> None:
    passes = PromptPasses()
    for _ in range(40):
        passes.ran(0.3 + 0.01 * passes.size, decode_seconds=0.2)
    assert pytest.approx(0.3 + 0.01 * passes.size, rel=0.1) == DECODE_PASSES * 0.2
    for _ in range(40):
        passes.ran(1.0, decode_seconds=0.02)
    assert passes.size == FEWEST


def test_decoding_has_as_much_time_as_a_pass_over_prompts_took() -> None:
    passes = PromptPasses()
    assert passes.due
    passes.ran(0.1, decode_seconds=0.03)
    for _ in range(3):
        passes.decoded(0.03)
        assert not passes.due
    passes.decoded(0.03)
    assert passes.due
