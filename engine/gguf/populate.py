"""Pages of a mapped file, mapped before they are touched.

Else each 64 KiB of weights are a page fault of the first pass, which takes a sixth longer for them
than the system does that maps them one behind the other. Weights that are not in memory yet are
read meanwhile, in order.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

from numpy.typing import NDArray

from linnet.engine.machine import available_memory

MADV_POPULATE_READ: Final = 22  # of Linux 5.14
PART_BYTES: Final = 1 << 24  # mapped between two looks at whether to stop


class Populating:
    """A thread that maps the pages of arrays, until it is done, or stopped.

    Not where they take more than the available memory. It is nobody's to wait for, and what goes
    wrong is left to whoever touches those pages.
    """

    def __init__(self, arrays: Sequence[NDArray[Any]]) -> None:
        self._stopped = threading.Event()
        fits = sum(array.nbytes for array in arrays) <= (available_memory() or 0)
        if fits and sys.platform == "linux":
            threading.Thread(target=self._run, args=(arrays,), daemon=True).start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self, arrays: Sequence[NDArray[Any]]) -> None:
        madvise = ctypes.CDLL(None).madvise  # mmap's own method keeps Python from doing else
        madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
        for array in arrays:
            begin, end = array.ctypes.data, array.ctypes.data + array.nbytes
            for at in range(begin - begin % mmap.PAGESIZE, end, PART_BYTES):
                n_bytes = min(PART_BYTES, end - at)
                if self._stopped.is_set() or madvise(at, n_bytes, MADV_POPULATE_READ):
                    return
