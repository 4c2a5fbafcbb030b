"""The bytes of a GGUF file, and ways to read them that cannot leave the file.

Every read names the field it is for and raises `GGUFError` if the file is too short for it.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from linnet.engine.machine import available_memory, check_memory

PART_BYTES: Final = 1 << 24  # read at a time
BATCH: Final = 4096  # strings decoded as one text
BATCH_BYTES: Final = 1 << 20
# A FIFO does not block, and Windows, which has none, leaves line ends alone.
FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class GGUFError(ValueError):
    """A file that cannot be used. Says which file, which byte, what is there and what may be."""


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Have errors about what a file holds begin with its name."""
    try:
        yield
    except GGUFError:  # which has it
        raise
    except ValueError as error:
        error.args = (f"{os.fspath(path)!r}: {error}",)
        raise


class Source:
    """A regular file, mapped or read into memory, with a cursor `at`.

    Raises `GGUFError` if `path` is not a regular file, `OSError` if it cannot be opened.
    """

    def __init__(self, path: Path, *, mapped: bool) -> None:
        self._path: Final = os.fspath(path)
        self.at = 0
        descriptor = os.open(path, FLAGS)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise self.error("not a regular file")
            self._mapped: Final = mapped and status.st_size > 0
            self._raw: Final = (
                mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
                if self._mapped
                else self._read_all(descriptor, status.st_size)
            )
        finally:
            os.close(descriptor)
        self.size: Final = len(self._raw)
        view = memoryview(self._raw).toreadonly()
        self.data: Final = np.frombuffer(view, np.uint8)  # (size,), read-only

    def error(self, what: str, at: int | None = None) -> GGUFError:
        """An error about this file and, if given, its byte `at`."""
        where = "" if at is None else f"byte {at}: "
        return GGUFError(f"{self._path!r}: {where}{what}")

    def check_size(self) -> None:
        """Raise `GGUFError` if a mapped file has been cut short since it was opened."""
        if self._mapped and isinstance(self._raw, mmap.mmap) and self._raw.size() < self.size:
            raise self.error(f"cut from {self.size} bytes to {self._raw.size()} while in use")

    def _read_all(self, descriptor: int, size: int) -> bytes | mmap.mmap:
        """The file in private memory, read in parts, between which Ctrl-C is heard."""
        if not size:
            return b""
        remedy = "mapping it, without --no-mmap (mmap=False), needs less"
        check_memory(size, available_memory(), f"reading {self._path!r}", remedy)
        try:
            memory = mmap.mmap(-1, size)
        except OSError as error:
            raise MemoryError(f"reading {self._path!r}: {error}") from error
        at = 0
        with memoryview(memory) as view:
            while at < size:
                part = os.read(descriptor, min(PART_BYTES, size - at))
                if not part:
                    raise self.error(f"cut from {size} bytes to {at} while it was read")
                view[at : at + len(part)] = part
                at += len(part)
        return memory

    # ---- at the cursor, which moves on

    def skip(self, n_bytes: int, field: str) -> None:
        left = self.size - self.at
        if n_bytes > left:
            raise self.error(f"{field} takes {n_bytes} bytes; {left} are left", self.at)
        self.at += n_bytes

    def take(self, n_bytes: int, field: str) -> bytes:
        start = self.at
        self.skip(n_bytes, field)
        return self._raw[start : self.at]

    def u32(self, field: str) -> int:
        return int.from_bytes(self.take(4, field), "little")

    def u64(self, field: str) -> int:
        return int.from_bytes(self.take(8, field), "little")

    def count(self, field: str, *, entry: int, limit: int) -> int:
        """A u64 that counts things of at least `entry` bytes, up to `limit` of them."""
        start = self.at
        count = self.u64(field)
        fitting = (self.size - self.at) // entry
        if count > fitting:
            raise self.error(f"{field} is {count}; the file has room for {fitting}", start)
        if count > limit:
            raise self.error(f"{field} is {count}; at most {limit} are read", start)
        return count

    def name(self, field: str, *, limit: int) -> str:
        """A string of 1 to `limit` bytes that is printable."""
        start = self.at
        length = self.u64(f"length of {field}")
        if not 1 <= length <= limit:
            raise self.error(f"length of {field} is {length}; it must be 1 to {limit}", start)
        name = _text(self.take(length, field))
        if isinstance(name, bytes) or not name.isprintable():
            raise self.error(f"{field} {shown(name)} is not printable UTF-8", start)
        return name

    # ---- anywhere

    def strings(self, at: int, ends: NDArray[np.int64]) -> list[str | bytes]:
        """Decode the strings from byte `at` on, each of which ends at one of `ends`."""
        strings: list[str | bytes] = []
        for first in range(0, len(ends), BATCH):
            part = ends[first : first + BATCH]
            strings += self._decode_all(at, part) or self._decode_each(at, part)
            at = int(part[-1])
        return strings

    def _decode_each(self, at: int, ends: NDArray[np.int64]) -> Iterator[str | bytes]:
        for begin, end in pairwise([at, *ends.tolist()]):
            yield _text(self._raw[begin + 8 : end])

    def _decode_all(self, at: int, ends: NDArray[np.int64]) -> list[str] | None:
        """The strings, decoded as one text and cut; None where one is not UTF-8 or holds a zero,
        or they are too long for that."""
        raw = self.data[at : int(ends[-1])]
        if len(raw) > BATCH_BYTES:
            return None
        kept = np.ones(len(raw), bool)
        begins = np.concatenate([[0], ends[:-1] - at])
        for i in range(7):  # the last byte of a length is zero, and divides them
            kept[begins + i] = False
        try:
            strings = raw[kept].tobytes().decode().split("\0")[1:]
        except UnicodeDecodeError:
            return None
        return strings if len(strings) == len(ends) else None

    def string_ends(self, at: int, count: int, field: str) -> NDArray[np.int64]:
        """Where each of the `count` strings from byte `at` on ends: (count,).

        Only its length tells where the next string begins, and a vocabulary has up to a million:
        so most are found many at a time, and a batch is walked one by one where that fails.
        """
        found = [np.zeros(0, np.int64)]
        while count:
            ends = self._walk(at, min(count, 1024), field)
            while len(ends):
                found.append(ends)
                at, count = int(ends[-1]), count - len(ends)
                ends = self._stride(at, count) if count and len(ends) >= 512 else ends[:0]
        return np.concatenate(found)

    def _walk(self, at: int, count: int, field: str) -> NDArray[np.int64]:
        """The ends of the next `count` strings, one by one."""
        read_u64 = struct.Struct("<Q").unpack_from
        ends = []
        for _ in range(count):
            left = self.size - at - 8
            length = read_u64(self._raw, at)[0] if left >= 0 else 0
            if length > left:
                need = f"a string takes {8 + length} bytes; {left + 8} are left"
                raise self.error(f"{field}: {need}", at)
            at += 8 + length
            ends.append(at)
        return np.array(ends, np.int64)

    def _stride(self, at: int, limit: int) -> NDArray[np.int64]:
        """The ends of as many of the next `limit` strings as can be found at once, maybe none.

        A length below 256 is one byte and seven zeros, which text does not hold. So find all
        places with seven zeros, and keep those proved: each string ends where the next one begins.
        """
        window = self.data[at : at + 32_768]
        zeros = window[1:] == 0
        zeros = zeros[:-1] & zeros[1:]
        zeros = zeros[:-2] & zeros[2:]
        zeros = zeros[:-3] & zeros[3:]  # [i]: bytes i + 1 to i + 7 are zero
        begins = np.flatnonzero(zeros)[:limit]
        ends = begins + 8 + window[begins]
        proved = np.concatenate([begins[:1] == 0, begins[1:] == ends[:-1], [False]])
        ends = at + ends[: int(proved.argmin())]
        return ends[ends <= self.size]


def shown(name: str | bytes) -> str:
    """An untrusted name as messages show it: quoted, escaped, and not too long."""
    return f"{name[:80]!r}{'...' if len(name) > 80 else ''}"


def _text(raw: bytes) -> str | bytes:
    """The string, or its bytes if they are not UTF-8."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
