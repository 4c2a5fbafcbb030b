"""Answers on a terminal: reasoning is dim, and nothing else of the text changes."""

from __future__ import annotations

import sys

import pytest

from linnet import Chunk
from linnet.engine.chat.formats.parts import Part
from linnet.engine.cli.painter import DIM, PLAIN, Painter

CHUNKS = [
    Chunk("<think>", part=Part()), Chunk("w", part=Part(reasoning="w")),
    Chunk("hy", part=Part(reasoning="hy")), Chunk("</think>", part=Part()),
    Chunk("so", part=Part(content="so")),
]  # fmt: skip
TEXT = "<think>why</think>so"


def painted(capsys: pytest.CaptureFixture[str], chunks: list[Chunk]) -> str:
    painter = Painter()
    for chunk in chunks:
        painter.write(chunk)
    painter.end()
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
    assert painted(capsys, CHUNKS) == f"<think>{DIM}why</think>{PLAIN}so"
    assert painted(capsys, CHUNKS[:2]) == f"<think>{DIM}w{PLAIN}"  # stopped there


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}], ids=str)
def test_not_where_colours_are_not_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, env: dict[str, str]
) -> None:
    at_terminal(monkeypatch, **env)
    assert painted(capsys, CHUNKS) == TEXT


def test_a_pipe_has_the_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert painted(capsys, CHUNKS) == TEXT
