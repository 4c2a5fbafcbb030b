"""Flags set by variables of the environment: --ctx-size by LINNET_ARG_CTX_SIZE."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Iterator
from typing import Any

PREFIX = "LINNET_ARG_"
ON = {"1", "true", "on", "yes"}
OFF = {"0", "false", "off", "no"}
# What a command is to do, not how.
NOT_SET = {"--help", "--prompt", "--file", "--input-file", "--output-file"}


def variable(flag: str) -> str:
    """What sets it."""
    return PREFIX + flag.lstrip("-").replace("-", "_").upper()


def settings(
    parser: argparse.ArgumentParser, given: Collection[str]
) -> dict[str, tuple[str, Any]]:  # fmt: skip
    """What variables set, by the names that values go by, each with its variable; but for what is
    `given`, and what excludes that. An empty variable is none.

    Raises ValueError, which names the variable.
    """
    found: dict[str, tuple[str, Any]] = {}
    if not any(name.startswith(PREFIX) for name in os.environ):
        return found
    taken = {*given, *_excluded(parser, given)}
    for flag, action in parser._option_string_actions.items():
        is_settable = flag.startswith("--") and flag not in NOT_SET and action.dest not in taken
        name = variable(flag)
        if not is_settable or not (text := os.environ.get(name, "")):
            continue
        if action.dest in found:
            raise ValueError(f"{found[action.dest][0]} and {name} are set; one will do")
        found[action.dest] = name, _value(parser, action, flag, text)
    return found


def _excluded(parser: argparse.ArgumentParser, given: Collection[str]) -> Iterator[str]:
    """What cannot be given beside that, as -hf beside -m."""
    for group in parser._mutually_exclusive_groups:
        if any(action.dest in given for action in group._group_actions):
            yield from (action.dest for action in group._group_actions)


def _value(
    parser: argparse.ArgumentParser, action: argparse.Action, flag: str, text: str
) -> Any:  # fmt: skip
    """What the flag makes of it, or for a flag without a value, whether it is on."""
    name = variable(flag)
    if action.nargs != 0:
        try:
            value = parser._get_values(action, [text])
        except argparse.ArgumentError as error:
            raise ValueError(f"{name}: {error.message}") from error
        return [value] if isinstance(action, argparse._AppendAction) else value
    if text.lower() not in ON | OFF:
        raise ValueError(f"{name} is {text[:100]!r}; it must be 1 or 0")
    is_on = text.lower() in ON
    if isinstance(action, argparse.BooleanOptionalAction):
        return is_on != flag.startswith("--no-")
    return getattr(action, "const", None) if is_on else action.default
