"""What a server is started with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`alias`: the model's id; the file's name without one. `strict_model`: refuse other names.
    `api_keys`: any of them is asked for; none lets everybody in. `cors_origins`: of pages that may
    ask; "localhost" for those of this machine, "*" for all. `is_local`: whether the server listens
    at addresses of this machine alone; None where that is not known. `max_body`: bytes.
    `max_queue`: requests that wait, beyond which 503 is answered.
    `timeout`, `shutdown_timeout`: seconds that a request, and those under way at the end, may take.
    `keepalive`: seconds without an event after which a stream has a comment.
    `sampling`: fields of SamplingParams for requests that do not say; `variables`: the same for
    templates; `reasoning_budget`: the same in tokens, None for no limit. `reasoning`: whether
    content comes without it, in a field of its own. `pooling`: of embeddings, None for the file's
    own. `has_metrics`, `has_slots`, `has_page`: endpoints to have.
    `metrics_compat`: llama-server's names in /metrics, too.
    """

    alias: str | None = None
    strict_model: bool = False
    api_keys: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    is_local: bool | None = True
    max_body: int = 32 << 20
    max_queue: int = 64
    timeout: float = 3600.0
    shutdown_timeout: float = 5.0
    keepalive: float = 15.0
    sampling: Mapping[str, Any] = field(default_factory=dict)
    variables: Mapping[str, Any] = field(default_factory=dict)
    reasoning: bool = True
    reasoning_budget: int | None = None
    pooling: str | None = None
    has_metrics: bool = True
    metrics_compat: bool = False
    has_slots: bool = True
    has_page: bool = True
