"""Answers on a terminal: reasoning is dim, lines are broken, and nothing else changes."""

from __future__ import annotations

import sys

import pytest

from linnet import Chunk
from linnet.engine.chat.formats.parts import Part
from linnet.engine.cli.repl.painter import DIM, PLAIN, Painter

CHUNKS = [
    Chunk("<think>", part=Part()), Chunk("w", part=Part(reasoning="w")),
    Chunk("hy", part=Part(reasoning="hy")), Chunk("</think>", part=Part()),
    Chunk("so", part=Part(content="so")),
]  # fmt: skip
TEXT = "<think>why</think>so\n"


def painted(capsys: pytest.CaptureFixture[str], chunks: list[Chunk], *, end: bool = True) -> str:
    painter = Painter()
    for chunk in chunks:
        painter.write(chunk)
    if end:
        painter.end()
    else:
        painter.stop()
    return capsys.readouterr().out


def at_terminal(monkeypatch: pytest.MonkeyPatch, **env: str) -> None:
    """Have stdout be one, from now on."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for name, value in {"TERM": "xterm", "NO_COLOR": "", **env}.items():
        monkeypatch.setenv(name, value)


def test_reasoning_is_dim(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_terminal(monkeypatch)
    assert painted(capsys, CHUNKS) == f"<think>{DIM}why</think>{PLAIN}so\n"
    assert painted(capsys, CHUNKS[:2], end=False) == f"<think>{DIM}w{PLAIN}"  # stopped there


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}], ids=str)
def test_not_where_colours_are_not_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, env: dict[str, str]
) -> None:
    at_terminal(monkeypatch, **env)
    assert painted(capsys, CHUNKS) == TEXT


def test_words_are_wrapped_where_the_cursor_moves(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{'a ' * 39}\x1bab\n"
    lines = f"{'a ' * 39}\n".replace(" \n", " \\\x1b[1D\x1b[K\n\\x1bab\n")
    at_terminal(monkeypatch, NO_COLOR="1")
    assert painted(capsys, [Chunk(text)]) == lines
    monkeypatch.setenv("TERM", "dumb")
    assert painted(capsys, [Chunk(text)]) == text.replace("\x1b", r"\x1b")


def test_a_pipe_has_the_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert painted(capsys, CHUNKS) == TEXT
