"""Arguments out of range, named in one line."""

from __future__ import annotations


def whole(name: str, value: int | None, low: int, high: int) -> int | None:
    """A checked whole number, or None. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
    return value
