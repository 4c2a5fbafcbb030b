"""Ctrl-C in a command: at once while nothing is at stake, in order while it works.

Imported before anything else, so it imports nothing that takes time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # the exit status: 128 and the signal's number


def end_at_once(*_: object) -> None:
    """A handler for Ctrl-C while Python imports, as it ends, or where it comes a second time."""
    os.write(2, b"\n")
    os._exit(INTERRUPTED)


def end_in_order(*_: object) -> None:
    """A handler for Ctrl-C at work: raises KeyboardInterrupt; the next Ctrl-C ends it at once."""
    signal.signal(signal.SIGINT, end_at_once)
    raise KeyboardInterrupt


def arm() -> None:
    """Have Ctrl-C end the process at once, unless it is ignored, as it is behind nohup."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)


def check() -> None:
    """Within `in_order`: raise KeyboardInterrupt anew where one has been lost, as in the import of
    a module in C, which may drop any error of what it looks for."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        raise KeyboardInterrupt


@contextmanager
def held(tell: Callable[[], None]) -> Iterator[None]:
    """Within `in_order`: have Ctrl-C call `tell`, which must not raise, and KeyboardInterrupt come
    at the end: for what cannot be left in its midst."""
    before, came = signal.getsignal(signal.SIGINT), False

    def hold(*_: object) -> None:
        nonlocal came
        came = True
        tell()

    if before is not end_in_order:
        yield
        return
    try:
        signal.signal(signal.SIGINT, hold)
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


@contextmanager
def in_order() -> Iterator[None]:
    """Have the first Ctrl-C within raise KeyboardInterrupt, and a second one end the process.

    What Ctrl-C did before is what it does afterwards. For the main thread.
    """
    before = signal.getsignal(signal.SIGINT)
    if before not in (signal.default_int_handler, end_at_once, end_in_order):
        yield
        return
    signal.signal(signal.SIGINT, end_in_order)
    try:
        yield
    except Exception:
        check()  # else what has come of Ctrl-C in a module that makes another error of it
        raise
    finally:
        signal.signal(signal.SIGINT, before)
