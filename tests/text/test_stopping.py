"""Stop strings in a text that comes in pieces: against looking at the whole text."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.byte_pairs import CONTROL, USER_DEFINED, build

from linnet.engine.text.stopping import StopMatcher, StoppingDetokenizer

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


# ---- in tokens -----------------------------------------------------------------------------------

TOKENIZER = build(specials={"<|end|>": CONTROL, "<|go|>": CONTROL, "<tool>": USER_DEFINED})


def stopped(ids: list[int], *stop: str, skip_special: bool = True) -> tuple[str, str | None]:
    """The text before a stop string, and that string, if there was one."""
    detokenizer = StoppingDetokenizer(TOKENIZER, stop, skip_special=skip_special)
    text = "".join([*map(detokenizer.push, ids), detokenizer.finish()])
    return text, detokenizer.matched


@pytest.mark.parametrize("skip_special", [True, False])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("<|end|>", "a<tool>b"),
        ("b<|end|>", "a<tool>"),
        ("<|end|>c", "a<tool>b"),
        ("<tool>", "a"),
        ("<tool>b<|end|>cd", "a"),
    ],
)
def test_a_control_token_in_a_stop_string_is_found(
    stop: str, expected: str, skip_special: bool
) -> None:
    ids = TOKENIZER.encode("a<tool>b<|end|>cd", add_special=False, parse_special=True)
    assert stopped(ids, "zz", stop, skip_special=skip_special) == (expected, stop)


def test_a_control_token_that_the_model_spells_is_found() -> None:
    assert stopped(TOKENIZER.encode("a<|end|>b"), "<|end|>")[0] == "a"


@pytest.mark.parametrize("stop", ["end", "<", "|>", "<|go|>d", "<|end|><|go|>", "b<|go|>"])
def test_a_part_of_a_control_token_stops_nothing_where_it_gives_no_text(stop: str) -> None:
    ids = TOKENIZER.encode("ab<|end|>c<|go|>", add_special=False, parse_special=True)
    assert stopped(ids, stop) == ("abc", None)


def test_text_around_a_control_token_is_text_in_a_row() -> None:
    """As it is seen; the token itself stops nothing here."""
    ids = TOKENIZER.encode("ab<|go|>cd", add_special=False, parse_special=True)
    assert stopped(ids, "bc", "<|end|>") == ("a", "bc")


def test_without_a_stop_string_all_is_text() -> None:
    ids = TOKENIZER.encode("ab<|go|>é<|end|>", add_special=False, parse_special=True)
    assert stopped(ids) == ("abé", None)
    assert stopped(ids, skip_special=False) == ("ab<|go|>é<|end|>", None)
