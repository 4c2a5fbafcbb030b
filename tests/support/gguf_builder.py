"""Write GGUF files byte by byte, valid ones or with any single field wrong.

    GGUFBuilder().kv("general.architecture", STRING, "llama").tensor("x", F32, (4,), data).build()

Every field that follows from others (a count, a length, an offset) is worked out, unless it is
given: `.kv("k", STRING, "v", length=2**64 - 1)`. Types are plain numbers, so any may be given.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from linnet.engine.gguf.types import GGML_TYPES

# Types of metadata values, as in the specification.
UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = range(10)
UINT64, INT64, FLOAT64 = range(10, 13)
FORMATS = dict(enumerate("BbHhIif?")) | {UINT64: "Q", INT64: "q", FLOAT64: "d"}

# Types of tensors, as in ggml; the common ones.
F32, F16, Q4_0, Q8_0, Q4_K, Q5_K, Q6_K, I8, BF16 = 0, 1, 2, 8, 12, 13, 14, 24, 30


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def string(text: str | bytes, *, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw) if length is None else length) + raw


def scalar(kind: int, value: object) -> bytes:
    """One value: a string's text or bytes, or a number. Other bytes are put in as they are."""
    if kind == STRING and isinstance(value, str | bytes):
        return string(value)
    return value if isinstance(value, bytes) else struct.pack(f"<{FORMATS[kind]}", value)


def padding(size: int, alignment: int) -> bytes:
    return bytes(-size % alignment)


class GGUFBuilder:
    """A GGUF file being put together; every method but `build` and `write` returns the builder.

    `alignment` is what the data is padded to. It is written to the metadata only if it is not 32;
    for a file that says otherwise, add `general.alignment` by hand.
    """

    def __init__(
        self,
        *,
        magic: bytes = b"GGUF",
        version: int = 3,
        n_tensors: int | None = None,
        n_keys: int | None = None,
        alignment: int = 32,
    ) -> None:
        self.magic, self.version = magic, version
        self.n_tensors, self.n_keys = n_tensors, n_keys
        self.alignment = alignment
        self.metadata: list[bytes] = []
        self.table: list[bytes] = []
        self.data = b""
        if alignment != 32:
            self.kv("general.alignment", UINT32, alignment)

    def kv(
        self,
        key: str | bytes,
        kind: int,
        value: object,
        *,
        key_length: int | None = None,
        length: int | None = None,
    ) -> GGUFBuilder:
        """A key and its value; bytes are put in as they are, unless it is a string."""
        raw = scalar(kind, value)
        if length is not None:
            raw = u64(length) + raw[8:]
        self.metadata.append(string(key, length=key_length) + u32(kind) + raw)
        return self

    def array(
        self,
        key: str | bytes,
        kind: int,
        values: Sequence[object] = (),
        *,
        count: int | None = None,
        raw: bytes = b"",
    ) -> GGUFBuilder:
        """A key and an array of values of one type; `raw` is what comes behind the values."""
        header = u32(ARRAY) + u32(kind) + u64(len(values) if count is None else count)
        elements = b"".join(scalar(kind, value) for value in values)
        self.metadata.append(string(key) + header + elements + raw)
        return self

    def tensor(
        self,
        name: str | bytes,
        type: int,
        shape: Sequence[int],
        data: np.ndarray | bytes | None = None,
        *,
        name_length: int | None = None,
        n_dims: int | None = None,
        offset: int | None = None,
    ) -> GGUFBuilder:
        """A tensor; `shape` is slowest first, as in numpy. Without `data` it is all zeros."""
        if data is None:
            data = bytes(math.prod(shape) // GGML_TYPES[type].block * GGML_TYPES[type].bytes)
        raw = data if isinstance(data, bytes) else data.tobytes()
        self.table.append(
            string(name, length=name_length)
            + u32(len(shape) if n_dims is None else n_dims)
            + b"".join(u64(dim % 2**64) for dim in reversed(shape))
            + u32(type)
            + u64(len(self.data) if offset is None else offset)
        )
        self.data += raw + padding(len(raw), self.alignment or 1)
        return self

    def build(self) -> bytes:
        """The bytes of the file."""
        head = (
            self.magic
            + u32(self.version)
            + u64(len(self.table) if self.n_tensors is None else self.n_tensors)
            + u64(len(self.metadata) if self.n_keys is None else self.n_keys)
            + b"".join(self.metadata)
            + b"".join(self.table)
        )
        return head + padding(len(head), self.alignment or 1) + self.data

    def write(self, path: Path) -> Path:
        """Write the file and return its path."""
        path.write_bytes(self.build())
        return path
