"""The types of client libraries, taken strictly: what they let pass in use is an error here."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import TypeAdapter


def check(kind: Any, *data: Any) -> None:
    """Raises ValidationError where one of these is not of that kind, as JSON has it."""
    for each in data:
        _adapter(kind).validate_json(json.dumps(each), strict=True)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
