"""What is told to those who listen: loggers below "linnet", which say nothing unless asked to."""

from __future__ import annotations

import sys
from typing import Any


def info(name: str, message: str, *values: Any) -> None:
    """Log `message % values` by the logger of a module, `__name__`: what is done once or seldom."""
    _log(20, name, message, values)


def debug(name: str, message: str, *values: Any) -> None:
    """The same of what is done many times, as for each kernel."""
    _log(10, name, message, values)


def _log(level: int, name: str, message: str, values: tuple[Any, ...]) -> None:
    """Nobody listens who has not imported logging, which would take a start 4 ms."""
    if "logging" in sys.modules:
        import logging

        logging.getLogger(name).log(level, message, *values, stacklevel=3)
