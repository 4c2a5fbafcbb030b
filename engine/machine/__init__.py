"""What this process may really use of the machine: CPUs and memory.

Each system has a file that asks it; what it does not tell is None there.
"""

from __future__ import annotations

import os
import platform
import sys

if sys.platform == "win32":
    from linnet.engine.machine import windows as system
elif sys.platform == "darwin":
    from linnet.engine.machine import macos as system
else:
    from linnet.engine.machine import linux as system

MOST_THREADS = 1024  # that anyone may ask for


def usable_threads() -> int:
    """Physical cores among the CPUs this process may run on, without the little ones of machines
    that have cores of several sizes; all CPUs where the system tells no more."""
    return system.usable_threads() or os.cpu_count() or 1


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, within the limits there are; None if unknown."""
    return system.available_memory()


def peak_memory() -> int | None:
    """The most bytes this process has held in memory, mapped files included; None if unknown."""
    return system.peak_memory()


def cache_size(level: int) -> int | None:
    """Bytes of a CPU's data cache of that level (1 to 3), shared or its own; None if unknown."""
    return system.cache_size(level)


def cpu_name() -> str:
    """What the CPU calls itself, or else its architecture."""
    return system.cpu_name() or platform.machine()


def check_memory(n_bytes: int, available: int | None, what: str, remedy: str) -> None:
    """Raise MemoryError, with both figures and what to do, for more bytes than are available."""
    if available is not None and n_bytes > available:
        raise MemoryError(
            f"{what} needs {n_bytes / 1e9:.2f} GB of memory, and {available / 1e9:.2f} GB are "
            f"available; {remedy}"
        )
