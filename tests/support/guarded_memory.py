"""Memory for kernels' arrays between pages that no one may touch."""

from __future__ import annotations

import ctypes
import mmap
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
BESIDE = 256  # bytes before and behind an array that are looked at for writes


class Stretch:
    """Pages of memory between two that may not be touched, for one array at a time.

    Where it is `read_only`, kernels see the same memory through a second mapping that they may not
    write. `fill`: what bytes beside the array hold.
    """

    def __init__(self, n_bytes: int, *, read_only: bool = False, fill: int = 0xA5) -> None:
        page = mmap.PAGESIZE
        self.size, self._fill, self._read_only = -(-n_bytes // page) * page, fill, read_only
        total = self.size + 2 * page
        with tempfile.TemporaryFile() as file:
            file.truncate(total)
            ours = mmap.mmap(file.fileno(), total)
            theirs = mmap.mmap(file.fileno(), total, prot=mmap.PROT_READ) if read_only else ours
        self._ours = np.frombuffer(ours, np.uint8)[page : page + self.size]
        seen = np.frombuffer(theirs, np.uint8)
        self._theirs = seen[page : page + self.size]
        for guard in (0, page + self.size):
            protect = ctypes.CDLL(None, use_errno=True).mprotect
            address = ctypes.c_void_p(seen.ctypes.data + guard)
            if protect(address, ctypes.c_size_t(page), 0):  # PROT_NONE
                raise OSError(ctypes.get_errno(), "mprotect")
        self._ours[:] = fill
        self._address, self._place = self._theirs.ctypes.data, slice(0, 0)

    def put(self, array: Array, *, at_end: bool, shift: int = 0) -> int:
        """Copy an array to one of the ends, `shift` bytes off it; returns the kernels' address."""
        n = array.nbytes
        if n + shift > self.size:
            raise ValueError(f"{n} bytes do not fit a stretch of {self.size}")
        start = self.size - n - shift if at_end else shift
        self._place = slice(start, start + n)
        self._around(self._ours)[:] = self._fill
        self._ours[self._place] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return self._address + start

    def array(self, dtype: Any, shape: tuple[int, ...]) -> Array:
        """The array as it is now, in place."""
        return self._theirs[self._place].view(dtype).reshape(shape)

    def spoiled(self) -> bool:
        """Whether something was written beside the array."""
        start, end = self._place.start, self._place.stop
        before = self._ours[max(0, start - BESIDE) : start].tobytes()
        behind = self._ours[end : end + BESIDE].tobytes()
        return (before + behind).count(self._fill) != len(before) + len(behind)

    def _around(self, memory: Array) -> Array:
        return memory[max(0, self._place.start - BESIDE) : self._place.stop + BESIDE]


def guarded(array: Array, *, at_end: bool) -> Array:
    """A copy that ends right before a page that may not be touched, or begins right behind one."""
    stretch = Stretch(array.nbytes)
    stretch.put(array, at_end=at_end)
    return stretch.array(array.dtype, array.shape)
