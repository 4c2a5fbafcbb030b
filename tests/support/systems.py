"""Marks of tests that only some systems can run, and of what they need of them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")


def skip_without_proc() -> None:
    """For what many tests call, and is measured there."""
    if needs_proc.args[0]:
        pytest.skip(needs_proc.kwargs["reason"])


needs_posix = pytest.mark.skipif(
    os.name != "posix", reason="needs what POSIX has: shells, devices, owners and modes of files"
)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
needs_signals = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="needs signals that one process sends another"
)
needs_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")


def _can_link() -> bool:
    """Windows asks for a right or developer mode."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        try:
            Path(folder, "link").symlink_to("nothing")
        except OSError:
            return False
    return True


needs_links = pytest.mark.skipif(
    os.name != "posix" and not _can_link(), reason="needs the right to make symbolic links"
)
needs_devices = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def is_private(path: Path) -> bool:
    """Whether a file or folder is for its owner alone, by its mode; Windows has no such modes."""
    return os.name != "posix" or not path.stat().st_mode & 0o077
