"""llama-server's `/props` and `/slots`: what is served, and how much of it is busy."""

from __future__ import annotations

import os
from typing import Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from linnet import __version__
from linnet.engine.server.errors import APIError, unavailable
from linnet.engine.server.http import json_response
from linnet.engine.server.service import Service
from linnet.engine.server.wire.endpoint import Endpoint, get, post
from linnet.engine.server.wire.models import template_of
from linnet.engine.server.wire.types import settings


class Props(Struct):
    """None of them can be set."""


def routes(service: Service) -> list[Endpoint]:
    async def props(_: Request) -> Response:
        """What is served, and how."""
        return json_response(_props(service))

    async def set_props(_: Request, __: Props) -> Response:
        """Nothing: values are those of the command line."""
        raise APIError(501, "/props is to be read: its values are those of the command line")

    async def slots(request: Request) -> Response:
        """How many requests run, and may run, at once."""
        if not service.settings.has_slots:
            raise APIError(501, "/slots is off: start the server without --no-slots")
        found = _slots(service)
        asks = request.query_params.get("fail_on_no_slot")
        if asks and all(slot["is_processing"] for slot in found):
            raise unavailable("no slot is free")
        return json_response(found)

    return [
        *get(["/props", "/v1/props"], props),
        *post(["/props", "/v1/props"], set_props, Props),
        *get(["/slots", "/v1/slots"], slots),
    ]


def _props(service: Service) -> dict[str, Any]:
    llm = service.llm.llm
    return {
        "default_generation_settings": {
            "n_ctx": llm.n_ctx,
            "params": settings(service.params({}), n_ctx=llm.n_ctx),
        },
        "total_slots": llm.n_parallel,
        "model_alias": service.model_id,
        "model_path": os.fspath(llm.path),
        "chat_template": template_of(service),
        **llm.tokenizer.vocabulary.boundaries,
        "modalities": {"vision": False, "audio": False},
        "build_info": f"linnet-{__version__}",
        "is_sleeping": False,
    }


def _slots(service: Service) -> list[dict[str, Any]]:
    """As many as requests run at a time; never what is in them."""
    llm = service.llm.llm
    drafts = llm.scheduler.drafts is not None
    n_running = sum(request.sequence is not None for request in llm.scheduler.requests)
    return [
        {"id": i, "n_ctx": llm.n_ctx, "speculative": drafts, "is_processing": i < n_running}
        for i in range(llm.n_parallel)
    ]
