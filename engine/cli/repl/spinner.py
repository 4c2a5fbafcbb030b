"""What moves on a terminal while there is nothing else to show."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import cycle

from linnet.engine.cli.terminal import columns, has_cursor

PATIENCE = 0.3  # seconds without a sign
SECONDS = 0.1  # between two pictures
ROOM = 3  # columns at the end of the line, for the ^C that a terminal shows
BRAILLE, ASCII = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "|/-\\"


class Spinner:
    """A line on stderr that says what is waited for, from a moment on until `stop`.

    Called with a prompt's tokens that are done and their number (see `LLM.stream`), it has a bar
    where they take more than one pass.
    """

    def __init__(self, label: Callable[[], str], n_batch: int) -> None:
        """`label`: what to say; `n_batch`: tokens in a pass."""
        self._label, self._n_batch = label, n_batch
        self._pictures = cycle(BRAILLE if _speaks_utf8() else ASCII)
        self._bar: Callable[[], str] | None = None
        self._first: tuple[int, float] | None = None  # tokens that were done to begin with, when
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="linnet-spinner", daemon=True)

    def __call__(self, n_done: int, n_tokens: int) -> None:
        if self._first is None:
            self._first = n_done, time.monotonic()
        n_first, started = self._first
        if n_tokens - n_first > self._n_batch:
            from tqdm import tqdm  # takes a moment to import

            self._bar = lambda: tqdm.format_meter(
                n_done, n_tokens, time.monotonic() - started, initial=n_first, prefix="prompt",
                unit="tok", ascii=not _speaks_utf8(), ncols=columns(sys.stderr) - 2 - ROOM,
            )  # fmt: skip

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The line is gone when this returns, and does not come again."""
        self._stopped.set()
        if self._thread.ident is not None:  # it has begun
            self._thread.join()

    def _spin(self) -> None:
        if self._stopped.wait(PATIENCE):
            return
        with suppress(OSError, ValueError):  # a terminal that is gone is no reason to end
            while not self._stopped.wait(SECONDS):
                text = self._bar() if self._bar else self._label()
                self._draw(f"{next(self._pictures)} {text}"[: columns(sys.stderr) - ROOM])
            self._draw("")

    def _draw(self, text: str) -> None:
        print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)


def spinner(
    label: str | Callable[[], str], n_batch: int = 0
) -> AbstractContextManager[Spinner | None]:  # fmt: skip
    """One for the time of a `with`; None where stderr is no terminal that can show it."""
    if not has_cursor(sys.stderr):
        return nullcontext()
    return _spinning(label if callable(label) else lambda: label, n_batch)


@contextmanager
def _spinning(label: Callable[[], str], n_batch: int) -> Iterator[Spinner]:
    spinning = Spinner(label, n_batch)
    try:
        spinning.start()
        yield spinning
    finally:
        spinning.stop()


def _speaks_utf8() -> bool:
    return (sys.stderr.encoding or "").lower().replace("-", "") == "utf8"
