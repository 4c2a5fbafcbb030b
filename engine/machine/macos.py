"""What macOS tells of the machine, by name (`sysctl hw`) and by its kernel.

The functions are those of `engine/machine/__init__.py`.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

from linnet.kernels.macos import number, text

HOST_VM_INFO64 = 4  # mach/host_info.h
VM_STATISTICS = 38  # numbers of 32 bits in vm_statistics64, mach/vm_statistics.h
FREE, INACTIVE = 0, 2  # which of them count free pages, and inactive ones
RUSAGE_SELF = 0
MAXRSS = 4  # its place in rusage, in numbers of 64 bits: behind two times of two each
CACHES = {1: "l1dcachesize", 2: "l2cachesize", 3: "l3cachesize"}


def usable_threads() -> int | None:
    """The performance cores; all of a CPU that has cores of one kind."""
    return _of_fast_cores("physicalcpu")


def available_memory() -> int | None:
    """Free pages, and those that nobody has used for a while, as psutil has it."""
    numbers = (ctypes.c_uint32 * VM_STATISTICS)()
    n = ctypes.c_uint32(VM_STATISTICS)
    ask = ctypes.CDLL(None).host_statistics64
    if ask(_host(), HOST_VM_INFO64, ctypes.byref(numbers), ctypes.byref(n)):
        return None
    return (int(numbers[FREE]) + int(numbers[INACTIVE])) * mmap.PAGESIZE


def peak_memory() -> int | None:
    """In bytes there, and not in KiB as elsewhere."""
    usage = (ctypes.c_int64 * 64)()  # more than rusage has
    failed = ctypes.CDLL(None).getrusage(RUSAGE_SELF, ctypes.byref(usage))
    return None if failed else int(usage[MAXRSS])


def cache_size(level: int) -> int | None:
    """Of a performance core."""
    return _of_fast_cores(CACHES[level])


def cpu_name() -> str | None:
    return text("machdep.cpu.brand_string")


def _of_fast_cores(what: str) -> int | None:
    """A figure of the cores of the highest performance level, or of all where there is one."""
    return number(f"hw.perflevel0.{what}") or number(f"hw.{what}") or None


@cache
def _host() -> int:
    """The port that is asked about the machine: once, since each call makes a right to it."""
    port: int = ctypes.CDLL(None).mach_host_self()
    return port
