"""Where messages and commands come from, and what ends them."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from linnet.engine.cli.interrupts import in_order
from linnet.engine.cli.repl.blocks import PROMPT, quoted
from linnet.engine.cli.repl.chat import Chat
from linnet.engine.cli.repl.commands import take
from linnet.engine.cli.repl.keyboard import Keyboard
from linnet.engine.cli.terminal import GREEN, RED, note, one_line, visible
from linnet.engine.running.sequence import ContextOverflow

MOST_BYTES = 1 << 24  # of a line from a pipe


def at_terminal(chat: Chat, keyboard: Keyboard, first: str | None) -> None:
    """Until /exit or Ctrl-D. Errors are shown, and the conversation goes on. `first`: a message,
    as if it had been typed."""
    if first is not None:
        note(f"{PROMPT}{visible(first)}", GREEN)
    interrupted = typing = False
    while True:
        try:
            with in_order():  # every turn has a first Ctrl-C of its own
                if interrupted:
                    interrupted = False
                    if typing:
                        note("(Ctrl-D or /exit leaves)")
                typing = first is None
                text = keyboard.text() if first is None else first
                message = text if first is not None else quoted(text)
                typing, first = False, None
                if message is not None:
                    chat.ask(message)
                elif not take(chat, text):
                    return
        except KeyboardInterrupt:
            interrupted = True
        except EOFError:
            note("")
            return
        except (ValueError, MemoryError, RuntimeError) as error:
            or_reset = ", or /reset" if isinstance(error, ContextOverflow) else ""
            note(f"linnet: {one_line(error)}{or_reset}", RED)


def from_pipe(chat: Chat, first: str | None) -> None:
    """Until the lines end, or something goes wrong, which is raised. `first`: a message before
    them."""
    if first is not None:
        chat.ask(first)
    lines = piped_lines()
    for line in lines:
        while line.endswith("\\"):
            line = f"{line[:-1]}\n{next(lines, '')}"
        if not take(chat, line):
            return


def piped_lines() -> Iterator[str]:
    """The lines of stdin without their ends. Raises ValueError for one that is no text."""
    number = 0
    while sys.stdin is not None and (data := sys.stdin.buffer.readline(MOST_BYTES + 1)):
        number += 1
        if len(data) > MOST_BYTES:
            raise ValueError(f"line {number} of stdin has more than {MOST_BYTES >> 20} MiB")
        try:
            yield data.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise ValueError(f"line {number} of stdin is not text in UTF-8: {error}") from error
