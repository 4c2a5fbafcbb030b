"""A model that was downloaded: by which name it can be given, what it takes, how it goes away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Downloaded:
    """`name`: "user/model:QUANT", or a URL. `type`: as its file's name says, or "". `n_bytes`: of
    all its parts; `modified`: seconds since 1970. `remove`: removes its files; raises HubError and
    OSError."""

    name: str
    type: str
    n_bytes: int
    modified: float
    remove: Callable[[], None]
