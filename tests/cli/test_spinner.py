"""What moves on stderr until there is something to show."""

from __future__ import annotations

import io
import re
import sys
import threading

import pytest
from test_cli import Terminal

from linnet.engine.cli.repl import spinner as module
from linnet.engine.cli.repl.spinner import spinner

SECONDS = 20.0  # for what should take none


class Watched(Terminal):
    """A terminal that can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._written = threading.Condition()

    def write(self, text: str) -> int:
        with self._written:
            self._written.notify_all()
            return super().write(text)

    def shows(self, text: str) -> bool:
        with self._written:
            return self._written.wait_for(lambda: text in self.getvalue(), SECONDS)


def watch(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """A terminal as stderr from now on, where every picture is shown at once."""
    terminal = Watched()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "PATIENCE", 0)
    monkeypatch.setattr(module, "SECONDS", 0.001)
    return terminal


def test_a_line_that_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watch(monkeypatch)
    with spinner("thinking" * 20) as spinning:
        assert spinning
        assert terminal.shows("/ think")  # the second picture
        spinning.stop()
        first, *_, last, after = terminal.getvalue().split("\x1b[K")
    assert re.fullmatch(r"\r\| (thinking){9}thi", first)  # of 80 columns
    assert (last, after) == ("\r", "")
    assert terminal.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize("n_tokens", [11, 108])
@pytest.mark.parametrize("n_first", [0, 2, 100])
def test_a_bar_for_a_prompt_of_several_passes(
    monkeypatch: pytest.MonkeyPatch, n_first: int, n_tokens: int
) -> None:
    terminal = watch(monkeypatch)
    takes_several = n_tokens - n_first > 8
    with spinner("thinking", 8) as spinning:
        assert spinning
        assert terminal.shows("thinking")
        spinning(n_first, n_tokens)
        spinning(n_first + 4, n_tokens)
        if takes_several:
            assert terminal.shows(f" {n_first + 4}/{n_tokens} [")
    assert ("prompt:" in terminal.getvalue()) == takes_several


def test_none_that_was_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watch(monkeypatch)
    monkeypatch.setattr(module, "PATIENCE", SECONDS)
    with spinner("thinking") as spinning:
        assert spinning
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(("term", "stderr"), [("dumb", Terminal), ("xterm", io.StringIO)])
def test_none_without_a_cursor(
    monkeypatch: pytest.MonkeyPatch, term: str, stderr: type[io.StringIO]
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr())
    monkeypatch.setenv("TERM", term)
    with spinner("thinking") as spinning:
        assert spinning is None
