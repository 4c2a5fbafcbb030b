"""Words are wrapped as they come: what a terminal shows depends on no cut of the text."""

from __future__ import annotations

import textwrap
from unicodedata import normalize

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linnet.engine.cli.repl.wrap import WordWrap

ROWS = 200
words = st.text("abé", min_size=1, max_size=12)


def shown(pieces: list[str], columns: int) -> list[str]:
    """The lines of a terminal that is given an answer in pieces."""
    wrap, screen = WordWrap(lambda: columns), pyte.Screen(columns, ROWS)
    stream = pyte.Stream(screen)
    for piece in pieces:
        stream.feed(wrap.push(piece).replace("\n", "\r\n"))
    return [row.rstrip() for row in screen.display[: screen.cursor.y + 1]]


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places})
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


@given(st.lists(st.lists(words, max_size=9), max_size=4), st.lists(st.integers(0, 999)))
def test_lines_are_those_of_the_whole_text(lines: list[list[str]], places: list[int]) -> None:
    columns = 17
    text = "\n".join(map(" ".join, lines))
    expected = [part for line in lines for part in textwrap.wrap(" ".join(line), 16) or [""]]
    assert shown(cut(text, places), columns) == (expected or [""])


@given(
    st.lists(st.sampled_from(["a", "b", "漢", "e\u0301", " ", "\t", "\n", "-"]), max_size=90),
    st.lists(st.integers(0, 999)),
    st.integers(3, 20),
)
def test_no_cut_shows(characters: list[str], places: list[int], columns: int) -> None:
    text = "".join(characters)
    whole = shown([text], columns)
    assert shown(cut(text, places), columns) == whole
    found = "".join("".join(whole).split())
    assert normalize("NFD", found) == normalize("NFD", "".join(text.split()))  # nothing twice


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("see https://a.bc/def ok", ["see", "https://a", ".bc/def", "ok"]),  # longer than a line
        ("漢字漢字漢字", ["漢字漢字", "漢字"]),  # may be broken anywhere
        ("ab漢字漢字", ["ab漢字漢", "字"]),
        ("abc def     ghi", ["abc def", "ghi"]),  # blanks do not begin a line
        ("a\tb\tc", ["a       b", "c"]),
        ("  abcdefgh", ["", "abcdefgh"]),
        ("abc defghi", ["abc", "defghi"]),
    ],
)
def test_where_lines_break(text: str, lines: list[str]) -> None:
    assert shown([*text], 10) == lines


def test_a_terminal_of_another_width() -> None:
    """What is shown is left alone: it may be on another line by now."""
    columns = 20
    wrap = WordWrap(lambda: columns)
    assert wrap.push("one two thr") == "one two thr"
    columns = 10
    assert wrap.push("ee fo four fi") == "ee fo fo\x1b[2D\x1b[K\nfour fi"  # from column 1
    columns = 40
    assert wrap.push("ve six") == "ve six"


def test_what_is_settled_is_not_taken_back() -> None:
    wrap = WordWrap(lambda: 10)
    assert wrap.push("one two t") == "one two t"
    wrap.settle()
    assert wrap.push("hree") == "\nhree"
