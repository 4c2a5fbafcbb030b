"""Object code on disk: what is compiled once is read back by later processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from linnet.kernels.compiler.files import read_own, write_own

MOST_BYTES = 64 << 20  # of an entry


class ObjectCache:
    """Object code on disk: owner-only, checked by digest, replaced by atomic rename.

    Any trouble with the disk means compiling again, never an error.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @classmethod
    def from_environment(cls) -> ObjectCache:
        if os.environ.get("LINNET_CACHE") == "0":
            return cls(None)
        folder = os.environ.get("LINNET_CACHE_DIR")
        if folder:
            return cls(Path(folder))
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return cls(Path(root) / "linnet" / "kernels")

    def read(self, key: str) -> bytes | None:
        entry = None if self.folder is None else read_own(self.folder / key, MOST_BYTES)
        if entry is None:
            return None
        digest, code = entry[:32], entry[32:]
        return code if _digest(key, code) == digest else None

    def write(self, key: str, code: bytes) -> None:
        if self.folder is not None:
            with contextlib.suppress(OSError):
                write_own(self.folder / key, _digest(key, code) + code)


def _digest(key: str, code: bytes) -> bytes:
    return hashlib.sha256(key.encode() + code).digest()
