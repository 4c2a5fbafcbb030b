"""The few numbers that depend on the machine: they change how fast kernels run, never results.

Every instruction set has defaults. What `linnet tune` found to be faster lies in the folder of the
kernel cache, a small JSON file for each CPU and instruction set, and is read by `choose_isa`. A
file that is missing, unreadable, of another CPU, writable by others or malformed counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from linnet.kernels.compiler.files import read_own, write_own
from linnet.kernels.compiler.jit import ObjectCache, host_features

MOST_FILE_BYTES = 4096
LIMITS = {
    "prefetch_bytes": (0, 1 << 16),
    "fewest_bytes": (1 << 10, 1 << 28),
    "most_bytes": (1 << 10, 1 << 28),
}
MOST_TOKENS, MOST_VECTORS = 16, 4  # in a tile
CPU_FIELDS = ("vendor_id", "cpu family", "model", "model name", "CPU implementer", "CPU part")


@dataclass(frozen=True, slots=True)
class Tuning:
    """`prefetch_bytes`: how far ahead of itself a stream of weights asks for memory; 0:
    not at all.

    `tile`: tokens and vectors of rows that one register tile of the many-row products covers.
    `fewest_bytes`, `most_bytes`: weights that a thread takes at a time in the few-row products: in
    long runs memory is read ahead best, while short ones keep threads from waiting for each other
    at the end of a small matrix.

    Raises TypeError for what is no whole number, ValueError for one out of its range.
    """

    prefetch_bytes: int = 2304
    tile: tuple[int, int] = (4, 1)
    fewest_bytes: int = 128 << 10
    most_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name, (least, most) in LIMITS.items():
            _check(name, getattr(self, name), least, most)
        if not isinstance(self.tile, tuple) or len(self.tile) != 2:
            raise TypeError(f"tile is {self.tile!r}; it must be (tokens, vectors)")
        _check("tokens in a tile", self.tile[0], 1, MOST_TOKENS)
        _check("vectors in a tile", self.tile[1], 1, MOST_VECTORS)
        if self.fewest_bytes > self.most_bytes:
            raise ValueError(
                f"fewest_bytes is {self.fewest_bytes}; it must be at most most_bytes, "
                f"{self.most_bytes}"
            )

    def items_of(self, n_bytes: int) -> tuple[int, int]:
        """The fewest and the most items of so many bytes that a thread takes at a time."""
        return max(1, self.fewest_bytes // n_bytes), max(1, self.most_bytes // n_bytes)

    @property
    def in_code(self) -> tuple[int, tuple[int, int]]:
        """What compiled kernels hold of it: part of their cache key."""
        return self.prefetch_bytes, self.tile


def stored(isa: str) -> Tuning | None:
    """What was found for the instruction set of that name on this CPU; None where nothing was."""
    path = stored_path(isa)
    text = None if path is None else read_own(path, MOST_FILE_BYTES)
    if text is None:
        return None
    import json  # here, since a start without a file does not need it

    try:
        entry: Any = json.loads(text)
        if entry["cpu"] != cpu() or entry["isa"] != isa:
            return None
        values = entry["tuning"]
        return Tuning(**{**values, "tile": tuple(values["tile"])})
    except (KeyError, TypeError, ValueError, RecursionError):
        return None


def store(isa: str, tuning: Tuning) -> Path:
    """Have `stored` find it from now on; returns the file. Raises OSError, ValueError."""
    import json

    path = require_path(isa)
    entry = {"isa": isa, "cpu": cpu(), "tuning": asdict(tuning)}
    write_own(path, json.dumps(entry, indent=2).encode())
    return path


def discard(isa: str) -> Path | None:
    """Go back to the defaults; returns the file there was, if any. Raises OSError."""
    path = stored_path(isa)
    if path is not None:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            return path
    return None


def stored_path(isa: str) -> Path | None:
    """Where the tuning of an instruction set on this CPU lies; None without a kernel cache."""
    folder = ObjectCache.from_environment().folder
    digest = hashlib.sha256(cpu().encode()).hexdigest()[:16]
    return None if folder is None else folder / f"tuning-{isa}-{digest}.json"


def require_path(isa: str) -> Path:
    """`stored_path`. Raises ValueError where there is none."""
    path = stored_path(isa)
    if path is None:
        raise ValueError("LINNET_CACHE=0: without a kernel cache there is nowhere to keep a tuning")
    return path


@cache
def cpu() -> str:
    """What tells this CPU from others: its names for itself, and a digest of its features."""
    names: dict[str, str] = {}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", "rb", buffering=0) as file:
        for line in file.read(4096).decode(errors="replace").splitlines():  # the first CPU's
            name, _, value = line.partition(":")
            names.setdefault(name.strip(), value.strip())
    known = [names[name] for name in CPU_FIELDS if name in names]
    features = hashlib.sha256(",".join(sorted(host_features())).encode()).hexdigest()[:16]
    return ", ".join([*(known or [platform.processor()]), f"features {features}"])


def _check(name: str, value: object, least: int, most: int) -> None:
    if type(value) is not int:
        raise TypeError(f"{name} is {value!r}; it must be a whole number")
    if not least <= value <= most:
        raise ValueError(f"{name} is {value}; it must be within {least} to {most}")
