"""`linnet chat`: turns of a conversation, and the commands between them.

On a terminal with editing, a history, and Ctrl-C to stop an answer. From a pipe lines are taken the
same way and the first error ends it. Where stdout is no terminal it has the answers alone.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from linnet.engine.cli.conversation import Conversation
from linnet.engine.cli.model import add_model
from linnet.engine.cli.options import (
    add_chatting,
    add_drafts,
    add_running,
    add_sampling,
    draft_options,
    open_conversation,
    open_model,
    sampling_fields,
    set_template,
)
from linnet.engine.cli.prompt_file import add_prompt_cache, load_prompt, save_prompt
from linnet.engine.cli.reading import add_escape
from linnet.engine.cli.repl.chat import Chat
from linnet.engine.cli.repl.settings import WITHOUT
from linnet.engine.cli.repl.spinner import spinner
from linnet.engine.cli.repl.turns import at_terminal, from_pipe
from linnet.engine.cli.terminal import note
from linnet.engine.llm import LLM


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags are named as llama-cli names them."""
    add = parser.add_argument
    add_model(parser, required=True, text="PROMPT", help="the first message")
    add("-p", "--prompt", dest="prompt_text", metavar="TEXT", help="as PROMPT")
    add("--load", metavar="FILE", help="go on from a conversation that /save wrote")
    add_escape(parser)
    add_chatting(parser)
    add_sampling(parser, without=WITHOUT)
    add_running(parser)
    add_drafts(parser)
    add_prompt_cache(parser)
    add("--no-history", action="store_true", help="keep nothing of what is typed")
    add("--nowordwrap", "--no-wrap", action="store_true", help="let the terminal break lines")
    add("-q", "--quiet", action="store_true", help="no greeting, no rates")


def run(arguments: argparse.Namespace) -> int:
    """Answers go to stdout, everything else to stderr."""
    is_typed = sys.stdin is not None and sys.stdin.isatty()
    fields, first = sampling_fields(arguments), _first_message(arguments)
    with _open(arguments) as llm:
        conversation = _conversation(llm, fields, arguments)
        load_prompt(llm, arguments)
        chat = Chat(
            conversation, fields, partial(_open_other, arguments), wrap=not arguments.nowordwrap,
            notes=is_typed and not arguments.quiet,
        )  # fmt: skip
        try:
            if is_typed:
                _at_terminal(chat, first, arguments)
            else:
                from_pipe(chat, first)
            last = conversation.messages[-1:]
            if conversation.llm is llm and last and last[0]["role"] == "assistant":
                save_prompt(llm, arguments, lambda: conversation.encode(conversation.messages[:-1]))
        finally:
            conversation.llm.close()
    return 0


def _at_terminal(chat: Chat, first: str | None, arguments: argparse.Namespace) -> None:
    from linnet.engine.cli.repl.greeting import greeting  # both import what pipes do not need
    from linnet.engine.cli.repl.keyboard import open_keyboard

    keyboard = open_keyboard(history=not arguments.no_history)
    if keyboard.can_edit:
        chat.edit = keyboard.text
    if chat.notes:
        template = arguments.chat_template_file or arguments.chat_template or "the model's"
        note(greeting(chat.conversation, template=template))
    at_terminal(chat, keyboard, first)


def _first_message(arguments: argparse.Namespace) -> str | None:
    """Raises ValueError for two."""
    given = [text for text in (arguments.prompt, arguments.prompt_text) if text is not None]
    if len(given) > 1:
        raise ValueError("give one first message: as PROMPT, or with -p TEXT")
    return given[0] if given else None


def _conversation(
    llm: LLM, fields: dict[str, Any], arguments: argparse.Namespace
) -> Conversation:  # fmt: skip
    """New, or as it was saved."""
    if arguments.load is not None and arguments.system is not None:
        raise ValueError("--load brings its own system prompt: leave --system out")
    conversation = open_conversation(llm, llm.sampling_params(**fields), arguments)
    if arguments.load is not None:
        conversation.load(Path(arguments.load))
    return conversation


def _open(arguments: argparse.Namespace) -> LLM:
    loading = spinner("loading the model")
    return open_model(arguments, loading=loading, **draft_options(arguments))


def _open_other(arguments: argparse.Namespace, name: str) -> LLM:
    """Another model, with the same flags."""
    llm = _open(argparse.Namespace(**{**vars(arguments), "model": name, "hf_file": None}))
    try:
        set_template(llm, arguments)
    except BaseException:
        llm.close()
        raise
    return llm
