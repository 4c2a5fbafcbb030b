"""`linnet chat` at a terminal: what is typed and pasted, Ctrl-C, the screen, the history."""

from __future__ import annotations

import json
import re
import signal
import stat
import sys
from pathlib import Path

import pytest
from support.terminal_process import linnet_at_terminal
from test_chat_cli import GREEDY, answers, texts, tiny
from test_cli import Terminal

from linnet.engine.cli.terminal import visible, write

QUIET = "-q", "--no-history"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny(tmp_path_factory.mktemp("model") / "chat.gguf")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b]0;title\x07b\x9bc\x00", r"a\x1b]0;title\x07b\x9bc\x00"),
        ("\r\x7f\x08", r"\r\x7f\x08"),
        ("\tä\n 👩‍🚀", "\tä\n 👩‍🚀"),
    ],
)
def test_a_terminal_is_given_nothing_to_obey(
    text: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(text)
    assert capsys.readouterr().out == text
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    write(text)
    assert terminal.getvalue() == shown


def on_screen(text: str) -> str:
    """The lines that a terminal shows of an answer, which are short."""
    return "\n".join(line.rstrip() for line in visible(text).rstrip("\n").split("\n"))


def test_ctrl_c_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    path = tiny(tmp_path / "long.gguf", n_ctx=1 << 14)
    long = "--ignore-eos", "-c", "16384", "-n", "16000", "--temp", "0", "-t", "1"
    saved = tmp_path / "saved.json"
    with linnet_at_terminal("chat", "-m", path, *long) as terminal:
        assert "a context of 16384 tokens\n" in terminal.until("> ")
        terminal.type("hello\n")
        terminal.until("hello\n")
        shown = terminal.some(100)  # the answer is under way
        terminal.type("\x03")
        terminal.until("^C\n> ")
        terminal.type(f"/save {saved}\n")
        terminal.until("2 messages\n> ")
        question, answer = json.loads(saved.read_text())
        assert question == {"role": "user", "content": "hello"}
        assert answer["role"] == "assistant"
        assert visible(answer["content"])[:20] == shown[:20]
        terminal.type("bye\n")  # it can answer again
        terminal.until("bye\n")
        terminal.some(100)
        terminal.type("\x03")
        terminal.until("^C\n> ")
        terminal.type("/exit\n")
        assert terminal.wait() == 0


def test_what_is_typed_and_pasted(path: str, tmp_path: Path) -> None:
    """Several lines are one message, Ctrl-C clears them, errors do not end it, and answers are
    those of a pipe."""
    history, saved = tmp_path / "linnet" / "history", tmp_path / "saved.json"
    argv, env = ("chat", "-m", path, *GREEDY), {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
    messages = answers(path, "hello\n\n  there", "a\nb\nc", "one \\\ntwo")
    one, two, three = (on_screen(message["content"]) for message in messages[1::2])
    with linnet_at_terminal(*argv, "-q", **env) as terminal:
        terminal.shows(">")
        terminal.type("half")
        terminal.shows("> half")
        terminal.type("\x03")
        terminal.shows("> half\n(Ctrl-D or /exit leaves)\n>")
        terminal.type("/nope\r")
        terminal.shows("follows\n>")
        terminal.type(f"{'a' * 600}\r")
        assert "do not fit the context of 256" in terminal.shows("/reset\n>")
        terminal.paste("hello\r\n\r\n  there")
        terminal.shows("> hello\n.\n.   there")
        terminal.type("\r")
        terminal.shows(f"> hello\n.\n.   there\n{one}\n>")
        terminal.type("a\\\rb\x1b\rc\r")
        terminal.shows(f"> a\n. b\n. c\n{two}\n>")
        terminal.type('"""one \\\rtwo\r"""\r')
        terminal.shows(f'> """one \\\n. two\n. """\n{three}\n>')
        terminal.type(f"/save {saved}\r")
        terminal.shows("messages\n>")
        terminal.type("\x04")
        assert terminal.wait() == 0
    assert json.loads(saved.read_text()) == messages
    entries = [json.loads(line) for line in history.read_text().splitlines()]
    expected = "/nope", "a" * 600, "hello\n\n  there", "a\nb\nc", '"""one \\\ntwo\n"""'
    assert entries == [*expected, f"/save {saved}"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700


def test_the_history_of_another_session(path: str, tmp_path: Path) -> None:
    history = tmp_path / "linnet" / "history"
    history.parent.mkdir()
    history.write_text('hello\n"one\\ntwo"\n')  # an older version's line, and one of today
    argv, env = ("chat", "-m", path, *GREEDY), {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
    before = history.read_bytes()
    with linnet_at_terminal(*argv, "-q", "--no-history", **env) as terminal:
        terminal.shows(">")
        terminal.type("\x10/system\r")  # there is nothing above
        terminal.shows("system prompt\n>")
        terminal.type("\x04")
        assert terminal.wait() == 0
    assert history.read_bytes() == before
    with linnet_at_terminal(*argv, "-q", **env) as terminal:
        terminal.shows(">")
        terminal.type("\x10")
        terminal.shows("> one\n. two")
        terminal.type("\x10\x10\x05\r")
        screen = terminal.shows("\n>")
        assert screen.endswith(f"> hello\n{on_screen(answers(path, 'hello')[1]['content'])}\n>")
        terminal.type("/bye\r")
        assert terminal.wait() == 0


@pytest.mark.parametrize(
    ("env", "has_styles"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
    ids=str,
)
def test_what_a_terminal_shows(path: str, env: dict[str, str], has_styles: bool) -> None:
    answer = on_screen(answers(path, "hello")[1]["content"])
    with linnet_at_terminal("chat", "-m", path, "--no-history", *GREEDY, **env) as terminal:
        assert re.fullmatch(
            r"chat\.gguf: llama 1\.4M Q4_K, a context of 256 tokens\n"
            r"template: the model's; n-predict 9, temp 0, top-k 40, top-p 0\.95, min-p 0\.05\n"
            r"/help lists the commands\n>",
            terminal.shows("\n>"),
        )
        terminal.type("hello\r")
        screen = terminal.shows("]\n>")
        assert re.search(rf"> hello\n{re.escape(answer)}\n\[ 9 tokens, [\d.]+ tok/s \]\n>$", screen)
        styles = set(re.findall(r"\x1b\[([\d;]*)m", terminal.until("tok/s ]"))) - {"", "0"}
        assert bool(styles) == has_styles
        terminal.type("\x04")
        assert terminal.wait() == 0


def test_a_terminal_whose_stdout_goes_elsewhere(path: str, tmp_path: Path) -> None:
    """As before `| tee`: that has the answers alone, the terminal all else, and errors go on."""
    said = tmp_path / "said"
    (_, one, _, two) = answers(path, "hello", "bye\nbye")
    argv = "chat", "-m", path, *GREEDY
    env = {"XDG_STATE_HOME": str(tmp_path), "PYTHONIOENCODING": "utf-8:strict"}
    for term, enter in (("dumb", "\n"), ("xterm", "\r")):
        with (
            said.open("wb") as out,
            linnet_at_terminal(*argv, stdout=out, TERM=term, **env) as terminal,
        ):
            terminal.until("lists the commands")
            terminal.type(f"/nope{enter}")
            terminal.until("there is no command '/nope'")
            terminal.type(f"\udcff{enter}")
            terminal.until("the line is not text in UTF-8")
            terminal.type(f"hello{enter}")
            terminal.until("[ 9 tokens")
            terminal.type(f"bye\\{enter}bye{enter}")
            terminal.until("[ 9 tokens")
            terminal.until("> ")
            terminal.type("\x04")
            assert terminal.wait() == 0
        assert said.read_text() == texts([one, two])


def test_a_terminal_that_cannot_move_its_cursor(path: str) -> None:
    with linnet_at_terminal("chat", "-m", path, "-q", *GREEDY) as terminal:
        terminal.until("> ")
        terminal.type("half")
        terminal.until("half")
        assert terminal.interrupt("\n> ").endswith("\n(Ctrl-D or /exit leaves)\n> ")
        terminal.type("/edit\n")
        assert "nothing was said yet" in terminal.until("\n> ")
        terminal.type('"""bye\n')
        terminal.until(". ")
        terminal.type('bye"""\n')
        terminal.until("\n" + visible(answers(path, "bye\nbye")[1]["content"]))
        terminal.until("> ")
        terminal.type("/edit\n")
        assert "/edit TEXT" in terminal.until("\n> ")
        terminal.type("/exit\n")
        assert terminal.wait() == 0


def test_the_last_message_is_edited(path: str, tmp_path: Path) -> None:
    script = tmp_path / "editor"
    script.write_text('#!/bin/sh\nprintf "more\\n" >> "$1"\n')
    script.chmod(0o700)
    env = {"TERM": "xterm", "VISUAL": str(script)}
    first, second = (answers(path, text)[1]["content"] for text in ("hello", "hello you"))
    with linnet_at_terminal("chat", "-m", path, *QUIET, *GREEDY, "hello", **env) as terminal:
        terminal.shows(f"> hello\n{on_screen(first)}\n>")
        terminal.type("/edit\r")
        terminal.shows("> /edit\n> hello")
        terminal.type(" you\r")
        terminal.shows(f"> hello you\n{on_screen(second)}\n>")
        terminal.type("/edit\r")
        terminal.shows("> /edit\n> hello you")
        terminal.type("\x03")
        terminal.shows("> hello you\n>")
        terminal.type("/undo\r/undo\r")
        terminal.shows("nothing was said yet\n>")
        terminal.type("some\x07")
        terminal.shows("> somemore")
        terminal.process.send_signal(signal.SIGINT)  # which is as Ctrl-C
        terminal.shows("leaves)\n>")
        terminal.type("/exit\r")
        assert terminal.wait() == 0


def test_a_history_that_cannot_be_kept_is_no_error(path: str, tmp_path: Path) -> None:
    (tmp_path / "linnet").write_text("a file where a folder belongs")
    env = {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm"}
    with linnet_at_terminal("chat", "-m", path, "-q", **env) as terminal:
        terminal.shows(">")
        terminal.type("/system\r")
        terminal.shows("no system prompt\n>")
        terminal.type("/exit\r")
        assert terminal.wait() == 0
