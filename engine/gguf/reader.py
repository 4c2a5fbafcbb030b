"""Read GGUF files: a model's metadata, and its packed weights where they lie.

A GGUF file (versions 2 and 3; ggml docs/gguf.md) is little endian, and packed up to its data:

    header     "GGUF", u32 version, u64 number of tensors, u64 number of keys
    metadata   key, u32 type, value; an array is u32 type, u64 count, elements
    tensors    name, u32 number of dimensions, u64 dimensions (fastest first), u32 type, u64 offset
    data       the bytes of each tensor in that order, each padded to `general.alignment`

where a string is a u64 length and that many bytes. Nothing in the file is trusted: every number is
checked against the size of the file, or a limit below, before it is used. A file that fails a check
is refused whole, with a `GGUFError` that says where and why.

The file is mapped. Opening it reads keys and tensor names; metadata values are decoded when asked
for. One thing cannot be helped: if another program cuts a mapped file short, touching the lost
pages ends the process (SIGBUS). So the size is looked at again whenever metadata or tensors are
asked for; with `mmap=False` the file is read into memory, and it cannot happen.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from linnet.engine.gguf.metadata import MAX_KEYS, Metadata
from linnet.engine.gguf.mistaken import check_path, what_begins
from linnet.engine.gguf.source import GGUFError, Source
from linnet.engine.gguf.types import GGML_TYPES, REMOVED_TYPES, GGMLType
from linnet.kernels import log

__all__ = ["GGMLType", "GGUFError", "GGUFFile", "Tensor"]

MAX_TENSORS: Final = 65_536
MAX_NAME_BYTES: Final = 64
MAX_DIMS: Final = 4
MAX_PARTS: Final = 512
_REQUIRED: Final = object()

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor where it lies in the file."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]  # slowest first, as in numpy: (n_rows, n_columns) for a matrix
    data: NDArray[np.uint8]  # (n_bytes,), read-only
    offset: int = 0  # of the data in the file, in bytes


class GGUFFile:
    """A GGUF file, or all parts of a split one, open for reading.

    Takes the path of the file, or of the first part. Raises `GGUFError` if that is not a regular
    file or not a valid GGUF file, and `OSError` if it cannot be read. Arrays that were handed out
    stay valid after `close()`; the mapping goes with the last of them.
    """

    def __init__(self, path: str | os.PathLike[str], *, mmap: bool = True) -> None:
        if what := check_path(path):
            raise GGUFError(f"{os.fspath(path)!r}: {what}; not a GGUF file")
        self.path: Final = Path(path)
        self._parts = _open_parts(self.path, mapped=mmap)
        self._tensors = _merge_tensors(self._parts)
        self.version: Final = self._parts[0].version
        self.alignment: Final = self._parts[0].alignment
        n_bytes = sum(tensor.data.nbytes for tensor in self._tensors.values())
        how = "mapped" if mmap else "read into memory"
        log.info(
            __name__, "%s: %s, %d tensors, %.1f MB of weights, GGUF %d",
            self.path, how, len(self._tensors), n_bytes / 1e6, self.version,
        )  # fmt: skip
        for part in self._parts:
            if part.n_trailing:
                message = f"{part.n_trailing} bytes after the last tensor are ignored"
                warnings.warn(str(part.error(message)), stacklevel=2)

    @property
    def metadata(self) -> Metadata:
        """The metadata: int, float, bool, str, numpy array or list of str, decoded at each access.

        A string that is not UTF-8 comes as bytes. A split file has the metadata of its first part.
        """
        return self._open()[0].metadata

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors by name, in the order of the file."""
        for part in self._open():
            part.check_size()
        return self._tensors

    @property
    def parts(self) -> list[tuple[Path, Mapping[str, Tensor]]]:
        """The files of a split model, or the one file, and the tensors of each by name."""
        return [(part.path, part.tensors) for part in self._open()]

    @overload
    def get(self, key: str, expected: type[T]) -> T: ...
    @overload
    def get(self, key: str, expected: type[T], default: D) -> T | D: ...
    def get(self, key: str, expected: type[T], default: object = _REQUIRED) -> object:
        """The metadata value of `key`, which must be of type `expected`.

        `expected` is int, float, bool, str, list (of strings) or np.ndarray (of numbers). Raises
        `GGUFError` if the value is of another type, or if it is missing and there is no default.
        """
        metadata = self._open()[0].metadata
        if default is not _REQUIRED and key not in metadata:
            return default
        return metadata.typed(key, expected)

    def close(self) -> None:
        """Let go of the file. Using it afterwards raises `GGUFError`."""
        self._parts = []
        self._tensors = MappingProxyType({})

    def __enter__(self) -> GGUFFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> list[_Part]:
        if not self._parts:
            raise GGUFError(f"{os.fspath(self.path)!r}: the file is closed")
        return self._parts


# ---- split files ---------------------------------------------------------------------------------


def _open_parts(path: Path, *, mapped: bool) -> list[_Part]:
    """Open `path` and, if it is the first part of a split file, the others beside it."""
    first = _Part(path, mapped=mapped)
    count = first.metadata.typed("split.count", int) if "split.count" in first.metadata else 1
    if count in (0, 1):
        return [first]
    if not 0 < count <= MAX_PARTS:
        raise first.error(f"split.count is {count}; it must be 0 to {MAX_PARTS}")
    number = first.metadata.typed("split.no", int)
    if number != 0:
        raise first.error(f"split.no is {number}: a split file is opened by its first part, 0")
    ending = f"-00001-of-{count:05}.gguf"
    if not path.name.endswith(ending):
        raise first.error(f"split.count is {count}: the file's name must end in {ending}")
    stem = path.name.removesuffix(ending)
    parts = [first]
    for number in range(1, count):
        other = path.with_name(f"{stem}-{number + 1:05}-of-{count:05}.gguf")
        if not other.exists():
            raise first.error(f"split.count is {count}, but {other.name!r} is not there")
        part = _Part(other, mapped=mapped)
        found = [part.metadata.typed(key, int) for key in ("split.no", "split.count")]
        if found != [number, count]:
            raise part.error(f"split.no and .count are {found}; they must be {[number, count]}")
        parts.append(part)
        if sum(len(part.tensors) for part in parts) > MAX_TENSORS:
            raise part.error(f"the parts up to here have more than {MAX_TENSORS} tensors")
    return parts


def _merge_tensors(parts: list[_Part]) -> Mapping[str, Tensor]:
    """The tensors of all parts, which must be as many as the first part says."""
    tensors: dict[str, Tensor] = {}
    for part in parts:
        twice = tensors.keys() & part.tensors.keys()
        if twice:
            raise part.error(f"tensor {min(twice)!r} is in an earlier part as well")
        tensors |= part.tensors
    if len(parts) > 1:
        promised = parts[0].metadata.typed("split.tensors.count", int)
        if promised != len(tensors):
            raise parts[0].error(
                f"split.tensors.count is {promised}; the parts have {len(tensors)}"
            )
    return MappingProxyType(tensors)


# ---- one file ------------------------------------------------------------------------------------


class _Part:
    """One file, read front to back."""

    def __init__(self, path: Path, *, mapped: bool) -> None:
        self.path, source = path, Source(path, mapped=mapped)
        self.error: Final = source.error
        self.check_size: Final = source.check_size
        self.version: Final = _read_version(source)
        n_tensors = source.count("number of tensors", entry=25, limit=MAX_TENSORS)
        n_keys = source.count("number of keys", entry=14, limit=MAX_KEYS)
        self.metadata: Final = Metadata(source, n_keys)
        self.alignment: Final = self.metadata.alignment()
        entries = _read_entries(source, n_tensors)
        self.tensors, self.n_trailing = _place_tensors(source, entries, self.alignment)


def _read_version(source: Source) -> int:
    if what := what_begins(source.data[:256].tobytes()):
        raise source.error(f"{what}; not a GGUF file")
    magic = source.take(4, "magic")
    if {magic.lower(), magic.lower()[::-1]} & {b"ggml", b"ggmf", b"ggjt"}:
        raise source.error(f"magic is {magic!r}: formats older than GGUF are not supported", 0)
    if magic != b"GGUF":
        raise source.error(f"magic is {magic!r}; it must be b'GGUF'", 0)
    version = source.u32("version")
    if version and version % 65_536 == 0:
        raise source.error(f"version is {version:#x}: big-endian files are not supported", 4)
    if version not in (2, 3):
        raise source.error(f"version {version} is not supported; it must be 2 or 3", 4)
    return version


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the tensor table, from byte `at` on, says of one tensor."""

    at: int
    type: GGMLType
    shape: tuple[int, ...]
    offset: int

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) // self.type.block * self.type.bytes


def _read_entries(source: Source, n_tensors: int) -> dict[str, _Entry]:
    """The tensor table, by name."""
    entries: dict[str, _Entry] = {}
    for _ in range(n_tensors):
        start = source.at
        name = source.name("tensor name", limit=MAX_NAME_BYTES)
        if name in entries:
            raise source.error(f"tensor {name!r} is there twice", start)
        entries[name] = _read_entry(source, name)
    return entries


def _read_entry(source: Source, name: str) -> _Entry:
    """One entry of the tensor table, behind its name."""
    start = source.at
    n_dims = source.u32(f"number of dimensions of {name!r}")
    if n_dims > MAX_DIMS:
        raise source.error(f"{name!r} has {n_dims} dimensions; at most {MAX_DIMS} are read", start)
    shape = tuple(source.u64(f"dimensions of {name!r}") for _ in range(n_dims))[::-1]
    if math.prod(dim or 1 for dim in shape) >= 1 << 63:
        raise source.error(f"{name!r} has shape {shape}, which is 2**63 weights or more", start)
    number = source.u32(f"type of {name!r}")
    if number not in GGML_TYPES:
        known = f"{REMOVED_TYPES[number]}, removed" if number in REMOVED_TYPES else "unknown"
        raise source.error(f"{name!r} has type {number} ({known}), not supported", source.at - 4)
    type = GGML_TYPES[number]
    n_columns = shape[-1] if shape else 1
    if n_columns % type.block:
        limit = f"{type.name} has blocks of {type.block}"
        raise source.error(f"{name!r} has rows of {n_columns} weights; {limit}", start)
    return _Entry(start, type, shape, offset=source.u64(f"offset of {name!r}"))


def _place_tensors(
    source: Source, entries: Mapping[str, _Entry], alignment: int
) -> tuple[dict[str, Tensor], int]:
    """The tensors, and how many bytes follow the last of them.

    Tensors must lie one behind the other, in the order of the table: then none overlaps another,
    or anything else, and every byte of the data is accounted for.
    """
    tensors: dict[str, Tensor] = {}
    data_begin = source.at + -source.at % alignment
    next_offset = 0
    for name, entry in entries.items():
        if entry.offset != next_offset:
            limit = f"it must be {next_offset}, behind the tensor before"
            raise source.error(f"{name!r} has offset {entry.offset}; {limit}", entry.at)
        begin = data_begin + entry.offset
        end = begin + entry.n_bytes
        if end > source.size:
            limit = f"the file ends at {source.size}"
            raise source.error(f"{name!r} is in bytes {begin} to {end}; {limit}", entry.at)
        tensors[name] = Tensor(name, entry.type, entry.shape, source.data[begin:end], begin)
        next_offset += entry.n_bytes + -entry.n_bytes % alignment
    return tensors, max(0, source.size - data_begin - next_offset)
