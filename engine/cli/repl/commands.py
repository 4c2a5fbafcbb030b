"""What lines that begin with a slash do: one table."""

from __future__ import annotations

from collections.abc import Callable
from os.path import expanduser
from pathlib import Path
from typing import NamedTuple

from linnet.engine.cli.options import drafted
from linnet.engine.cli.reading import read_prompt
from linnet.engine.cli.repl.chat import Chat
from linnet.engine.cli.repl.greeting import model_line
from linnet.engine.cli.repl.settings import (
    NAMES,
    SWITCHES,
    field_named,
    shown,
    summary,
    usage,
    value_of,
)
from linnet.engine.cli.terminal import note, one_line


class Command(NamedTuple):
    """`names`: the first is the one that is shown. `argument`: what follows; Tab completes a FILE,
    a NAME and on|off. `run`: takes the rest of the line."""

    names: tuple[str, ...]
    argument: str
    help: str
    run: Callable[[Chat, str], None]


def take(chat: Chat, line: str) -> bool:
    """Answer a message, or do a command; returns whether to go on.

    Raises what `LLM.stream_chat` raises, and ValueError for a command that cannot be done.
    """
    if not line.startswith("/"):
        chat.ask(line.removeprefix(" ") if line.startswith(" /") else line)
        return True
    name, *rest = line.split(maxsplit=1)
    command = named(name)
    if command is None:
        raise ValueError(_unknown(name))
    try:
        command.run(chat, rest[0].strip() if rest else "")
    except BrokenPipeError:  # whoever read the answers has enough
        raise
    except (OSError, ImportError) as error:
        raise ValueError(one_line(error)) from error
    return command.run is not _exit


def named(name: str) -> Command | None:
    """The command that goes by a name."""
    return BY_NAME.get(name.lower())


def _unknown(name: str) -> str:
    from linnet.engine.cli.guesses import close  # imports what few need

    likely = close(name, BY_NAME)
    hint = f"close: {', '.join(likely)}; " if likely else ""
    return f"there is no command {name[:100]!r} ({hint}/help lists them). {AS_IT_IS}"


def _needed(value: str, name: str) -> str:
    """An argument that cannot be left out."""
    if not value:
        command = named(name)
        raise ValueError(f"say which: {name} {command.argument if command else ''}")
    return value


def _regen(chat: Chat, _: str) -> None:
    chat.ask_again()


def _edit(chat: Chat, text: str) -> None:
    question = chat.conversation.question
    if not text:
        if chat.edit is None:
            raise ValueError("give the text that takes the last message's place: /edit TEXT")
        text = chat.edit(question)
    if text.strip():
        chat.ask_again(text)


def _undo(chat: Chat, _: str) -> None:
    note(f"(forgotten: {chat.undo()})")


def _reset(chat: Chat, _: str) -> None:
    chat.begin(chat.conversation.system)


def _system(chat: Chat, text: str) -> None:
    if text:
        chat.begin(text)
    else:
        system = chat.conversation.system
        note("there is no system prompt" if system is None else system)


def _read(chat: Chat, file: str) -> None:
    text = read_prompt(str(_path(_needed(file, "/read"))))
    if not text:
        raise ValueError(f"{file!r} is empty")
    chat.read(text)
    note(f"{file!r}: {len(text)} characters, which go before your next message")


def _save(chat: Chat, file: str) -> None:
    if not chat.conversation.messages:
        raise ValueError("there is nothing to save yet")
    chat.conversation.save(_path(_needed(file, "/save")))
    note(f"{file!r}: {len(chat.conversation.messages)} messages")


def _load(chat: Chat, file: str) -> None:
    chat.conversation.load(_path(_needed(file, "/load")))
    note(f"{file!r}: {len(chat.conversation.messages)} messages")


def _model(chat: Chat, file: str) -> None:
    if file:
        chat.move(expanduser(file))
    note(model_line(chat.llm))


def _set(chat: Chat, text: str) -> None:
    name, *value = _needed(text, "/set").split(maxsplit=1)
    field = field_named(name)
    if value:
        chat.set(field, value_of(field, value[0]))
    about = "" if value else f" ({usage(field)})"
    note(f"{NAMES[field]} {shown(chat.conversation.params, field)}{about}")


def _params(chat: Chat, _: str) -> None:
    note(summary(chat.conversation.params, all=True))


def _stats(chat: Chat, text: str) -> None:
    if text:
        if text not in SWITCHES:
            raise ValueError(f"/stats takes on or off, not {text[:100]!r}")
        chat.rates = SWITCHES[text]
        return
    stats = chat.stats
    if stats is None:
        raise ValueError("there is no answer yet")
    n_used = stats.n_prompt + stats.n_generated
    note(
        f"prompt {stats.n_prompt} tokens, {stats.n_cached} of them cached, "
        f"{stats.prompt_rate:.1f} tok/s, {stats.prompt_seconds:.2f} s\n"
        f"answer {stats.n_generated} tokens, {stats.generate_rate:.1f} tok/s"
        f"{drafted(stats)}\n"
        f"context {n_used} of {chat.llm.n_ctx} tokens, "
        f"compiling took {chat.llm.compile_seconds:.2f} s in all"
    )


def _help(*_: object) -> None:
    lines = [f"{f'{c.names[0]} {c.argument}':<18} {c.help}" for c in COMMANDS]
    note("\n".join([*lines, "", KEYS]))


def _exit(*_: object) -> None:
    """`take` sees to it."""


def _path(file: str) -> Path:
    return Path(file).expanduser().absolute()


COMMANDS = (
    Command(("/regen",), "", "another answer to your last message", _regen),
    Command(("/edit",), "[TEXT]", "change your last message, and have it answered anew", _edit),
    Command(("/undo",), "", "forget your last message and its answer", _undo),
    Command(("/reset", "/clear"), "", "forget the conversation, but not the system prompt", _reset),
    Command(("/system",), "[TEXT]", "begin anew, by this system prompt; or show it", _system),
    Command(("/read",), "FILE", "put a file's text before your next message", _read),
    Command(("/save",), "FILE", "write the messages as JSON; a file there is refused", _save),
    Command(("/load",), "FILE", "go on from what /save wrote", _load),
    Command(
        ("/set",), "NAME [VALUE]", "set a sampling parameter, as /set temp 0.2; or show it", _set
    ),
    Command(("/params",), "", "the sampling parameters", _params),
    Command(("/model",), "[FILE]", "go on with another model; or show this one", _model),
    Command(
        ("/stats",), "[on|off]", "figures of the last answer; a line after each or none", _stats
    ),
    Command(("/help", "/?"), "", "this list", _help),
    Command(("/exit", "/quit", "/bye"), "", "leave; so does Ctrl-D", _exit),
)
BY_NAME = {name: command for command in COMMANDS for name in command.names}
AS_IT_IS = "A line that begins with a space is a message, whatever follows"
KEYS = f'''\
Enter              send; Alt-Enter, or \\ at the end of a line: a new line
"""                at the beginning: a message of several lines, up to """ again
Ctrl-C             stop the answer; what there is of it is remembered
Ctrl-G             write the message in $EDITOR
Tab                complete commands, file names and parameters
{AS_IT_IS}'''
