"""`linnet run`: an answer to what is given, or a conversation, as `ollama run` and llama-cli."""

from __future__ import annotations

import argparse
import sys

from linnet.engine.cli import chat, generate

PROMPTS = "prompt", "prompt_text", "file"  # where arguments have what is given


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags are those of `generate`; the first word is the model."""
    generate.configure(parser, required=True)


def run(arguments: argparse.Namespace) -> int:
    """A prompt, or a pipe, goes to `generate`; at a terminal without, `chat` begins."""
    is_given = any(getattr(arguments, name) is not None for name in PROMPTS)
    if is_given or sys.stdin is None or not sys.stdin.isatty():
        return generate.run(arguments)
    parser = argparse.ArgumentParser()
    chat.configure(parser)
    for action in parser._actions:
        if action.default is not argparse.SUPPRESS and action.dest not in arguments:
            setattr(arguments, action.dest, action.default)
    return chat.run(arguments)
