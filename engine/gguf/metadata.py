"""The metadata of a GGUF file: found and checked when it is opened, decoded when asked for.

A key is followed by a u32 type and the value; an array by u32 9, its element type, a u64 count and
the elements (ggml docs/gguf.md). Arrays of arrays, which no model has, are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from linnet.engine.gguf.source import Source, shown

MAX_KEYS: Final = 1024  # models have 20 to 160
MAX_KEY_BYTES: Final = 65_535
MAX_ELEMENTS: Final = 1 << 22  # in all arrays of a file; the largest vocabularies have 1.3 million
MAX_ALIGNMENT: Final = 65_536

U16, U32, I32, BOOL, STRING, ARRAY = 2, 4, 5, 7, 8, 9
_CODES: Final = ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?", "", "", "<u8", "<i8", "<f8")
NUMBERS: Final = MappingProxyType(
    {kind: np.dtype(code) for kind, code in enumerate(_CODES) if code}
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A metadata value from byte `at` on: `count` elements, or one that is not in an array."""

    kind: int
    at: int
    count: int | None
    ends: NDArray[np.int64] | None  # of strings

    @property
    def n_elements(self) -> int:
        return 1 if self.count is None else self.count


class Metadata(Mapping[str, object]):
    """The metadata of a file: all values are found and checked, those asked for are decoded."""

    def __init__(self, source: Source, n_keys: int) -> None:
        self._source = source
        self._values: dict[str, _Encoded] = {}
        budget = MAX_ELEMENTS
        for _ in range(n_keys):
            start = source.at
            key = source.name("key", limit=MAX_KEY_BYTES)
            if key in self._values:
                raise source.error(f"key {shown(key)} is there twice", start)
            value = self._find_value(shown(key), budget)
            budget -= value.count or 0
            self._values[key] = value

    def _find_value(self, key: str, budget: int) -> _Encoded:
        """The value at the cursor, which moves past it."""
        source = self._source
        count = None
        kind = source.u32(f"type of {key}")
        is_array = kind == ARRAY
        if is_array:
            kind = source.u32(f"element type of {key}")
        if kind not in NUMBERS and kind != STRING:
            limit = "it must be 0 to 12, and arrays are not nested"
            raise source.error(f"type of {key} is {kind}; {limit}", source.at - 4)
        size = 8 if kind == STRING else NUMBERS[kind].itemsize
        if is_array:
            count = source.count(f"number of elements of {key}", entry=size, limit=budget)
        n_elements = 1 if count is None else count
        at, ends = source.at, None
        if kind == STRING:
            ends = source.string_ends(at, n_elements, key)
            source.at = int(ends[-1]) if n_elements else at
        else:
            source.skip(n_elements * size, key)
        value = _Encoded(kind, at, count, ends)
        if kind == BOOL and (source.data[value.at : source.at] > 1).any():
            raise source.error(f"{key} holds a bool that is neither 0 nor 1", value.at)
        return value

    def __getitem__(self, key: str) -> object:
        value = self._values[key]
        self._source.check_size()
        if value.ends is not None:
            strings = self._source.strings(value.at, value.ends)
            return strings[0] if value.count is None else strings
        dtype = NUMBERS[value.kind]
        end = value.at + value.n_elements * dtype.itemsize
        numbers = self._source.data[value.at : end].view(dtype)
        return numbers[0].item() if value.count is None else numbers.copy()

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def kind(self, key: str) -> int:
        """The GGUF type of a value, or of an array's elements; raises KeyError if it is missing."""
        return self._values[key].kind

    def typed(self, key: str, expected: type[T]) -> T:
        """The value of `key`; raises `GGUFError` if it is missing or not of type `expected`."""
        if key not in self._values:
            raise self._source.error(f"metadata key {shown(key)} is missing")
        value = self[key]
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            found, wanted = type(value).__name__, expected.__name__
            at = self._values[key].at
            raise self._source.error(f"{shown(key)} is of type {found}; it must be {wanted}", at)
        return value

    def alignment(self) -> int:
        """`general.alignment`, a u32 and a power of two; 32 if it is not there."""
        value = self._values.get("general.alignment")
        if value is None:
            return 32
        alignment = self.typed("general.alignment", int)
        if value.kind != U32 or alignment.bit_count() != 1 or alignment > MAX_ALIGNMENT:
            limit = f"it must be a u32, and a power of two up to {MAX_ALIGNMENT}"
            raise self._source.error(f"general.alignment is {alignment}; {limit}", value.at)
        return alignment
