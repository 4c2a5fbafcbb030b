"""What Windows tells of the machine, by functions of kernel32 and advapi32.

The functions are those of `engine/machine/__init__.py`.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from typing import Any

# GetLogicalProcessorInformationEx: what records are about, and what they hold behind their kind
# and size, both of 32 bits.
CORE, CACHE = 0, 2
KIND_AND_SIZE = struct.Struct("<II")
CORE_RECORD = struct.Struct("<xB20xH")  # efficiency class, number of groups
CACHE_RECORD = struct.Struct("<BxxxII")  # level, bytes, type
GROUP = struct.Struct("<QH6x")  # mask of CPUs, number of the group
INSTRUCTIONS = 1  # a type of cache

MEMORY_STATUS = struct.Struct("<II7Q")  # MEMORYSTATUSEX
MEMORY_COUNTERS = struct.Struct("<II8Q")  # PROCESS_MEMORY_COUNTERS
MOST_GROUPS = 64
LOCAL_MACHINE = 0x80000002 - (1 << 32)  # HKEY_LOCAL_MACHINE, a negative number
CPU_KEY = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
TEXT = 2  # RRF_RT_REG_SZ


def usable_threads() -> int | None:
    """The cores of the highest efficiency class, which is the fastest, among those that the process
    may run on."""
    mask, groups = _affinity()
    classes = []
    for record in _processors(CORE):
        efficiency, n_groups = CORE_RECORD.unpack_from(record)
        for at in range(n_groups):
            cpus, group = GROUP.unpack_from(record, CORE_RECORD.size + at * GROUP.size)
            if group in groups and cpus & mask:
                classes.append(efficiency)
                break
    return classes.count(max(classes)) if classes else None


def available_memory() -> int | None:
    """What is free of the memory, and of what the system grants at all, which pages count for
    before they are touched."""
    status = _filled(_kernel("GlobalMemoryStatusEx"), MEMORY_STATUS)
    if status is None:
        return None
    _, _, _, free, _, grantable, *_ = status
    return int(min(free, grantable))


def peak_memory() -> int | None:
    counters = _filled(_kernel("K32GetProcessMemoryInfo"), MEMORY_COUNTERS, _process())
    return None if counters is None else int(counters[2])


def cache_size(level: int) -> int | None:
    """Of the first that is told of."""
    for record in _processors(CACHE):
        of_level, n_bytes, kind = CACHE_RECORD.unpack_from(record)
        if of_level == level and kind != INSTRUCTIONS:
            return int(n_bytes)
    return None


def cpu_name() -> str | None:
    name, size = ctypes.create_unicode_buffer(128), ctypes.c_uint32(256)
    get = ctypes.CDLL("advapi32").RegGetValueW
    failed = get(
        ctypes.c_void_p(LOCAL_MACHINE), ctypes.c_wchar_p(CPU_KEY),
        ctypes.c_wchar_p("ProcessorNameString"), TEXT, None, name, ctypes.byref(size),
    )  # fmt: skip
    return None if failed else name.value.strip()


def _affinity() -> tuple[int, set[int]]:
    """The CPUs that this process may run on: a mask of those within a group, and the groups. One
    that runs in several groups has no mask, and may run on all of theirs."""
    groups, n = (ctypes.c_uint16 * MOST_GROUPS)(), ctypes.c_uint16(MOST_GROUPS)
    ours, all = ctypes.c_size_t(0), ctypes.c_size_t(0)
    _kernel("GetProcessGroupAffinity")(_process(), ctypes.byref(n), groups)
    _kernel("GetProcessAffinityMask")(_process(), ctypes.byref(ours), ctypes.byref(all))
    return ours.value or (1 << 64) - 1, set(groups[: n.value])


def _processors(kind: int) -> Iterator[bytes]:
    """What the records of a kind hold; none where the system has no such function."""
    ask, size = _kernel("GetLogicalProcessorInformationEx"), ctypes.c_uint32(0)
    ask(kind, None, ctypes.byref(size))
    told = ctypes.create_string_buffer(size.value)
    if not ask(kind, told, ctypes.byref(size)):
        return
    at = 0
    while at + KIND_AND_SIZE.size <= size.value:
        of_kind, n_bytes = KIND_AND_SIZE.unpack_from(told, at)
        if of_kind == kind:
            yield told.raw[at + KIND_AND_SIZE.size : at + n_bytes]
        at += max(n_bytes, KIND_AND_SIZE.size)


def _filled(function: Any, structure: struct.Struct, *before: Any) -> tuple[Any, ...] | None:
    """The fields of a structure that has its size first, filled by a function; None where it
    fails. A function that is told of a handle `before` is told the size once more."""
    buffer = ctypes.create_string_buffer(structure.size)
    struct.pack_into("<I", buffer, 0, structure.size)
    done = function(*before, buffer, *([structure.size] if before else []))
    return structure.unpack(buffer.raw) if done else None


def _process() -> Any:
    """The handle that stands for the process that uses it."""
    return ctypes.c_void_p(-1)


def _kernel(name: str) -> Any:
    return getattr(ctypes.CDLL("kernel32"), name)
