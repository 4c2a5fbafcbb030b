"""Files that are whole or not there, and small ones that nobody else could have written."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def new_file(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file that becomes `path` if all goes well, and goes away if not: for Ctrl-C, too.

    `mode`: who may read and write it, less what the umask forbids. Raises OSError.
    """
    name = path.with_name(f".{path.name}.{os.urandom(8).hex()}")  # nobody's: it may be removed
    try:
        with open(name, "xb", opener=lambda file, flags: os.open(file, flags, mode)) as file:
            yield file
        os.replace(name, path)
    finally:
        name.unlink(missing_ok=True)


def write_own(path: Path, data: bytes) -> None:
    """Have a file for the user alone hold `data`; makes its folder. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with new_file(path, mode=0o600) as file:
        file.write(data)


def read_own(path: Path, most_bytes: int) -> bytes | None:
    """What a regular file of the user's holds.

    None where it cannot be read, is larger, is someone else's or may be written by others. One
    descriptor is looked at and read, so that nobody can put another file in between.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            is_small = stat.S_ISREG(status.st_mode) and status.st_size <= most_bytes
            return file.read(status.st_size) if is_small and is_own(status) else None
    except OSError:
        return None


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # as for the writer of a FIFO


def is_own(status: os.stat_result) -> bool:
    """Whether a file is the user's, and nobody else may write to it; True on Windows, which has
    other owners and modes than POSIX, and where a user's folders are the user's alone."""
    getuid = getattr(os, "getuid", None)
    return getuid is None or (status.st_uid == getuid() and not status.st_mode & 0o022)
