"""`--prompt-cache FILE`: a prompt's keys and values, kept from one command to the next."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from linnet.engine.llm import LLM


def add_prompt_cache(parser: argparse.ArgumentParser) -> None:
    """The flag that `load_prompt` and `save_prompt` read."""
    parser.add_argument(
        "--prompt-cache", metavar="FILE",
        help="a file that keeps what was computed of the prompt: read if it is there, written at "
        "the end",
    )  # fmt: skip


def load_prompt(llm: LLM, arguments: argparse.Namespace) -> None:
    """Put what the file has into the cache, if there is one. Raises what `LLM.load_prefix`
    raises."""
    file = arguments.prompt_cache
    if file is not None and Path(file).exists():
        llm.load_prefix(file)


def save_prompt(
    llm: LLM, arguments: argparse.Namespace, encode: Callable[[], list[int]]
) -> None:  # fmt: skip
    """Write the prompt that `encode` gives to the file, if one is given. Raises what
    `LLM.save_prefix` raises."""
    if arguments.prompt_cache is not None:
        llm.save_prefix(arguments.prompt_cache, encode())
