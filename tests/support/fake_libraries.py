"""Libraries of Windows and macOS, of made-up machines, with structures as their headers have them.

Functions take what `ctypes` would hand over; `byref(x)` has x as `_obj`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64
from dataclasses import dataclass, field
from typing import Any

# ---- Windows: winnt.h, sysinfoapi.h, psapi.h -----------------------------------------------------


class GroupAffinity(ctypes.Structure):
    _fields_ = [("Mask", c_uint64), ("Group", c_uint16), ("Reserved", c_uint16 * 3)]


class ProcessorRelationship(ctypes.Structure):
    _fields_ = [
        ("Relationship", c_uint32), ("Size", c_uint32), ("Flags", c_uint8),
        ("EfficiencyClass", c_uint8), ("Reserved", c_uint8 * 20), ("GroupCount", c_uint16),
        ("GroupMask", GroupAffinity),
    ]  # fmt: skip


class CacheRelationship(ctypes.Structure):
    _fields_ = [
        ("Relationship", c_uint32), ("Size", c_uint32), ("Level", c_uint8),
        ("Associativity", c_uint8), ("LineSize", c_uint16), ("CacheSize", c_uint32),
        ("Type", c_uint32), ("Reserved", c_uint8 * 18), ("GroupCount", c_uint16),
        ("GroupMask", GroupAffinity),
    ]  # fmt: skip


class MemoryStatus(ctypes.Structure):
    _fields_ = [
        ("dwLength", c_uint32), ("dwMemoryLoad", c_uint32), ("ullTotalPhys", c_uint64),
        ("ullAvailPhys", c_uint64), ("ullTotalPageFile", c_uint64), ("ullAvailPageFile", c_uint64),
        ("ullTotalVirtual", c_uint64), ("ullAvailVirtual", c_uint64),
        ("ullAvailExtendedVirtual", c_uint64),
    ]  # fmt: skip


class MemoryCounters(ctypes.Structure):
    _fields_ = [
        ("cb", c_uint32), ("PageFaultCount", c_uint32), ("PeakWorkingSetSize", c_uint64),
        ("WorkingSetSize", c_uint64), ("QuotaPeakPagedPoolUsage", c_uint64),
        ("QuotaPagedPoolUsage", c_uint64), ("QuotaPeakNonPagedPoolUsage", c_uint64),
        ("QuotaNonPagedPoolUsage", c_uint64), ("PagefileUsage", c_uint64),
        ("PeakPagefileUsage", c_uint64),
    ]  # fmt: skip


@dataclass
class Kernel32:
    """A machine of cores (efficiency class, CPUs, group) and caches (level, type, bytes).

    `affinity`: the CPUs of the process; 0: it runs in several groups.
    """

    cores: Sequence[tuple[int, int, int]] = ((0, 0b11, 0), (0, 0b1100, 0))
    caches: Sequence[tuple[int, int, int]] = ((1, 1, 32 << 10), (1, 2, 48 << 10), (2, 0, 1 << 20))
    affinity: int = 0b1111
    groups: Sequence[int] = (0,)
    free: int = 8 << 30
    grantable: int = 9 << 30
    peak: int = 123_000_000
    fails: bool = False

    def GetLogicalProcessorInformationEx(self, kind: int, told: Any, size: Any) -> int:  # noqa: N802
        records: list[ctypes.Structure] = [
            ProcessorRelationship(
                0, ctypes.sizeof(ProcessorRelationship), EfficiencyClass=efficiency, GroupCount=1,
                GroupMask=GroupAffinity(cpus, group),
            )
            for efficiency, cpus, group in self.cores
            if kind == 0
        ]  # fmt: skip
        records += [
            CacheRelationship(
                2, ctypes.sizeof(CacheRelationship), Level=level, CacheSize=n_bytes, Type=type,
                GroupCount=1,
            )
            for level, type, n_bytes in self.caches
            if kind == 2
        ]  # fmt: skip
        data = b"".join(map(bytes, records))
        fits, size._obj.value = told is not None and size._obj.value >= len(data), len(data)
        if fits and not self.fails:
            ctypes.memmove(told, data, len(data))
        return int(fits and not self.fails)

    def GetProcessGroupAffinity(self, process: Any, n: Any, groups: Any) -> int:  # noqa: N802
        n._obj.value = len(self.groups)
        for i, group in enumerate(self.groups):
            groups[i] = group
        return 1

    def GetProcessAffinityMask(self, process: Any, ours: Any, all: Any) -> int:  # noqa: N802
        ours._obj.value = all._obj.value = self.affinity
        return 1

    def GlobalMemoryStatusEx(self, buffer: Any) -> int:  # noqa: N802
        status = MemoryStatus.from_buffer(buffer)
        assert status.dwLength == ctypes.sizeof(MemoryStatus) == 64
        status.ullAvailPhys, status.ullAvailPageFile = self.free, self.grantable
        return int(not self.fails)

    def K32GetProcessMemoryInfo(self, process: Any, buffer: Any, n_bytes: int) -> int:  # noqa: N802
        counters = MemoryCounters.from_buffer(buffer)
        assert counters.cb == n_bytes == ctypes.sizeof(MemoryCounters) == 72
        counters.PeakWorkingSetSize = self.peak
        return int(not self.fails)

    @property
    def SwitchToThread(self) -> Any:  # noqa: N802
        """As an address, which native code calls."""
        return ctypes.CDLL(None).sched_yield

    @property
    def Sleep(self) -> Any:  # noqa: N802
        return ctypes.CDLL(None).usleep


@dataclass
class Advapi32:
    """A registry that has the CPU's name."""

    name: str = "A CPU with a name   "
    fails: bool = False

    def RegGetValueW(  # noqa: N802
        self, key: Any, path: Any, name: Any, flags: int, type: Any, value: Any, size: Any
    ) -> int:
        assert key.value == 0xFFFFFFFF80000002  # HKEY_LOCAL_MACHINE, as 64 bits
        assert (path.value.rpartition("\\")[2], name.value) == ("0", "ProcessorNameString")
        if not self.fails:
            value.value = self.name
        return 2 * self.fails  # ERROR_FILE_NOT_FOUND


# ---- macOS: mach/vm_statistics.h, sys/sysctl.h, pthread/qos.h ------------------------------------


class VMStatistics64(ctypes.Structure):
    _fields_ = [
        *((name, c_uint32) for name in ("free", "active", "inactive", "wire")),
        *((f"event{i}", c_uint64) for i in range(9)),
        ("purgeable", c_uint32), ("speculative", c_uint32),
        *((f"swap{i}", c_uint64) for i in range(4)),
        *((name, c_uint32) for name in ("compressor", "throttled", "external", "internal")),
        ("total_uncompressed_pages_in_compressor", c_uint64),
    ]  # fmt: skip


class Usage(ctypes.Structure):
    """`struct rusage`: two times, each of seconds and microseconds, and 14 numbers."""

    _fields_ = [
        ("utime", c_int64), ("utime_us", c_int32), ("stime", c_int64), ("stime_us", c_int32),
        ("maxrss", c_int64), ("others", c_int64 * 13),
    ]  # fmt: skip


@dataclass
class LibSystem:
    """What `sysctl` names, with numbers of 4 or 8 bytes; and pages of memory."""

    names: Mapping[str, int | str] = field(
        default_factory=lambda: {"hw.perflevel0.physicalcpu": 2, "hw.physicalcpu": 6}
    )
    free: int = 1000
    inactive: int = 2000
    peak: int = 123_000_000
    fails: bool = False
    qos: list[tuple[int, int]] = field(default_factory=list)  # what threads have asked for

    def sysctlbyname(self, name: bytes, value: Any, size: Any, new: Any, n_new: Any) -> int:
        if name.decode() not in self.names:
            return -1
        known = self.names[name.decode()]
        wide = 8 if "cachesize" in name.decode() else 4
        data = known.encode() + b"\0" if isinstance(known, str) else known.to_bytes(wide, "little")
        assert size._obj.value >= len(data)
        ctypes.memmove(value, data, len(data))
        size._obj.value = len(data)
        return 0

    def mach_host_self(self) -> int:
        return 42

    def host_statistics64(self, host: int, flavor: int, told: Any, n: Any) -> int:
        assert (host, flavor, 4 * n._obj.value) == (42, 4, ctypes.sizeof(VMStatistics64))
        statistics = VMStatistics64.from_buffer(told._obj)
        statistics.free, statistics.inactive = self.free, self.inactive
        return int(self.fails)

    def getrusage(self, who: int, usage: Any) -> int:
        assert who == 0  # RUSAGE_SELF
        Usage.from_buffer(usage._obj).maxrss = self.peak
        return -int(self.fails)

    def pthread_set_qos_class_self_np(self, quality: int, priority: int) -> int:
        self.qos.append((quality, priority))
        return 0
