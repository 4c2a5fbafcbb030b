"""Arguments as llama-cli takes them: flags of many letters may have one dash, and values any.

Left alone, argparse cuts `-hff` into `-h -f f`, and takes the text of `-p -hello` for a flag.
"""

from __future__ import annotations

import argparse
import re
from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn

from linnet.engine.cli import environment
from linnet.engine.cli.help_format import HelpFormat
from linnet.engine.cli.reading import unescaped

FLAG = re.compile(r"--?[A-Za-z][^\s=]*(=|\Z)")
WITH_NUMBER = re.compile(r"(-[A-Za-z])(-?\d.*)")  # -n48
SHOWN_CHARACTERS = 100
TEXTS = {"PROMPT", "TEXT"}  # what stands for values in which escapes are read


class Parser(argparse.ArgumentParser):
    """The flags of one command, those that variables set, and those of other programs.

    Wrong arguments are an error like others: one line.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=HelpFormat, **options)
        self._command = self.prog.partition(" ")[2]
        self._settings: dict[str, tuple[str, Any]] = {}  # by variables: which, and the values
        self._ignored: list[tuple[str, str]] = []  # flags as they were given, and why
        self.add_argument(
            "-v", "--verbose", action="store_true",
            help="tell on stderr what is mapped, compiled and found in caches",
        )  # fmt: skip

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """What is given; `variables` says which variables of the environment set what. Raises
        ValueError; SystemExit once the help is shown.

        A flag is known as a whole; only a number may follow one letter without a space. One that
        takes a value takes the next argument, whatever it begins with, unless that is itself a flag
        here. For flags with one value, none, or `nargs="?"`.
        """
        flags, values = self._flags_and_values(argv)
        if values and not any(not action.option_strings for action in self._actions):
            self.error(f"there is no place for {values[0][:SHOWN_CHARACTERS]!r}")
        try:
            self._settings = environment.settings(self, self._destinations(flags))
        except ValueError as error:
            self.error(str(error))
        found = argparse.Namespace(**{dest: value for dest, (_, value) in self._settings.items()})
        self.parse_args([*flags, *(["--"] if self._takes_texts() else []), *values], found)
        found.variables = {dest: variable for dest, (variable, _) in self._settings.items()}
        self._tell_ignored()
        if getattr(found, "escape", False):
            for action in self._actions:
                given = getattr(found, action.dest, None)
                if action.metavar in TEXTS and given is not None:
                    text = unescaped(given) if isinstance(given, str) else [*map(unescaped, given)]
                    setattr(found, action.dest, text)
        return found

    def get_default(self, dest: str) -> Any:
        """What holds where no flag says otherwise: by a variable, if one is set."""
        return self._settings[dest][1] if dest in self._settings else super().get_default(dest)

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")

    def _flags_and_values(self, argv: Sequence[str]) -> tuple[list[str], list[str]]:
        """Our flags, each with its value if it has one, and what goes without a flag."""
        flags: list[str] = []
        stand_ins: list[tuple[str, str]] = []  # other programs' flags, and ours for them
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
            theirs = name if name not in self._option_string_actions else None
            if theirs:
                ours = self._elsewhere(name, f"{equals}{value}", waiting, may_be_text=not values)
                if ours is None:
                    continue
                name, equals, value = ours.partition("=")
            if equals and self._option_string_actions[name].nargs == 0:
                self.error(f"{name} takes no value; there is {value[:SHOWN_CHARACTERS]!r}")
            if not equals and waiting and self._takes_value(name, waiting[0]):
                equals, value = "=", waiting.popleft()
            flag = f"{name}{equals}{value}"
            if theirs:
                stand_ins.append((f"{theirs} {value}".rstrip(), flag))
            else:
                flags.append(flag)
        return self._unless_given(stand_ins, flags) + flags, values

    def _takes_value(self, flag: str, value: str = "") -> bool:
        action = self._option_string_actions.get(flag)
        if action is None or value == "--" or value in self._option_string_actions:
            return False
        return action.nargs is None or (action.nargs == "?" and not value.startswith("-"))

    def _takes_texts(self) -> bool:
        """Whether anything goes without a flag."""
        return any(not a.option_strings and a.choices is None for a in self._actions)

    def _destinations(self, flags: Sequence[str]) -> set[str]:
        """By what names the values of these flags go."""
        return {self._option_string_actions[flag.partition("=")[0]].dest for flag in flags}

    def _elsewhere(
        self, name: str, value: str, waiting: deque[str], *, may_be_text: bool
    ) -> str | None:
        """Our flag for one of another program, None where it has no meaning here. `value` is what
        it was given ("=on"), if anything; else it may be the first of those waiting.

        Raises ValueError for a flag that is not to be had, and for one that nobody knows.
        """
        from linnet.engine.cli import elsewhere  # which few command lines need

        known = self._option_string_actions
        if not value and waiting and (ours := elsewhere.ours(f"{name}={waiting[0]}", known)):
            waiting.popleft()
            return ours
        for spelled, rest in ((f"{name}{value}", ""), (name, value)):
            if ours := elsewhere.ours(spelled, known):
                return f"{ours}{rest}"
        if found := elsewhere.ignored(self._command, name):
            if not value and waiting and found.takes(waiting[0]) and waiting[0] not in known:
                value = f" {waiting.popleft()}"
            elif not value and found.values == 1:
                self.error(f"{name}: expected one argument")
            self._ignored.append((f"{name}{value[:SHOWN_CHARACTERS]}", found.reason))
            return None
        if reason := elsewhere.refused(name):
            return self.error(f"{name} is not supported: {reason}")
        return self.error(self._unknown(name, may_be_text=may_be_text and not waiting))

    def _unknown(self, flag: str, *, may_be_text: bool) -> str:
        """What to say of a flag that nobody knows."""
        from linnet.engine.cli.guesses import close

        message = f"there is no flag {flag[:SHOWN_CHARACTERS]!r}"
        if likely := close(flag, self._option_string_actions):
            message += f" (close: {', '.join(likely)})"
        elif may_be_text and self._takes_texts() and not flag.startswith("--"):
            message += "; a value that begins with a dash goes after --"
        return message

    def _unless_given(self, stand_ins: list[tuple[str, str]], flags: list[str]) -> list[str]:
        """Our flags that stand for others'; those others are ignored where ours are given."""
        given = self._destinations(flags)
        left: list[str] = []
        for theirs, ours in stand_ins:
            action = self._option_string_actions[ours.partition("=")[0]]
            if action.dest in given and not isinstance(action, argparse._AppendAction):
                self._ignored.append((theirs, f"{action.option_strings[0]} is given"))
            else:
                left.append(ours)
        return left

    def _tell_ignored(self) -> None:
        if self._ignored:
            from linnet.engine.cli.elsewhere import note
            from linnet.engine.cli.terminal import show_warning

            show_warning(note(self._ignored))
