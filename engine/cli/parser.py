"""Arguments as llama-cli takes them: flags of many letters may have one dash, and values any.

Left alone, argparse cuts `-hff` into `-h -f f`, and takes the text of `-p -hello` for a flag.
"""

from __future__ import annotations

import argparse
import re
from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn

from linnet import __version__
from linnet.engine.cli.reading import unescaped

FLAG = re.compile(r"--?[A-Za-z][^\s=]*(=|\Z)")
WITH_NUMBER = re.compile(r"(-[A-Za-z])(-?\d.*)")  # -n48
SHOWN_CHARACTERS = 100
TEXTS = {"PROMPT", "TEXT"}  # what stands for values in which escapes are read


class Parser(argparse.ArgumentParser):
    """Wrong arguments are an error like others: one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        self.add_argument("--version", action="version", version=f"linnet {__version__}")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """What is given. Raises ValueError; SystemExit once the help or the version is shown.

        A flag is known as a whole; only a number may follow one letter without a space. One that
        takes a value takes the next argument, whatever it begins with, unless that is itself a flag
        here. For flags with one value, none, or `nargs="?"`.
        """
        flags: list[str] = []
        values: list[str] = []
        waiting = deque(argv)
        while waiting:
            word = waiting.popleft()
            if word == "--":
                values += waiting
                break
            if not FLAG.match(word):
                values.append(word)
                continue
            name, equals, value = word.partition("=")
            number = WITH_NUMBER.fullmatch(word)
            if number and self._takes_value(number[1]):
                (name, value), equals = number.groups(), "="
            if name not in self._option_string_actions:
                self._refuse(name[:SHOWN_CHARACTERS])
            if equals and self._option_string_actions[name].nargs == 0:
                self.error(f"{name} takes no value; there is {value[:SHOWN_CHARACTERS]!r}")
            if not equals and waiting and self._takes_value(name, waiting[0]):
                equals, value = "=", waiting.popleft()
            flags.append(f"{name}{equals}{value}")
        if values and not any(not action.option_strings for action in self._actions):
            self.error(f"there is no place for {values[0][:SHOWN_CHARACTERS]!r}")
        found = self.parse_args([*flags, *(["--"] if self._takes_texts() else []), *values])
        if getattr(found, "escape", False):
            for action in self._actions:
                given = getattr(found, action.dest, None)
                if action.metavar in TEXTS and given is not None:
                    text = unescaped(given) if isinstance(given, str) else [*map(unescaped, given)]
                    setattr(found, action.dest, text)
        return found

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")

    def _takes_value(self, flag: str, value: str = "") -> bool:
        action = self._option_string_actions.get(flag)
        if action is None or value == "--" or value in self._option_string_actions:
            return False
        return action.nargs is None or (action.nargs == "?" and not value.startswith("-"))

    def _takes_texts(self) -> bool:
        """Whether anything goes without a flag."""
        return any(not a.option_strings and a.choices is None for a in self._actions)

    def _refuse(self, flag: str) -> NoReturn:
        from difflib import get_close_matches  # takes a moment, as few commands do

        names = {name.lstrip("-"): name for name in self._option_string_actions if len(name) > 2}
        close = [names[name] for name in get_close_matches(flag.lstrip("-"), names)]
        message = f"there is no flag {flag!r}" + (f" (close: {', '.join(close)})" if close else "")
        if self._takes_texts():
            message += "; a value that begins with a dash goes after --"
        self.error(message)
