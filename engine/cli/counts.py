"""Numbers that a command is given: argument types that say what is wrong, and the limits."""

from __future__ import annotations

import argparse
import re
import reprlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

NUMBER = re.compile(r"-?[0-9]+")
RANGE = re.compile(r"([0-9]+)(?:-([0-9]+)(?:([+*])([0-9]+))?)?")
MOST_NUMBERS = 10_000  # in a list


def count(low: int, high: int) -> Callable[[str], int]:
    """An argument type: a number from `low` to `high`."""

    def parse(text: str) -> int:
        with suppress(ValueError):
            if NUMBER.fullmatch(text) and low <= (n := int(text)) <= high:
                return n
        message = f"{reprlib.repr(text)} is not a whole number from {low} to {high}"
        raise argparse.ArgumentTypeError(message)

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """An argument type: a number from `low` to `high`, not of necessity a whole one."""

    def parse(text: str) -> float:
        with suppress(ValueError):
            if low <= (n := float(text)) <= high:
                return n
        message = f"{reprlib.repr(text)} is not a number from {low:g} to {high:g}"
        raise argparse.ArgumentTypeError(message)

    return parse


class Smallest(argparse.Action):
    """A number: of several that are given, the smallest."""

    def __call__(self, parser: Any, namespace: Any, values: Any, flag: str | None = None) -> None:
        so_far = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if so_far is None else min(so_far, values))


class Extend(argparse.Action):
    """A list: the first time in place of the default, and longer every other time."""

    def __call__(self, parser: Any, namespace: Any, values: Any, flag: str | None = None) -> None:
        so_far = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if so_far is self.default else so_far), *values])


def counts(low: int, high: int) -> dict[str, Any]:
    """Options of `add_argument` for a flag that takes a `count_list`, and may be repeated."""
    return {"type": count_list(low, high), "action": Extend, "metavar": "N"}


def count_list(low: int, high: int) -> Callable[[str], list[int]]:
    """An argument type: 1,2 or first-last, first-last+step, first-last*factor, as llama-bench
    takes them; each from `low` to `high`."""
    one, steps = count(low, high), count(1, high)

    def parse(text: str) -> list[int]:
        numbers: list[int] = []
        for part in text.split(","):
            found = RANGE.fullmatch(part)
            if not found:
                message = f"{reprlib.repr(text)} is not a list of whole numbers"
                raise argparse.ArgumentTypeError(f"{message} from {low} to {high}")
            first, last, sign, step = found.groups()
            n, end, by = one(first), one(last or first), steps(step or "1")
            if end < n or (sign == "*" and (by == 1 or n == 0)):
                raise argparse.ArgumentTypeError(f"{part!r} is no range")
            while n <= end:
                if len(numbers) == MOST_NUMBERS:
                    message = f"{reprlib.repr(text)} are more than {MOST_NUMBERS} numbers"
                    raise argparse.ArgumentTypeError(message)
                numbers.append(n)
                n = n * by if sign == "*" else n + by
        return numbers

    return parse
