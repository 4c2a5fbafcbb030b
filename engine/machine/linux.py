"""What Linux tells of the machine, in files; other systems lack those, and more is unknown there.

The functions are those of `engine/machine/__init__.py`.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
CPUS = Path("/sys/devices/system/cpu")
LARGEST_CAPACITY = 1024  # Linux's unit, of CPUs of several sizes
CACHED = ("active_file", "inactive_file")  # in a cgroup's memory.stat


def usable_threads() -> int | None:
    """Without CPUs that have less than half the capacity of the largest: little cores would mostly
    take memory's and the caches' bandwidth from the others. No more than the CPU quota."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    capacities = {cpu: _capacity_of(cpu) for cpu in os.sched_getaffinity(0)}
    largest = max(capacities.values())
    cores = {_core_of(cpu) for cpu, capacity in capacities.items() if 2 * capacity >= largest}
    quota = _cpu_quota()
    return max(1, len(cores) if quota is None else min(len(cores), int(quota)))


def available_memory() -> int | None:
    """Within the cgroup's limit."""
    available = _bytes_of("/proc/meminfo", "MemAvailable")
    figures = _cgroup_memory() + ([] if available is None else [available])
    return min(figures) if figures else None


def peak_memory() -> int | None:
    """That of this program: getrusage's begins with what the process held that started it."""
    return _bytes_of("/proc/self/status", "VmHWM")


def cache_size(level: int) -> int | None:
    """Of the first CPU."""
    for folder in sorted((CPUS / "cpu0/cache").glob("index*")):
        with contextlib.suppress(OSError, ValueError):
            kind, number, size = (
                (folder / name).read_text().strip() for name in ("type", "level", "size")
            )
            if kind != "Instruction" and int(number) == level:
                shift = {"K": 10, "M": 20, "G": 30}.get(size[-1:], 0)
                return int(size.rstrip("KMG")) << shift
    return None


def cpu_name() -> str | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return None


def _bytes_of(path: str, name: str) -> int | None:
    """Bytes, from a line such as "MemAvailable: 1234 kB"; None where there is no such line."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except OSError:
        return None
    values = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(values[0]) * 1024 if values else None


def _core_of(cpu: int) -> str:
    """What a CPU shares with its hyperthreads and no other; itself where that is unknown."""
    try:
        return (CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _capacity_of(cpu: int) -> int:
    """How much a CPU does, of 1024 for the machine's largest; 1024 where all are alike."""
    try:
        return int((CPUS / f"cpu{cpu}/cpu_capacity").read_text())
    except (OSError, ValueError):
        return LARGEST_CAPACITY


def _cgroup_folders() -> list[Path]:
    """The folder of our cgroup (version 2), and those above it, whose limits are ours as well.

    In a container that is the root of what it sees; under systemd, say, a slice within a slice.
    """
    own = CGROUP
    with contextlib.suppress(OSError):
        lines = MEMBERSHIP.read_text("utf-8").splitlines()
        paths = [line[3:].strip("/") for line in lines if line.startswith("0::")]
        own = CGROUP.joinpath(*paths)
    return [folder for folder in (own, *own.parents) if folder.is_relative_to(CGROUP)]


def _cgroup_memory() -> list[int]:
    """Bytes that cgroups (version 2, then 1) still grant; the files they cache can give way."""
    places = [(folder, "memory.max", "memory.current") for folder in _cgroup_folders()]
    places.append((CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))
    figures = []
    for folder, limit, used in places:
        with contextlib.suppress(OSError, ValueError):  # "max" is no number, and no limit
            left = int((folder / limit).read_text()) - int((folder / used).read_text())
            with contextlib.suppress(OSError, ValueError):
                statistics = map(str.split, (folder / "memory.stat").read_text().splitlines())
                left += sum(int(n) for name, n in statistics if name in CACHED)
            figures.append(max(0, left))
    return figures


def _cpu_quota() -> float | None:
    """CPUs' worth of time the cgroups (version 2, then 1) grant; None for no limit."""
    quotas = []
    for folder in _cgroup_folders():
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(int(quota) / int(period))  # "max" is no number, and no limit
    with contextlib.suppress(OSError, ValueError):
        quota_us, period_us = (
            int((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
        )
        quotas += [quota_us / period_us] if quota_us > 0 else []
    return min(quotas, default=None)
