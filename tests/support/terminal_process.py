"""A command at a terminal: a pseudo-terminal that a test types into and reads from."""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import pyte
import pytest

from support import ROOT

pty, fcntl, termios = map(pytest.importorskip, ("pty", "fcntl", "termios"))  # not for Windows

SECONDS = 15.0  # for what should take one
COLUMNS, ROWS = 80, 40


class TerminalProcess:
    """The keyboard and screen of a running command."""

    def __init__(self, process: subprocess.Popen[bytes], fd: int) -> None:
        self.process, self._fd = process, fd
        self._unread = b""
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode(errors="surrogateescape"))

    def paste(self, text: str) -> None:
        """As a terminal that was asked to mark what is pasted."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def until(self, text: str) -> str:
        """What came since the last call, up to `text`, as one line feed a line."""
        wanted = text.replace("\n", "\r\n").encode()
        self._read(lambda: wanted in self._unread, repr(text))
        return self._take(self._unread.index(wanted) + len(wanted))

    def shows(self, text: str) -> str:
        """The lines on the screen, as soon as they end with `text`."""
        self._read(lambda: self._lines().endswith(text), repr(text))
        return self._lines()

    def interrupt(self, text: str) -> str:
        """Ctrl-C at a prompt of `input`, and what comes up to `text`.

        A second one after some seconds: CPython does not see the first where it has shown the
        prompt and is about to wait for a key.
        """
        self.type("\x03")
        wanted = text.replace("\n", "\r\n").encode()
        if not self._come(lambda: wanted in self._unread, 5.0):
            self.type("\x03")
        return self.until(text)

    def some(self, n_bytes: int) -> str:
        """The next bytes on the screen."""
        self._read(lambda: len(self._unread) >= n_bytes, f"{n_bytes} bytes")
        return self._take(n_bytes)

    def _lines(self) -> str:
        """Down to the cursor's."""
        rows = self._screen.display[: self._screen.cursor.y + 1]
        return "\n".join(row.rstrip() for row in rows)

    def _read(self, enough: Callable[[], bool], what: str) -> None:
        found = self._come(enough, SECONDS)
        assert found, f"no {what} after {self._unread!r}, on\n{self._lines()}"

    def _come(self, enough: Callable[[], bool], seconds: float) -> bool:
        """Read until there is enough; returns False where it does not come in time, or the end."""
        end = time.monotonic() + seconds
        while not enough():
            ready, _, _ = select.select([self._fd], [], [], max(0.0, end - time.monotonic()))
            try:
                data = os.read(self._fd, 4096) if ready else b""
            except OSError:  # the other side is gone
                data = b""
            if not data:
                return False
            self._unread += data
            self._stream.feed(data)
        return True

    def _take(self, n_bytes: int) -> str:
        read, self._unread = self._unread[:n_bytes], self._unread[n_bytes:]
        return read.decode(errors="replace").replace("\r\n", "\n")

    def wait(self) -> int:
        """The exit status."""
        return self.process.wait(SECONDS)


@contextmanager
def linnet_at_terminal(
    *argv: str, stdout: IO[bytes] | None = None, **env: str
) -> Iterator[TerminalProcess]:
    """`python -m linnet ARGUMENTS`, as the foreground of a terminal that knows no escapes, unless
    `env` gives it a TERM.

    `stdout`: where that goes instead.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "linnet", *argv], stdin=theirs,
        stdout=stdout or theirs, stderr=theirs,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb"} | env, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as process:  # fmt: skip
        os.close(theirs)
        try:
            yield TerminalProcess(process, ours)
        finally:
            process.kill()
            os.close(ours)
