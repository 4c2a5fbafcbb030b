"""Checks of arguments; an error names the value and its limits in one line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


def token_ids(ids: Iterable[int], n_vocab: int) -> list[int]:
    """Checked ids as plain ints, so that native code sees what was checked. Raises ValueError."""
    checked = []
    for token_id in ids:
        is_whole = isinstance(token_id, int | np.integer) and not isinstance(token_id, bool)
        number = int(token_id) if is_whole else -1
        if not 0 <= number < n_vocab:
            limits = f"a whole number from 0 to {n_vocab - 1}"
            raise ValueError(f"token id is {token_id!r}; it must be {limits}")
        checked.append(number)
    if not checked:
        raise ValueError("the prompt is empty, without a token: at least one is needed")
    return checked


def whole(name: str, value: int | None, low: int, high: int) -> int | None:
    """A checked whole number, or None. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
    return value


def known(
    given: Iterable[str], names: Collection[str], what: str, elsewhere: Mapping[str, str] = NOTHING
) -> None:
    """Raise TypeError for a keyword that is none of `names`, with what it is called here, if
    `elsewhere` has it, or else those that are spelled alike."""
    for name in given:
        if name not in names:
            if name in elsewhere:
                raise TypeError(f"{name!r} is no {what}; here it is {elsewhere[name]}")
            import difflib  # takes milliseconds, which few need

            alike = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(alike)}?" if alike else ""
            raise TypeError(f"{name!r} is no {what}{hint}")
