"""Write GGUF files: the header, with metadata of exactly the types it is given in.

The layout is described in `reader.py`. The data is the caller's to write: the bytes of each tensor
in the order of the header, each padded to the alignment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from linnet.engine.gguf.metadata import ARRAY, NUMBERS

VERSION = 3


@dataclass(frozen=True, slots=True)
class MetadataValue:
    """A metadata value: number, bool, str or bytes, or an array: of numbers, or a list of strings.

    `kind` is the GGUF type of the value, or of an array's elements.
    """

    kind: int
    value: object


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """What the header says of a tensor; `shape` is slowest first, as in numpy."""

    name: str
    type_id: int
    shape: tuple[int, ...]
    n_bytes: int


def pack_header(
    metadata: Mapping[str, MetadataValue], tensors: Iterable[TensorEntry], alignment: int
) -> bytes:
    """Everything before the data, padded. `alignment` must be what the metadata says, or 32."""
    tensors = list(tensors)
    parts = [b"GGUF", struct.pack("<IQQ", VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _value(value)]
    offset = 0
    for tensor in tensors:
        n_dims = len(tensor.shape)
        parts.append(_string(tensor.name))
        parts.append(struct.pack(f"<I{n_dims}Q", n_dims, *reversed(tensor.shape)))
        parts.append(struct.pack("<IQ", tensor.type_id, offset))
        offset += tensor.n_bytes + len(padding(tensor.n_bytes, alignment))
    header = b"".join(parts)
    return header + padding(len(header), alignment)


def padding(n_bytes: int, alignment: int) -> bytes:
    """What brings `n_bytes` to a multiple of `alignment`."""
    return bytes(-n_bytes % alignment)


def _value(value: MetadataValue) -> bytes:
    if not isinstance(value.value, list | np.ndarray):
        return struct.pack("<I", value.kind) + _element(value.kind, value.value)
    head = struct.pack("<IIQ", ARRAY, value.kind, len(value.value))
    if isinstance(value.value, list):
        return head + b"".join(map(_string, value.value))
    return head + value.value.astype(NUMBERS[value.kind]).tobytes()


def _element(kind: int, element: object) -> bytes:
    if isinstance(element, str | bytes):
        return _string(element)
    return np.array(element, NUMBERS[kind]).tobytes()


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw
