"""Messages typed with an editor's keys: several lines, a history, completion, whole pastes."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.styles import Style

from linnet.engine.cli import interrupts
from linnet.engine.cli.repl.blocks import GOES_ON, PROMPT, begun
from linnet.engine.cli.repl.completion import CommandCompleter
from linnet.engine.cli.repl.history import HistoryFile, history_path
from linnet.engine.cli.terminal import has_styles

STYLE = {"prompt": "bold ansigreen", "": "bold"}


class Editor:
    """See `Keyboard`. What is pasted is one piece of text, line feeds and all."""

    can_edit = True

    def __init__(
        self, stream: TextIO, *, history: bool, input: Input | None = None,
        output: Output | None = None,
    ) -> None:  # fmt: skip
        """`stream`: the terminal, to write to; `history`: whether to keep one in a file. `input`
        and `output`: in place of it."""
        kept: History = HistoryFile(history_path()) if history else InMemoryHistory()
        self._session: PromptSession[str] = PromptSession(
            [("class:prompt", PROMPT)], prompt_continuation=_continuation, multiline=True,
            history=kept, key_bindings=_keys(), enable_suspend=True,
            completer=CommandCompleter(), complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE, reserve_space_for_menu=0,
            style=Style.from_dict(STYLE if has_styles(stream) else {}),
            include_default_pygments_style=False, tempfile_suffix=".md",
            input=input, output=output or _output(stream),
        )  # fmt: skip

    def text(self, given: str = "") -> str:
        text = self._prompt(given)
        try:
            text.encode()
        except UnicodeEncodeError as error:  # stands for bytes that are no UTF-8
            raise ValueError(f"the line is not text in UTF-8: {error}") from error
        return text

    def _prompt(self, given: str) -> str:
        """A signal is as Ctrl-C, and never an exception in the event loop."""
        app, interrupted = self._session.app, False

        def leave() -> None:
            if app.is_running and not app.is_done:
                app.exit(exception=KeyboardInterrupt)

        def interrupt() -> None:
            nonlocal interrupted
            interrupted = True
            if app.loop is not None:
                app.loop.call_soon_threadsafe(leave)

        with interrupts.held(interrupt):
            return self._session.prompt(
                default=given, handle_sigint=False, pre_run=lambda: leave() if interrupted else None
            )


def _continuation(width: int, line: int, n_wraps: int) -> StyleAndTextTuples:
    """What is before a line, and before the rest of one that is too long."""
    return [("class:prompt", " " * width if n_wraps else GOES_ON)]


def _output(stream: TextIO) -> Output:
    """Never asks the terminal where its cursor is: answers that come late, as over a network, would
    be taken for what is typed."""
    if sys.platform == "win32":
        return create_output(stream)
    output = Vt100_Output.from_pty(stream, term=os.environ.get("TERM"))
    output.enable_cpr = False
    return output


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        so_far = begun(buffer.text)
        if so_far is None:
            buffer.validate_and_handle()
        elif buffer.document.is_cursor_at_the_end:
            buffer.text = so_far
            buffer.cursor_position = len(so_far)
        else:
            buffer.insert_text("\n")

    @keys.add("escape", "enter")  # Alt-Enter
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-g")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return keys
