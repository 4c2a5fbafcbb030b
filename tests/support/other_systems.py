"""Python as it is on another system, for linnet's modules alone; all others have what is here.

    python tests/support/other_systems.py win32 ARGUMENTS    # `linnet ARGUMENTS`, as on Windows
    python tests/support/other_systems.py darwin -c CODE     # code, which imports as linnet does

What the other system lacks is not there: `MISSING` is of the notes on availability in the Python
Library Reference (os, mmap, signal, select, socket, time, and modules that are "not for Windows"),
which typeshed's `if sys.platform` follow. `sys.platform` is that system's name, so that its own
branches run, with made-up libraries (`fake_libraries`) behind `ctypes.CDLL`.
"""

from __future__ import annotations

import asyncio
import builtins
import ctypes
import mmap
import os
import platform
import re
import select
import signal
import socket
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path[:1] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from support.fake_libraries import Advapi32, Kernel32, LibSystem  # noqa: E402

# Of each module, what a system lacks of its names.
MISSING = {
    "win32": {
        os: r"""
            (CLD|EFD|EX(?!_OK)|GRND|MFD|POSIX|PRIO|RTLD|RWF|SCHED|SPLICE|ST|XATTR)_\w+|F_\w*LOCK
            |F_TEST|NGROUPS_MAX|P_(ALL|PGID|PID|PIDFD)|SEEK_(DATA|HOLE)|W[A-Z]{4,}|\w+conf_names|
            O_(ACCMODE|ASYNC|CLOEXEC|DIRECT|DIRECTORY|DSYNC|FSYNC|LARGEFILE|NDELAY|NOATIME|NOCTTY
            |NOFOLLOW|NONBLOCK|PATH|RSYNC|SYNC|TMPFILE)|
            [fl]?(chown|chroot)|[fl]chmod|fchdir|confstr|ctermid|copy_file_range|environb|eventfd\w*
            |fdatasync|f?pathconf|f?statvfs|fork(pty)?|fwalk|[gs]et(blocking|xattr)|[gs]et_blocking
            |get(envb|loadavg|random|grouplist)|[gs]et(e|r|re|res)?[ug]id|[gs]et(groups|pgid|pgrp
            |sid|priority)|initgroups|killpg|l(ist|ock)(xattr|f)|login_tty|major|minor|makedev
            |memfd_create|mkfifo|mknod|nice|openpty|pidfd_open|pipe2|posix_\w+|p?(read|write)v2?
            |pread|pwrite|register_at_fork|removexattr|sched_\w+|sendfile|spawn[lv]pe?|splice|sync
            |sysconf|tc[gs]etpgrp|ttyname|uname|wait([34]|id\w*)?""",
        mmap: r"M(ADV|AP)_\w+|PROT_\w+",
        signal: r"""SIG(?!INT$|TERM$|ABRT$|FPE$|ILL$|SEGV$|_DFL$|_IGN$)\w+|ITIMER_\w+|ItimerError
            |[gs]etitimer|alarm|pause|pidfd_send_signal|pthread_\w+|sig(interrupt|pending|timedwait
            |wait|waitinfo)""",
        select: r"poll|epoll|kqueue|E?POLL\w+|PIPE_BUF",
        socket: r"AF_UNIX|SO_REUSEPORT|SOCK_(CLOEXEC|NONBLOCK)|MSG_(DONTWAIT|NOSIGNAL)|CMSG_\w+"
        r"|recv_fds|send_fds|sethostname",
        time: r"CLOCK_\w+|clock_\w+|pthread_\w+|tzset",
    },
    "darwin": {
        os: r"""eventfd\w*|copy_file_range|fdatasync|getrandom|[gs]etres[ug]id|\w+xattr|pipe2
            |memfd_create|pidfd_open|posix_f\w+|sched_(get|set|rr)(?!_priority)\w+|splice
            |O_(DIRECT|LARGEFILE|NOATIME|PATH|RSYNC|TMPFILE)|(EFD|MFD|RWF|SPLICE|XATTR|GRND)_\w+""",
        mmap: r"MADV_((DO|DONT)(DUMP|FORK)|(NO)?HUGEPAGE|HWPOISON|(UN)?MERGEABLE|REMOVE)|"
        r"MAP_(DENYWRITE|EXECUTABLE|POPULATE|STACK)",
        signal: r"SIG(CLD|POLL|PWR|RTMAX|RTMIN|STKFLT)|pidfd_send_signal|sig(timedwait|waitinfo)",
        select: r"epoll|EPOLL\w+",
        socket: r"SOCK_(CLOEXEC|NONBLOCK)|MSG_MORE|AF_(ALG|NETLINK|PACKET)",
        time: r"CLOCK_(BOOTTIME|TAI)|pthread_\w+",
    },
}
MISSING_MODULES = {
    "win32": {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios",
              "tty"},
    "darwin": {"spwd"},
}  # fmt: skip


class Poorer(ModuleType):
    """A module without some of its names, and with others."""

    def __init__(self, module: ModuleType, missing: str = "", **others: object) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(_module=module, _others=others)
        self.__dict__["_missing"] = re.compile(re.sub(r"\s", "", missing)).fullmatch

    def __getattr__(self, name: str) -> Any:
        if name in self._others:
            return self._others[name]
        if self._missing(name):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} there")
        return getattr(self._module, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._module, name, value)


class WindowsMap(mmap.mmap):
    """Takes what it takes on Windows, and gives no advice."""

    def __new__(
        cls, fileno: int, length: int, tagname: str | None = None,
        access: int = mmap.ACCESS_DEFAULT, offset: int = 0,
    ) -> WindowsMap:  # fmt: skip
        return super().__new__(cls, fileno, length, access=access, offset=offset)

    madvise = property()  # type: ignore[assignment]  # an AttributeError


class MacLibrary(LibSystem):
    """The C library of here, and what that of macOS has besides."""

    def __getattr__(self, name: str) -> Any:
        return getattr(ctypes.CDLL(None), name)


def windows_library(name: str) -> object:
    return {"kernel32": Kernel32(), "advapi32": Advapi32()}[name]


def become(system: str) -> None:
    """Have linnet's modules, and this file's `__main__`, see the other system from here on."""
    library = MacLibrary()
    others: dict[ModuleType, dict[str, object]] = {
        sys: {"platform": system},
        ctypes: {"CDLL": windows_library if system == "win32" else lambda _: library},
    }
    if system == "win32":
        others[mmap] = {"mmap": WindowsMap}
        others[platform] = {"machine": lambda: "AMD64"}
        others[socket] = {"SO_EXCLUSIVEADDRUSE": socket.SO_REUSEADDR}
        loop = asyncio.SelectorEventLoop
        loop.add_signal_handler = asyncio.AbstractEventLoop.add_signal_handler  # type: ignore[method-assign,assignment]
    seen = {
        module.__name__: Poorer(module, MISSING[system].get(module, ""), **others.get(module, {}))
        for module in {**MISSING[system], **others}
    }
    here = builtins.__import__

    def there(name: str, globals: Any = None, *rest: Any, **named: Any) -> Any:
        importer = str((globals or {}).get("__name__", "")).partition(".")[0]
        if importer in ("linnet", "__main__"):
            if name in MISSING_MODULES[system]:
                raise ModuleNotFoundError(f"No module named {name!r} there", name=name)
            if name in seen:
                return seen[name]
        return here(name, globals, *rest, **named)

    builtins.__import__ = there


def main() -> None:
    system = sys.argv.pop(1)
    become(system)
    if system == "win32":  # with -X warn_default_encoding: there, texts are not always UTF-8
        warnings.filterwarnings("error", category=EncodingWarning, module="linnet")
    if sys.argv[1:2] == ["-c"]:
        exec(compile(sys.argv[2], "code", "exec"), {"__name__": "__main__"})
    else:
        from linnet.__main__ import main as linnet

        linnet()


if __name__ == "__main__":
    main()
