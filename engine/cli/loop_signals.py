"""Signals that end a command which runs an event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

ENDING = "SIGINT", "SIGTERM", "SIGBREAK"  # Ctrl-C, what systems send, and Ctrl-Break of Windows


def hear(on_signal: Callable[[int], None]) -> None:
    """Have the running loop call it with the number of each of ENDING that there is; but for those
    that are ignored, as a shell may have it for what runs in the background."""
    loop = asyncio.get_running_loop()
    for number in (getattr(signal, name) for name in ENDING if hasattr(signal, name)):
        if signal.getsignal(number) == signal.SIG_IGN:
            continue
        try:
            loop.add_signal_handler(number, on_signal, number)
        except NotImplementedError:  # as on Windows, whose loop wakes up for signals all the same
            signal.signal(number, lambda n, _: loop.call_soon_threadsafe(on_signal, n))
