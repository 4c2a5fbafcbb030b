"""Memory of the system's, or MemoryError."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
import numpy.typing as npt


def aligned(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed memory that starts on a page; pages are taken from the system when touched.

    Small pages: a huge one would be taken whole where a cache has only begun to fill. Raises
    MemoryError.
    """
    memory = _mapping(max(n_bytes, 1))
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.uint8, n_bytes)


def check_room(n_bytes: int) -> None:
    """Raise MemoryError unless the system would grant so many bytes: to be asked on behalf of code
    that ends the process where memory runs out."""
    _mapping(n_bytes).close()


def _mapping(n_bytes: int) -> mmap.mmap:
    try:
        return mmap.mmap(-1, n_bytes)
    except OSError as error:
        size = f"{n_bytes / 1e6:,.0f} MB"
        raise MemoryError(f"the system does not grant {size} of memory at once") from error
