"""`linnet chat`: turns of a conversation, and the commands between them.

On a terminal with editing, a history, and Ctrl-C to stop an answer. From a pipe lines are taken the
same way and the first error ends it. Where stdout is no terminal it has the answers alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import NamedTuple

from linnet.engine.cli.conversation import Conversation
from linnet.engine.cli.interrupts import in_order
from linnet.engine.cli.model import add_model
from linnet.engine.cli.options import (
    add_chatting,
    add_drafts,
    add_running,
    add_sampling,
    draft_options,
    drafted,
    open_conversation,
    open_model,
    sampling_fields,
)
from linnet.engine.cli.painter import Painter
from linnet.engine.cli.prompt_file import add_prompt_cache, load_prompt, save_prompt
from linnet.engine.cli.reading import add_escape
from linnet.engine.cli.terminal import one_line, write
from linnet.engine.running.generation import Chunk
from linnet.engine.running.sequence import ContextOverflow
from linnet.engine.running.session import Progress

MOST_BYTES = 1 << 24  # of a line from a pipe


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags are named as llama-cli names them."""
    add_model(parser, required=True)
    add_escape(parser)
    add_chatting(parser)
    add_sampling(parser, without=("logprobs", "prompt_logprobs"))
    add_running(parser)
    add_drafts(parser)
    add_prompt_cache(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no greeting, no rates")


def run(arguments: argparse.Namespace) -> int:
    """Answers go to stdout, everything else to stderr."""
    fields = sampling_fields(arguments)
    with open_model(arguments, **draft_options(arguments)) as llm:
        conversation = open_conversation(llm, llm.sampling_params(**fields), arguments)
        load_prompt(llm, arguments)
        if sys.stdin is not None and sys.stdin.isatty():
            at_terminal(Chat(conversation, notes=not arguments.quiet, bar=sys.stderr.isatty()))
        else:
            from_pipe(Chat(conversation))
        if any(message["role"] == "assistant" for message in conversation.messages):
            save_prompt(llm, arguments, lambda: conversation.encode(conversation.messages[:-1]))
    return 0


# ---- where lines come from -----------------------------------------------------------------------


def at_terminal(chat: Chat) -> None:
    """Until /exit or Ctrl-D. Errors are shown, and the conversation goes on."""
    from linnet.engine.cli.keyboard import Keyboard  # imports what pipes do not need

    keyboard = Keyboard()
    if chat.notes:
        llm = chat.conversation.llm
        note(f"{llm.path.name!r}, a context of {llm.n_ctx} tokens; /help lists the commands")
    interrupted = typing = False
    while True:
        try:
            with in_order():  # every turn has a first Ctrl-C of its own
                if interrupted:
                    interrupted = False
                    if typing:
                        note("\n(Ctrl-D or /exit leaves)")
                typing = True
                line = keyboard.line("> ")
                while line.endswith("\\"):
                    line = f"{line[:-1]}\n{keyboard.line('. ')}"
                typing = False
                keyboard.remember(line)
                if not chat.take(line):
                    return
        except KeyboardInterrupt:
            interrupted = True
        except EOFError:
            note("")
            return
        except (ValueError, MemoryError, RuntimeError) as error:
            or_reset = ", or /reset" if isinstance(error, ContextOverflow) else ""
            note(f"linnet: {one_line(error)}{or_reset}")


def from_pipe(chat: Chat) -> None:
    """Until the lines end, or something goes wrong, which is raised."""
    lines = piped_lines()
    for line in lines:
        while line.endswith("\\"):
            line = f"{line[:-1]}\n{next(lines, '')}"
        if not chat.take(line):
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


def note(text: str) -> None:
    """To stderr."""
    print(text, file=sys.stderr, flush=True)


# ---- what becomes of them ------------------------------------------------------------------------


class Chat:
    """Takes lines: messages for the model, or commands."""

    def __init__(
        self, conversation: Conversation, *, notes: bool = False, bar: bool = False
    ) -> None:
        """`notes`: whether to say what was done; `bar`: to show one for a long prompt."""
        self.conversation, self.notes, self._bar = conversation, notes, bar

    def take(self, line: str) -> bool:
        """Answer it or do it; returns whether to go on.

        Raises what `LLM.stream_chat` raises, and ValueError for a command that cannot be done.
        """
        if not line.startswith("/"):
            if line.strip():
                self._answer(line.removeprefix(" ") if line.startswith(" /") else line)
            return True
        name, _, rest = line.partition(" ")
        name = ALIASES.get(name, name)
        if name not in COMMANDS:
            known = ", ".join(COMMANDS)
            raise ValueError(f"there is no command {name[:100]!r}; there are {known}. {AS_IT_IS}")
        COMMANDS[name].run(self, rest.strip())
        return name != "/exit"

    def _answer(self, text: str) -> None:
        before = self.conversation.messages
        last, end, painter = Chunk(""), "\n", Painter()
        try:
            with (
                self._progress() as progress,
                closing(self.conversation.ask(text, progress=progress)) as chunks,
            ):
                for last in chunks:
                    painter.write(last)
                    if last.text:
                        end = "" if last.text.endswith("\n") else "\n"
            painter.end()
            write(end)
        except KeyboardInterrupt:
            painter.end()
            forgotten = self.conversation.messages is before
            note("\n(stopped before the answer: the message is forgotten)" if forgotten else "")
            raise
        if last.stats is None:
            return
        stats, n_ctx = last.stats, self.conversation.llm.n_ctx
        if self.notes:
            note(
                f"[ prompt {stats.n_prompt} tokens, {stats.n_cached} of them cached, "
                f"{stats.prompt_rate:.1f} tok/s | "
                f"answer {stats.n_generated} tokens, {stats.generate_rate:.1f} tok/s"
                f"{drafted(stats)} ]"
            )
        if last.finish_reason == "length" and stats.n_prompt + stats.n_generated > n_ctx:
            note(f"(the context of {n_ctx} tokens is full: give a larger one (-c), or /reset)")

    def _progress(self) -> AbstractContextManager[Progress | None]:
        if not self._bar:
            return nullcontext()
        from linnet.engine.cli.progress import PromptBar  # tqdm takes a moment to import

        return PromptBar("", self.conversation.llm.n_batch)

    def reset(self, _: str) -> None:
        self._begin(self.conversation.system)

    def _begin(self, system: str | None) -> None:
        self.conversation.begin(system)
        if self.notes:
            note("(a new conversation)")

    def system(self, text: str) -> None:
        if text:
            self._begin(text)
        else:
            system = self.conversation.system
            note("there is no system prompt" if system is None else system)

    def save(self, file: str) -> None:
        if not file:
            raise ValueError("say where to: /save FILE")
        if not self.conversation.messages:
            raise ValueError("there is nothing to save yet")
        try:
            self.conversation.save(Path(file).expanduser())
        except OSError as error:
            raise ValueError(one_line(error)) from error
        note(f"{file!r}: {len(self.conversation.messages)} messages")

    def help(self, _: str) -> None:
        lines = [f"{f'{name} {does.argument}':<14} {does.help}" for name, does in COMMANDS.items()]
        note("\n".join([*lines, "", KEYS]))

    def exit(self, _: str) -> None:
        """`take` sees to it."""


class Command(NamedTuple):
    """What a line that begins with a slash does."""

    run: Callable[[Chat, str], None]  # takes the rest of the line
    argument: str
    help: str


COMMANDS = {
    "/reset": Command(Chat.reset, "", "forget the conversation, but not the system prompt"),
    "/system": Command(Chat.system, "[TEXT]", "begin anew, by this system prompt; or show it"),
    "/save": Command(Chat.save, "FILE", "write the messages as JSON; a file there is refused"),
    "/help": Command(Chat.help, "", "this list"),
    "/exit": Command(Chat.exit, "", "leave; so do /bye and Ctrl-D"),
}
ALIASES = {"/bye": "/exit", "/clear": "/reset"}
AS_IT_IS = "A line that begins with a space is a message, whatever follows"
KEYS = f"""\
Ctrl-C         stop the answer; what there is of it is remembered
\\              at the end of a line: the message goes on in the next
{AS_IT_IS}"""
