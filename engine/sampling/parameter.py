"""What a parameter is: a field with a check, flags, and a key in files."""

from __future__ import annotations

import json
import math
import reprlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final, NamedTuple, TypeVar, cast

import numpy as np

MAX_STOP_CHARACTERS: Final = 1_000_000  # in all stop strings together
MAX_INT: Final = 2**31 - 1
_KINDS: Final[dict[type, Any]] = {  # what one is called, which types are taken for it
    int: ("an integer", int | np.integer),
    float: ("a number", int | float | np.integer | np.floating),
}
_T = TypeVar("_T", int, float)


class Parameter(NamedTuple):
    """What there is to know of a field of `SamplingParams` beside its name and default."""

    check: Callable[[str, object], Any]  # what to keep of a value by that name; raises ValueError
    flags: Sequence[str] = ()  # of commands; none where only programs can say it
    argument: Mapping[str, Any] = {}  # what argparse is told of the flags
    key: str | None = None  # what a GGUF file calls it
    off: float | None = None  # what a file's -1, or another number out of range, stands for

    def suggested(self, key: str, value: Any) -> Any:
        """What to keep of a file's value; raises ValueError. Warns of a number out of range."""
        try:
            return self.check(key, value)
        except ValueError as wrong:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if self.off is None or not is_number or math.isnan(value):
                raise
            if value != -1:
                warnings.warn(f"{wrong}; {self.off:g} is taken, which is off", stacklevel=3)
            return self.check(key, self.off)


def ranged(
    kind: type[_T], default: float | None, low: float, high: float, usage: str, note: str,
    key: str | None = None, off: int | float | None = None, optional: bool = False,
) -> Any:  # fmt: skip
    """A field for a number from `low` to `high`; if the default is None, for None as well.

    `usage`: the flags, and what stands for a value in their help; `key`: what follows
    `general.sampling.` in files, and `off`: what is meant there by numbers out of range.
    `optional`: whether None is taken although it is not the default. Of numbers from 0 on, -1
    stands for None, or else for `off`, as in other programs.
    """
    has_none, takes_minus_one = default is None or optional, kind is int and low == 0
    or_none = ", or None" if has_none else ""
    or_none = ", or -1 or None" if has_none and takes_minus_one else or_none

    def check(name: str, value: object) -> _T | None:
        if value is None and has_none:
            return None
        is_minus_one = takes_minus_one and isinstance(value, _KINDS[int][1]) and value == -1
        if is_minus_one and (has_none or off is not None):
            return None if has_none else cast(_T, off)
        return number(kind, name, value, low, high, or_none)

    *flags, metavar = usage.split()
    if default is not None:
        models = "the model's, or " if key else ""
        note = f"by default {models}{default:g}; {note}"
    argument = {"type": kind, "metavar": metavar, "help": note}
    about = Parameter(check, flags, argument, key and f"general.sampling.{key}", off)
    return field(default=default, metadata=about._asdict())


def number(kind: type[_T], name: str, value: Any, low: float, high: float, or_else: str = "") -> _T:
    noun, types = _KINDS[kind]
    if isinstance(value, types) and not isinstance(value, bool) and low <= value <= high:
        return kind(value)  # which was not NaN
    raise error(name, value, f"{noun} from {low} to {high}{or_else}")


def error(name: str, value: object, limits: str) -> ValueError:
    return ValueError(f"{name} is {reprlib.repr(value)}; it must be {limits}")


def boolean(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise error(name, value, "True or False")


def token_ids(name: str, ids: object) -> tuple[int, ...]:
    if not isinstance(ids, list | tuple):
        raise error(name, ids, "a list of token ids")
    return tuple(number(int, f"{name}[{i}]", each, 0, MAX_INT) for i, each in enumerate(ids))


def strings(name: str, stop: object) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else stop
    if not isinstance(strings, list | tuple):
        raise error(name, stop, "a string, or a list of strings")
    for i, string in enumerate(strings):
        if not isinstance(string, str) or not string:
            raise error(f"{name}[{i}]", string, "a string of at least 1 character")
    if sum(map(len, strings)) > MAX_STOP_CHARACTERS:
        raise ValueError(
            f"{name} has {sum(map(len, strings))} characters; it must be at most "
            f"{MAX_STOP_CHARACTERS} in all strings together"
        )
    return tuple(strings)


def callables(name: str, value: object) -> tuple[Callable[..., Any], ...]:
    if not isinstance(value, list | tuple):
        raise error(name, value, "a list of callables")
    for i, each in enumerate(value):
        if not callable(each):
            raise error(f"{name}[{i}]", each, "callable")
    return tuple(value)


def text(name: str, value: object) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise error(name, value, "a text of at least 1 character, or None")


def schema(name: str, value: Any) -> dict[str, Any] | bool | None:
    """A JSON schema, given as such, as JSON text, or as a pydantic model."""
    if hasattr(value, "model_json_schema"):
        value = value.model_json_schema()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as wrong:
            raise ValueError(f"{name} is no JSON: {wrong}") from wrong
        if isinstance(value, bool):
            return value
    if not isinstance(value, Mapping):
        raise error(name, value, "a JSON schema: an object, or a boolean")
    return {"type": "object"} if not value else dict(value)
