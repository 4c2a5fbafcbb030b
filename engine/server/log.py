"""What is logged: lines that never have any text of a request or an answer.

A line is a name and fields, in logfmt (`name key=value ...`) or as an object in JSON.
"""

from __future__ import annotations

import logging
import re
import traceback
import warnings
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

_log = logging.getLogger("linnet.server")


def log_failure(error: BaseException) -> None:
    """An error that is nobody's mistake but ours: its type, and where it came from. Not what it
    says, which may have a prompt in it."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    where = " < ".join(f"{frame.name} ({frame.filename}:{frame.lineno})" for frame in frames[::-1])
    tell("failure", error=type(error).__name__, where=where)


def tell(name: str, **fields: Any) -> None:
    """Log a line."""
    _log.info(name, extra={"fields": fields})


def log_to(stream: TextIO, *, as_json: bool) -> None:
    """Have lines written there."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JSON() if as_json else _Logfmt())
    _log.handlers, _log.propagate = [handler], False
    _log.setLevel(logging.INFO)


def only_ours() -> None:
    """Have nothing logged of uvicorn's own, nor of asyncio's on clients that have gone."""
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL + 1)
    logging.getLogger("asyncio").setLevel(logging.ERROR)


def log_warnings(*, with_text: bool) -> None:
    """Have warnings logged; without their text, once for each place: it may have a prompt in it."""
    seen: set[str] = set()

    def show(message: object, _: object, filename: str, lineno: int, *__: object) -> None:
        where = f"{filename}:{lineno}"
        if with_text:
            tell("warning", message=str(message))
        elif where not in seen:
            seen.add(where)
            tell("warning", where=where)

    warnings.simplefilter("always")  # others keep the text of each, for good
    warnings.showwarning = show  # type: ignore[assignment]


class _JSON(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            name: round(value, 6) if isinstance(value, float) else value
            for name, value in record.__dict__["fields"].items()
        }
        line = {"time": _time(record), "event": record.getMessage(), **fields}
        return msgspec.json.encode(line).decode()


class _Logfmt(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = record.__dict__["fields"].items()
        return " ".join(
            [_time(record), record.getMessage(), *(f"{name}={_value(v)}" for name, v in fields)]
        )


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return text if re.fullmatch(r'[^\s"=]+', text) else msgspec.json.encode(text).decode()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
