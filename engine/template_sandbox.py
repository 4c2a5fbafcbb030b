"""Chat templates from strangers, in a process of their own with so much time and memory.

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

WORKER: Final = Path(__file__).with_name("template_worker.py")
START_SECONDS: Final = 60.0  # until it runs; what the template takes is counted from there


class TemplateError(ValueError):
    """A chat template that is missing, malformed, refuses the messages or goes beyond a limit."""


class SandboxedTemplate:
    """A template that a process of its own renders, which lives from one rendering to the next.

    It is started anew after one that went wrong, and in a process forked from ours. Threads take
    turns.
    """

    def __init__(self, source: str, *, name: str, seconds: float) -> None:
        """`name`: what errors call it; `seconds`: what compiling it may take, and a rendering.

        Raises what `render` raises.
        """
        self._source, self._name, self._seconds = source, name, seconds
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        with self._lock:
            self._running()

    def render(self, values: Mapping[str, Any]) -> str:
        """The text that it makes of values (None, bool, int, float, str, lists and dicts of them).

        Raises TemplateError where the template goes wrong or beyond a limit, ValueError for values
        nested too deeply, and OSError or RuntimeError where the system has no more processes.
        """
        with self._lock:
            return self._ask(self._running(), dict(values), "the chat template")

    def close(self) -> None:
        """End the process; another rendering starts another."""
        with self._lock:
            self._end()

    def _running(self) -> _Worker:
        """The process, which knows the template."""
        if self._worker is None or not self._worker.is_ours():
            self._worker = _Worker()
            self._ask(self._worker, self._source, self._name)
        return self._worker

    def _ask(self, worker: _Worker, given: str | dict[str, Any], name: str) -> str:
        try:
            return worker.ask(self._seconds, given, name)
        except BaseException:  # Ctrl-C included: an answer may be on its way
            self._end()  # and with it whatever memory an error of the template's has left
            raise

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()


class _Worker:
    """A process that runs `template_worker`, and our ends of its pipes."""

    def __init__(self) -> None:
        import subprocess  # takes 5 ms, which a start without a chat does not need

        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(WORKER), *sys.path],  # where jinja2 is
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,  # a terminal's Ctrl-C is for us
        )  # fmt: skip
        self._requests = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)
        self._owner = os.getpid()
        self.end = weakref.finalize(self, _end, self._process, self._owner)
        self._answer(START_SECONDS, "the start of a chat template")

    def is_ours(self) -> bool:
        return self._owner == os.getpid() and self._process.poll() is None

    def ask(self, seconds: float, given: str | dict[str, Any], name: str) -> str:
        """What it makes of it. Raises TemplateError, which calls the template that, and
        ValueError."""
        try:
            request = marshal.dumps((seconds, given))
        except ValueError as error:
            raise ValueError(f"messages or tools cannot be given to a template: {error}") from error
        with contextlib.suppress(BrokenPipeError):  # of which `_answer` finds out the cause
            self._requests.write(request)
            self._requests.flush()
        return self._answer(seconds, name)

    def _answer(self, seconds: float, name: str) -> str:
        late, process = threading.Event(), self._process

        def end() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            head = self._answers.read(9)
            n_bytes = int.from_bytes(head[1:], "little")
            text = self._answers.read(n_bytes)
        finally:
            timer.cancel()
            timer.join()
        if len(head) == 9 and len(text) == n_bytes:
            said = text.decode(errors="surrogatepass")
            if head[:1] == b"+":
                return said
            raise TemplateError(f"{name} {said}")
        status = process.wait()
        if late.is_set():
            raise TemplateError(f"{name} takes longer than {seconds} s")
        raise TemplateError(f"{name} ends the process that renders it (status {status})")


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner:
        process.kill()
        process.communicate()
