"""Chat templates from strangers, rendered in a process with limits of time and memory.

jinja2's immutable sandbox keeps a template off Python's insides, but not from taking hours or all
memory, nor from steps in C that nothing but a signal ends (a search in a long text, a product of
long numbers) or that overflow the stack. Here all of that ends with the process.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import re
import signal
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    import subprocess

WORKER: Final = Path(__file__).with_name("worker.py")
START_SECONDS: Final = 60.0  # until it runs; what the template takes is counted from there
LONGEST_ANSWER: Final = 1 << 24  # bytes: four for each character that a template may write
PYTHON: Final = re.compile(r"(python|pypy)[\d.]*[a-z]{0,2}(-dbg)?(\.exe)?", re.IGNORECASE)
NO_ANSWER: Final = "answers what no renderer of templates would"
LONGEST_COMPLAINT: Final = 1000  # characters
IN_WORKER: Final = "LINNET_TEMPLATE_WORKER"  # a variable of its environment


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
        return self._asked(dict(values))

    def attempts(self, many: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """The template filled with each of `many`, within the time of one rendering; None where it
        refuses the values, fails, or writes more than 65,536 characters. Raises as `render` does,
        where all of it goes beyond a limit."""
        answer = self._asked([dict(values) for values in many])
        try:
            texts = json.loads(answer)
        except (ValueError, RecursionError):
            texts = None
        if (
            not isinstance(texts, list)
            or len(texts) != len(many)
            or not all(isinstance(text, str | None) for text in texts)
        ):
            raise TemplateError(f"the chat template {NO_ANSWER}")
        return texts

    def _asked(self, given: dict[str, Any] | list[dict[str, Any]]) -> str:
        self._leave_to_parent()
        with self._lock:
            if self._worker is None or self._worker.has_ended():
                self._worker = _Worker(self._source, self._name, self._seconds)
            try:
                return self._worker.ask(given, "the chat template")
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

        python = _python()
        try:
            self._process = subprocess.Popen(
                [python, "-I", "-S", str(WORKER), *sys.path],  # where jinja2 is
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env={**os.environ, IN_WORKER: "1"},
                start_new_session=True,  # a terminal's Ctrl-C is for us; on Windows
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # so is a console's
            )  # fmt: skip
        except OSError as error:
            raise RuntimeError(f"there is no process for the chat template: {error}") from error
        self._requests = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)
        self._seconds = seconds
        self.end = weakref.finalize(self, _end, self._process, os.getpid())
        try:
            start = "the start of a chat template"
            if self._answer_to(b"", START_SECONDS, start):
                raise TemplateError(f"{start} {NO_ANSWER}: is {python} a Python?")
            self.ask(source, name)
        except BaseException:
            self.end()
            raise

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def ask(self, given: str | dict[str, Any] | list[dict[str, Any]], name: str) -> str:
        """The answer to a template's source, which is compiled, or to values to fill it with, once
        or in attempts.

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
            _kill(process)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # the cause of which is found below
                self._requests.write(request)
                self._requests.flush()
            head = self._answers.read(9)
            n_bytes = int.from_bytes(head[1:], "little")
            text = self._answers.read(min(n_bytes, LONGEST_ANSWER))
        finally:
            timer.cancel()
            timer.join()
        if late.is_set():
            raise TemplateError(f"{name} takes longer than {seconds} s")
        if len(head) < 9 or len(text) < min(n_bytes, LONGEST_ANSWER):
            _kill(process)  # in case it goes on without its pipe
            ended = f"ends the process that renders it (status {process.wait()})"
            raise TemplateError(f"{name} {ended}")
        try:
            said = text.decode(errors="surrogatepass")
        except UnicodeDecodeError:
            said = None
        if n_bytes > LONGEST_ANSWER or head[:1] not in (b"+", b"-") or said is None:
            raise TemplateError(f"{name} {NO_ANSWER}")
        if head[:1] == b"-":
            raise TemplateError(f"{name} {said[:LONGEST_COMPLAINT]}")
        return said


def _python() -> str:
    """The Python to run the worker with. Raises RuntimeError where none is known.

    In a program that embeds Python, or is frozen (PyInstaller), sys.executable is that program: it
    is not started again. Only what is named as a Python is, and from there not another.
    """
    if IN_WORKER in os.environ:
        raise RuntimeError("this process was started to render a chat template, and runs linnet")
    version = f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
    name = "python.exe" if sys.platform == "win32" else version
    beside = [Path(prefix, name) for prefix in (sys.exec_prefix, sys.base_exec_prefix)]
    for path in (Path(sys.executable or ""), *beside):
        if PYTHON.fullmatch(path.name) and path.is_file():
            return str(path)
    found = f"sys.executable is {sys.executable!r}, and there is no {beside[0]}"
    raise RuntimeError(
        f"chat templates need a Python to render them: {found}; set sys.executable to one"
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """And what it has started, which has its pipes: it leads a session of its own. On Windows, a
    virtual environment's Python starts the one it is of, and ends it with itself."""
    if process.poll() is None:
        with contextlib.suppress(OSError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner:
        _kill(process)
        process.communicate()
