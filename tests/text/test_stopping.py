"""Stop strings in a text that comes in pieces: against looking at the whole text."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linnet.engine.text.stopping import StopMatcher

QUICK = settings(max_examples=200, deadline=None)
STRINGS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)
PIECES = st.lists(st.text("abc", max_size=6), max_size=8)


def first_stop(text: str, stop: list[str]) -> tuple[int, str] | None:
    """Where the first stop string to be complete begins, and which it is: the longest there."""
    for end in range(len(text) + 1):
        complete = [string for string in stop if text[:end].endswith(string)]
        if complete:
            longest = max(complete, key=len)
            return end - len(longest), longest
    return None


@QUICK
@given(stop=STRINGS, pieces=PIECES)
def test_the_text_ends_before_the_first_stop_string(stop: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    start, matched = first_stop(text, stop) or (len(text), None)
    matcher = StopMatcher(stop)
    given_out = "".join([matcher.push(piece) for piece in pieces] + [matcher.finish()])
    assert given_out == text[:start]
    assert matcher.matched == matched


@QUICK
@given(stop=STRINGS, pieces=PIECES)
def test_no_more_text_is_held_than_could_begin_a_stop_string(
    stop: list[str], pieces: list[str]
) -> None:
    matcher = StopMatcher(stop)
    text = given_out = ""
    for piece in pieces:
        text += piece
        given_out += matcher.push(piece)
        if matcher.matched:
            break
        beginnings = [string[:n] for string in stop for n in range(len(string))]
        longest = max((len(b) for b in beginnings if text.endswith(b)), default=0)
        assert given_out == text[: len(text) - longest]


def test_nothing_comes_out_after_a_stop_string() -> None:
    matcher = StopMatcher(["\n\n", "User:"])
    assert matcher.push("one\n") == "one"
    assert matcher.matched is None
    assert matcher.push("\ntwo") == ""
    assert matcher.matched == "\n\n"
    assert matcher.push("three") == ""
    assert matcher.finish() == ""


def test_text_that_was_held_comes_out_at_the_end() -> None:
    matcher = StopMatcher(["</done>"])
    assert [matcher.push(piece) for piece in ("a<", "/do", "ne", "?</")] == ["a", "", "", "</done?"]
    assert matcher.finish() == "</"
    assert matcher.finish() == ""


def test_without_stop_strings_text_goes_through() -> None:
    matcher = StopMatcher([])
    assert matcher.push("any") == "any"
    assert matcher.finish() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="a stop string is ''; it must have at least 1 character"):
        StopMatcher(["a", ""])


@pytest.mark.parametrize(
    "stop",
    [
        ["".join(random.Random(i).choices("abcd", k=12)) + "!" for i in range(10_000)],
        ["a" * 5_000 + "b"],
        ["a" * n + "b" for n in range(1, 500)],
    ],
    ids=["ten thousand", "long", "nested"],
)
def test_time_is_linear_in_the_text_whatever_the_stop_strings(stop: list[str]) -> None:
    text = "a" * 100_000
    start = time.perf_counter()
    matcher = StopMatcher(stop)
    given_out = sum(len(matcher.push(text[at : at + 4])) for at in range(0, len(text), 4))
    assert time.perf_counter() - start < 2
    assert len(text) - given_out == len(text) - len(text) + len(matcher.finish())
    assert matcher.matched is None
