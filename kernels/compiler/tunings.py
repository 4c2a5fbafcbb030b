"""What `linnet tune` found to be faster than an instruction set's defaults, kept for this CPU.

A small JSON file for each CPU and instruction set, in the folder of the kernel cache; `choose_isa`
reads it. A file that is missing, unreadable, of another CPU, writable by others or malformed counts
as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from linnet.kernels import macos
from linnet.kernels.compiler.files import read_own, write_own
from linnet.kernels.compiler.jit import host_features
from linnet.kernels.compiler.object_cache import ObjectCache
from linnet.kernels.isa.tuning import Tuning

MOST_FILE_BYTES = 4096
CPU_FIELDS = ("vendor_id", "cpu family", "model", "model name", "CPU implementer", "CPU part")


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
    if sys.platform == "darwin":
        known = [macos.text("machdep.cpu.brand_string") or ""]
    features = hashlib.sha256(",".join(sorted(host_features())).encode()).hexdigest()[:16]
    return ", ".join([*(known or [platform.processor()]), f"features {features}"])
