"""`/health` and `/v1/models`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from linnet.engine.chat.sandbox import TemplateError
from linnet.engine.server.http import json_response
from linnet.engine.server.service import Service
from linnet.engine.server.wire.endpoint import Endpoint, get


def routes(service: Service) -> list[Endpoint]:
    async def health(_: Request) -> Response:
        """Whether the model has been loaded."""
        return json_response({"status": "ok", "model": service.model_id})  # or it is loading: 503

    async def models(_: Request) -> Response:
        """The one model, in a list."""
        return json_response({"object": "list", "data": [_model(service)]})

    async def model(request: Request) -> Response:
        """The model of that name."""
        service.find_model(request.path_params["name"])
        return json_response(_model(service))

    return [
        *get(["/health", "/v1/health"], health),
        *get(["/v1/models", "/models"], models),
        *get(["/v1/models/{name:path}", "/models/{name:path}"], model),
    ]


def _model(service: Service) -> dict[str, Any]:
    """As OpenAI's API has it, with vLLM's `max_model_len` and llama-server's `meta`."""
    llm = service.llm.llm
    config = llm.config
    return {
        "id": service.model_id,
        "object": "model",
        "created": service.started,
        "owned_by": "linnet",
        "aliases": [llm.path.name],
        "max_model_len": llm.n_ctx,
        "meta": {
            "n_vocab": config.n_vocab,
            "n_ctx_train": config.n_ctx_train,
            "n_embd": config.n_embd,
            "size": llm.weight_bytes,
        },
    }


def template_of(service: Service) -> str:
    """The source of the chat template; empty where there is none."""
    with suppress(TemplateError):
        return service.llm.llm.chat_template.source
    return ""
