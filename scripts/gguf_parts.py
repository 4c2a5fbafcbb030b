"""A valid GGUF file taken apart, to be changed and built again.

Made for files that our own tests build: nothing is checked.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from linnet.engine.gguf.metadata import ARRAY, NUMBERS, STRING
from linnet.engine.gguf.types import GGML_TYPES


@dataclass(frozen=True)
class Entry:
    """A key and its value; `items`: the encoded elements of an array, or the one value."""

    key: bytes
    kind: int
    is_array: bool
    items: tuple[bytes, ...]

    @cached_property
    def encoded(self) -> bytes:
        head = _string(self.key)
        if self.is_array:
            head += struct.pack("<IIQ", ARRAY, self.kind, len(self.items))
        else:
            head += struct.pack("<I", self.kind)
        if self.kind == STRING:
            return head + b"".join(map(_string, self.items))
        return head + b"".join(self.items)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor with its data; `dims` fastest first."""

    name: bytes
    dims: tuple[int, ...]
    type: int
    data: bytes

    @cached_property
    def head(self) -> bytes:
        """The table's entry but for the offset."""
        n = len(self.dims)
        dims = struct.pack(f"<I{n}Q", n, *(dim % 2**64 for dim in self.dims))
        return _string(self.name) + dims + struct.pack("<I", self.type)


@dataclass
class File:
    """What a file holds, to be changed and written again."""

    metadata: list[Entry]
    tensors: list[TensorInfo]
    alignment: int = 32
    numbers: list[tuple[int, int]] = field(default_factory=list)
    """Where the file had numbers that others depend on (byte, size): counts, lengths, types,
    dimensions, offsets."""
    header_bytes: int = 0
    pool: Sequence[Entry] = ()
    """Keys that other files have."""

    @classmethod
    def parse(cls, data: bytes) -> File:
        """Take a valid file apart."""
        return _Parser(data).file()

    @property
    def architecture(self) -> bytes:
        """What the keys of hyper-parameters begin with, unless that has been taken away."""
        named = (e.items[0] for e in self.metadata if e.key == b"general.architecture" and e.items)
        return next(named, b"llama")

    def copy(self) -> File:
        return replace(self, metadata=[*self.metadata], tensors=[*self.tensors])

    def build(self) -> bytes:
        """The file, with counts, lengths and offsets that fit."""
        parts = [b"GGUF", struct.pack("<IQQ", 3, len(self.tensors), len(self.metadata))]
        parts += [entry.encoded for entry in self.metadata]
        offset, data = 0, []
        for tensor in self.tensors:
            parts += [tensor.head, struct.pack("<Q", offset)]
            data += [tensor.data, bytes(-len(tensor.data) % self.alignment)]
            offset += len(tensor.data) + -len(tensor.data) % self.alignment
        header = b"".join(parts)
        return b"".join([header, bytes(-len(header) % self.alignment), *data])


class _Parser:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 4
        self._numbers: list[tuple[int, int]] = []

    def file(self) -> File:
        self._number(4)
        n_tensors, n_keys = self._number(8), self._number(8)
        metadata = [self._entry() for _ in range(n_keys)]
        table = [self._tensor() for _ in range(n_tensors)]
        start = self._at + -self._at % 32
        tensors = []
        for name, dims, type, offset in table:
            ggml = GGML_TYPES[type]
            n_bytes = math.prod(dims) // ggml.block * ggml.bytes
            data = self._data[start + offset : start + offset + n_bytes]
            tensors.append(TensorInfo(name, dims, type, data))
        return File(metadata, tensors, numbers=self._numbers, header_bytes=start)

    def _number(self, size: int) -> int:
        self._numbers.append((self._at, size))
        return int.from_bytes(self._take(size), "little")

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def _text(self) -> bytes:
        return self._take(self._number(8))

    def _entry(self) -> Entry:
        key, kind = self._text(), self._number(4)
        is_array = kind == ARRAY
        kind = self._number(4) if is_array else kind
        count = self._number(8) if is_array else 1
        if kind == STRING:
            items = tuple(self._text() for _ in range(count))
        else:
            items = tuple(self._take(NUMBERS[kind].itemsize) for _ in range(count))
        return Entry(key, kind, is_array, items)

    def _tensor(self) -> tuple[bytes, tuple[int, ...], int, int]:
        name = self._text()
        dims = tuple(self._number(8) for _ in range(self._number(4)))
        return name, dims, self._number(4), self._number(8)


def _string(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text
