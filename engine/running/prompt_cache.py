"""A folder of prefixes on disk, which outlive the process."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from linnet.engine.running import prefix_file
from linnet.engine.running.prefix_file import Origin, PrefixError, PrefixFile
from linnet.engine.running.session import Session
from linnet.kernels.compiler.files import is_own

WORTH_READING = 256  # tokens; fewer are computed again
GROWTH = 8  # a longer prefix is written once it has an eighth more tokens than a file
LAST = 16  # or, as the process ends, so many more
ENDING = ".linnetkv"
CACHE_BYTES = 8 << 30  # of all files, by default
MOST_CACHE_BYTES = 1 << 62
ABANDONED = 3600  # seconds


class PromptCache:
    """The files of a folder that this session can use; of those of others it sees the size.

    All of them together take at most `most_bytes`: beyond, those unused for longest go. What is
    wrong with a file, or with the folder once it is open, is a UserWarning, and the prefix is
    computed. Raises OSError for a folder that cannot be made.
    """

    def __init__(
        self, folder: Path, session: Session, origin: Origin, *, most_bytes: int = CACHE_BYTES
    ) -> None:
        self._folder, self._session, self._origin = folder, session, origin
        self._most_bytes = most_bytes
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.glob(f".*{ENDING}.*"):  # of a process that was ended as it wrote
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()
        self._files: dict[Path, PrefixFile] = {}
        for path in sorted(folder.glob(f"*{ENDING}")):
            # Of another model, or another version: it is left to them.
            with suppress(PrefixError, OSError):
                if is_own(path.stat()):
                    self._files[path] = PrefixFile.open(path, session, origin)

    def longest(self, ids: Sequence[int]) -> tuple[PrefixFile | None, int]:
        """The file with the most of `ids`, from the first, and how many that is."""
        best: tuple[PrefixFile | None, int] = (None, 0)
        rings = self._session.runner.graph.rings
        for file in self._files.values():
            if (n := file.reusable(ids, rings)) > best[1]:
                best = file, n
        return best

    def read(self, file: PrefixFile, session: Session, slot: int, n: int) -> bool:
        """Make the first `n` of its tokens the slot's sequence; False, and the file is used no
        more, where that cannot be."""
        try:
            file.read(session, slot, n)
            os.utime(file.path)
        except (OSError, PrefixError) as error:
            self._files.pop(file.path, None)
            warnings.warn(f"the prompt cache goes without a file: {error}", stacklevel=2)
            return False
        return True

    def worth_writing(self, ids: Sequence[int], *, last: bool = False) -> bool:
        """Whether so much of these is in no file that one with all of them pays; `last`: as it is
        now or never."""
        n_new = len(ids) - self.longest([*ids, 0])[1]
        least = LAST if last else max(WORTH_READING, len(ids) // GROWTH)
        return len(ids) >= WORTH_READING and n_new >= least

    def write(self, slot: int, n: int, *, wanted: Callable[[], bool] = lambda: False) -> None:
        """Keep the first `n` tokens of a slot's sequence, in place of files that it makes useless.
        Raises Interrupted once somebody else is `wanted`."""
        ids = np.array(self._session.sequences[slot].ids[:n], prefix_file.ID)
        name = hashlib.sha256(repr(sorted(self._origin.items())).encode() + ids.tobytes())
        path = self._folder / f"{name.hexdigest()[:32]}{ENDING}"
        n_bytes = prefix_file.size(self._session, slot, n, self._origin)
        if n_bytes > self._most_bytes:
            return
        try:
            self._make_room(n_bytes)
            file = prefix_file.write(path, self._session, slot, n, self._origin, wanted=wanted)
            self._files[path] = file
            rings = self._session.runner.graph.rings
            for other in list(self._files.values()):
                if other is not file and file.reusable([*other.ids, -1], rings) == len(other.ids):
                    self._remove(other.path)
        except OSError as error:
            warnings.warn(f"the prompt cache cannot keep a prefix: {error}", stacklevel=2)

    def _make_room(self, n_bytes: int) -> None:
        """Remove files, those unused for longest first, until so many bytes more fit."""
        found = [(path, path.stat()) for path in self._folder.glob(f"*{ENDING}")]
        found.sort(key=lambda each: each[1].st_mtime_ns)
        room = self._most_bytes - sum(status.st_size for _, status in found) - n_bytes
        for path, status in found:
            if room >= 0:
                return
            self._remove(path)
            room += status.st_size

    def _remove(self, path: Path) -> None:
        self._files.pop(path, None)
        path.unlink(missing_ok=True)
