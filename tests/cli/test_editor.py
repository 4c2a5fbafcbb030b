"""What keys do at the prompt of `linnet chat`, and what is kept of what was typed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from support.systems import is_private, needs_signals

from linnet.engine.cli.interrupts import end_in_order, held, in_order
from linnet.engine.cli.repl import history as module
from linnet.engine.cli.repl.blocks import begun, quoted
from linnet.engine.cli.repl.editor import Editor
from linnet.engine.cli.repl.history import LONGEST, HistoryFile

Typed = Callable[[str], str]
ENTER, ALT_ENTER, UP = "\r", "\x1b\r", "\x1b[A"


@pytest.fixture
def typed() -> Iterator[Typed]:
    """What a prompt gives for keys."""
    with create_pipe_input() as keys:
        editor = Editor(sys.stderr, history=False, input=keys, output=DummyOutput())

        def text(what: str, given: str = "") -> str:
            keys.send_bytes(what.encode(errors="surrogateescape"))
            return editor.text(given)

        yield text


def paste(text: str) -> str:
    return f"\x1b[200~{text}\x1b[201~"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        (paste("one\r\n\ttwo\r\n\r\nthree\n") + ENTER, "one\n\ttwo\n\nthree\n"),
        (paste("/*\n*/") + "x" + ENTER, "/*\n*/x"),
        (f"one{ALT_ENTER}two{ENTER}", "one\ntwo"),
        (f"one\\{ENTER}two{ENTER}", "one\ntwo"),
        (f"\\{ENTER}\\{ENTER}{ENTER}", "\n\n"),
        (f"a\\b\\ {ENTER}", "a\\b\\ "),  # not at the end
        (f'"""one{ENTER}two\\{ENTER}"""{ENTER}', '"""one\ntwo\\\n"""'),
        (f'say """{ENTER}', 'say """'),
        (f'"""ac\x1b[D{ENTER}b\x05"""{ENTER}', '"""a\nbc"""'),  # amid the text
        (f"ac\x1b[Db{ENTER}", "abc"),
        (f"/und\t{ENTER}", "/undo"),
        (f"/l\tx{ENTER}", "/load x"),
        (f"/stats of\t{ENTER}", "/stats off"),
        (f"/set top-p\t{ENTER}", "/set top-p"),
        (f"/set repeat-p\t1{ENTER}", "/set repeat-penalty1"),
        (f"/nope /bi\t{ENTER}", "/nope /bi"),
        (f"hello /und\t{ENTER}", "hello /und"),
    ],
)
def test_keys(typed: Typed, keys: str, text: str) -> None:
    assert typed(keys) == text


def test_files_are_completed(typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "a file.json").touch()
    for command in ("read", "save", "load", "model"):
        assert typed(f"/{command} {tmp_path}/a f\t{ENTER}") == f"/{command} {tmp_path}/a file.json"


def test_a_text_is_changed(typed: Typed) -> None:
    assert typed(f", three{ENTER}", given="one\ntwo") == "one\ntwo, three"


def test_what_ends_the_prompt(typed: Typed) -> None:
    with pytest.raises(KeyboardInterrupt):
        typed("half\x03")
    assert typed(f"whole{ENTER}") == "whole"
    assert typed(UP + ENTER) == "whole"
    with pytest.raises(EOFError):
        typed("\x04")
    with pytest.raises(ValueError, match="not text in UTF-8"):
        typed(f"\udcff{ENTER}")


@pytest.mark.parametrize(
    ("text", "so_far", "inner"),
    [
        ("a", None, None),
        ("a\\", "a\n", None),
        ('"""', '"""\n', None),
        ('""""', '""""\n', None),
        ('"""a\\', '"""a\\\n', None),
        ('"""a" ""', '"""a" ""\n', None),
        ('""""""', None, ""),
        ('"""a\\"""', None, "a\\"),
        ('"""\n\n/a\n\n"""  ', None, "\n/a\n"),
        ('a"""', None, None),
    ],
)
def test_blocks(text: str, so_far: str | None, inner: str | None) -> None:
    assert (begun(text), quoted(text)) == (so_far, inner)


# ---- the history ---------------------------------------------------------------------------------

ENTRIES = ["one", "two\nlines\\n", '"quoted"', "ünï\u2028\x85漢", "[1]"]


def test_a_history_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "linnet" / "history"
    for entry in (*ENTRIES, "  ", "a" * (LONGEST + 1), "\udcff"):
        HistoryFile(path).store_string(entry)
    assert [*HistoryFile(path).load_history_strings()] == ENTRIES[::-1]
    assert len(path.read_bytes().split(b"\n")) == len(ENTRIES) + 1
    assert is_private(path)


def test_lines_of_an_older_version(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_bytes(b'hello\n{"a": 1}\n"ope\n\xff\n\n7\n')
    assert [*HistoryFile(path).load_history_strings()] == [
        "7",
        "\ufffd",
        '"ope',
        '{"a": 1}',
        "hello",
    ]


def test_a_history_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ENTRIES", 3)
    path = tmp_path / "history"
    history = HistoryFile(path)
    for n in range(7):
        history.store_string(f"entry {n}")
    expected = ["entry 6", "entry 5", "entry 4"]
    assert [*history.load_history_strings()] == expected
    assert [json.loads(line) for line in path.read_text().splitlines()] == expected[::-1]
    assert is_private(path)
    assert [*tmp_path.iterdir()] == [path]
    assert [*history.load_history_strings()] == expected


# ---- Ctrl-C as a signal --------------------------------------------------------------------------


@needs_signals
def test_an_interrupt_that_is_held_comes_at_the_end() -> None:
    seen: list[str] = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with held(lambda: seen.append("told")):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("went on")
        seen.append("not here")

    with pytest.raises(KeyboardInterrupt), in_order():
        work()
    assert seen == ["told", "told", "went on"]
    with in_order():
        with held(lambda: None):
            pass
        assert signal.getsignal(signal.SIGINT) is end_in_order
    assert signal.getsignal(signal.SIGINT) is before
    with held(lambda: None):  # elsewhere, nothing is changed
        assert signal.getsignal(signal.SIGINT) is before


@needs_signals
def test_an_interrupt_before_the_prompt_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with create_pipe_input() as keys:
        editor = Editor(sys.stderr, history=False, input=keys, output=DummyOutput())
        reset = editor._session.app.reset

        def interrupted() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            reset()

        monkeypatch.setattr(editor._session.app, "reset", interrupted)
        with pytest.raises(KeyboardInterrupt), in_order():
            editor.text()
        monkeypatch.undo()
        keys.send_text(f"hello{ENTER}")
        with in_order():
            assert editor.text() == "hello"
