"""Memory of the system's, or MemoryError."""

from __future__ import annotations

import contextlib
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

# Memory that nobody shares, which huge pages are for; Windows makes no difference.
PRIVATE = getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0)


def aligned(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed memory that starts on a page; pages are taken from the system when touched.

    Small pages: a huge one would be taken whole where a cache has only begun to fill. Raises
    MemoryError.
    """
    memory = _mapping(max(n_bytes, 1))
    _advise(memory, "MADV_NOHUGEPAGE")
    return np.frombuffer(memory, np.uint8, n_bytes)


def in_huge_pages(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed memory in pages of 2 MB, where the system has some: for what passes write and read.

    Rows of activations lie further apart than a small page is long; to find the page of each of
    them takes longer than to read it. Raises MemoryError.
    """
    memory = _mapping(max(n_bytes, 1), **({"flags": PRIVATE} if PRIVATE else {}))
    _advise(memory, "MADV_HUGEPAGE")
    return np.frombuffer(memory, np.uint8, n_bytes)


def release(part: npt.NDArray[Any]) -> None:
    """Give the whole pages within a contiguous part of `aligned` memory back to the system.

    Their numbers are 0 from then on, and a page is taken again when it is touched. Nothing happens
    where the system has no MADV_REMOVE, which only Linux has.
    """
    base: Any = part
    while isinstance(base, np.ndarray):
        base = base.base
    memory = base.obj if isinstance(base, memoryview) else None
    if not isinstance(memory, mmap.mmap):
        return
    offset = part.ctypes.data - np.frombuffer(memory, np.uint8).ctypes.data
    start = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (offset + part.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end:
        _advise(memory, "MADV_REMOVE", start, end - start)


def check_room(n_bytes: int) -> None:
    """Raise MemoryError unless the system would grant so many bytes: for use before code, such as
    LLVM's, that ends the process where memory runs out."""
    _mapping(n_bytes).close()


def _advise(memory: Any, advice: str, *part: int) -> None:
    """Where the system knows an advice, by the name that `mmap` has for it."""
    if hasattr(mmap, advice):
        with contextlib.suppress(OSError):
            memory.madvise(getattr(mmap, advice), *part)


def _mapping(n_bytes: int, **options: Any) -> mmap.mmap:
    try:
        return mmap.mmap(-1, n_bytes, **options)
    except OSError as error:
        size = f"{n_bytes / 1e6:,.0f} MB"
        raise MemoryError(f"the system does not grant {size} of memory at once") from error
