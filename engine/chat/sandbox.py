"""Chat templates from strangers, rendered in a process with limits of time and memory.

jinja2's immutable sandbox keeps a template off Python's insides, but not from taking hours or all
memory, nor from steps in C that nothing but a signal ends (a search in a long text, a product of
long numbers) or that overflow the stack. Here all of that ends with the process.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import sys
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    import subprocess

WORKER: Final = Path(__file__).with_name("worker.py")
START_SECONDS: Final = 60.0  # until it runs; what the template takes is counted from there


class TemplateError(ValueError):
    """A chat template that is missing, malformed, refuses the messages or goes beyond a limit."""


class SandboxedTemplate:
    """A template, and the process that renders it, which lives from one rendering to the next.

    A new process is started after an error, and in a process forked from ours. Threads take turns.
    """

    def __init__(self, source: str, *, name: str, seconds: float) -> None:
        """`name`: what errors call it; `seconds`: what compiling it may take, and a rendering.

        Raises what `render` raises.
        """
        self._source, self._name, self._seconds = source, name, seconds
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._worker: _Worker | None = _Worker(source, name, seconds)

    def render(self, values: Mapping[str, Any]) -> str:
        """The template filled with values (None, bool, int, float, str, lists and dicts of them).

        Raises TemplateError where the template goes wrong or beyond a limit, ValueError for values
        nested too deeply, and RuntimeError where the system has no process or thread for it.
        """
        self._leave_to_parent()
        with self._lock:
            if self._worker is None or self._worker.has_ended():
                self._worker = _Worker(self._source, self._name, self._seconds)
            try:
                return self._worker.ask(dict(values), "the chat template")
            except BaseException:  # Ctrl-C included: an answer may be on its way
                self._end()  # and with it whatever memory an error of the template's has left
                raise

    def close(self) -> None:
        """End the process; another rendering starts another."""
        self._leave_to_parent()
        with self._lock:
            self._end()

    def _leave_to_parent(self) -> None:
        """After a fork, leave the lock and the worker to the parent, and begin with new ones."""
        if self._owner != os.getpid():
            self._owner, self._lock, self._worker = os.getpid(), threading.Lock(), None

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()


class _Worker:
    """A process that runs `worker.py`, and our ends of its pipes."""

    def __init__(self, source: str, name: str, seconds: float) -> None:
        """Start the process and have it compile the template. Raises what `ask` raises."""
        import subprocess  # takes 5 ms, which a start without a chat does not need

        if not sys.executable:
            raise RuntimeError("chat templates need a Python to render them: sys.executable")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(WORKER), *sys.path],  # where jinja2 is
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C is for us
            )  # fmt: skip
        except OSError as error:
            raise RuntimeError(f"there is no process for the chat template: {error}") from error
        self._requests = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)
        self._seconds = seconds
        self.end = weakref.finalize(self, _end, self._process, os.getpid())
        try:
            self._answer_to(b"", START_SECONDS, "the start of a chat template")
            self.ask(source, name)
        except BaseException:
            self.end()
            raise

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def ask(self, given: str | dict[str, Any], name: str) -> str:
        """The answer to a template's source, which is compiled, or to values to fill it with.

        Raises TemplateError, which calls the template `name`, and ValueError."""
        try:
            request = marshal.dumps((self._seconds, given))
        except ValueError as error:
            raise ValueError(f"messages or tools cannot be given to a template: {error}") from error
        return self._answer_to(request, self._seconds, name)

    def _answer_to(self, request: bytes, seconds: float, name: str) -> str:
        late, process = threading.Event(), self._process

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # the cause of which is found below
                self._requests.write(request)
                self._requests.flush()
            head = self._answers.read(9)
            n_bytes = int.from_bytes(head[1:], "little")
            text = self._answers.read(n_bytes)
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            raise TemplateError(f"{name} takes longer than {seconds} s")
        if len(head) < 9 or len(text) < n_bytes:
            ended = f"ends the process that renders it (status {process.wait()})"
            raise TemplateError(f"{name} {ended}")
        said = text.decode(errors="surrogatepass")
        if head[:1] != b"+":
            raise TemplateError(f"{name} {said}")
        return said


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner:
        process.kill()
        process.communicate()
