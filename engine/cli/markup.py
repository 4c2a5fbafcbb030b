"""Prompts that spell control tokens: markup where that is asked for, and else text."""

from __future__ import annotations

import argparse
import warnings

from linnet.engine.text.tokenizer import Tokenizer

MOST_NAMED = 3  # control tokens in a note


def add_parse_special(parser: argparse.ArgumentParser) -> None:
    """Whether a prompt is markup; else `note_markup` says what is not read as such."""
    parser.add_argument(
        "--parse-special", action=argparse.BooleanOptionalAction,
        help="whether control tokens that are spelled in the prompt are tokens; default: text",
    )  # fmt: skip


def note_markup(tokenizer: Tokenizer, *texts: str, arguments: argparse.Namespace) -> None:
    """Warn of control tokens that these texts spell, where that is all they do."""
    if arguments.parse_special is not None:
        return
    found = list(dict.fromkeys(t for text in texts for t in tokenizer.control_tokens_in(text)))
    if found:
        names = ", ".join(map(repr, found[:MOST_NAMED])) + ", ..." * (len(found) > MOST_NAMED)
        what_to_do = "--parse-special makes tokens of such"
        warnings.warn(f"the prompt spells {names}, taken as text: {what_to_do}", stacklevel=2)
