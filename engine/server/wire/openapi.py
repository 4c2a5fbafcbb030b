"""`/openapi.json`: all endpoints, as OpenAPI 3.1 describes them, and made from what they are.

https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from linnet import __version__
from linnet.engine.server.gate import OPEN_PATHS
from linnet.engine.server.http import json_response
from linnet.engine.server.service import Service
from linnet.engine.server.wire.endpoint import JSON, Endpoint, get

REF = "#/components/schemas/{name}"
ABOUT = "Null is the same as a field that is absent. Fields that nobody here knows are ignored."
KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
TEXT = {"type": "string"}
# OpenAI's shape has more fields; Anthropic's is in an object of the type "error".
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "type": {"const": "error"},
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": TEXT,
                "type": TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "integer", "null"]},
            },
        },
    },
}


def routes(service: Service) -> list[Endpoint]:
    @cache  # making it takes 10 ms
    def document(app: Starlette) -> dict[str, Any]:
        endpoints = [route for route in app.routes if isinstance(route, Endpoint)]
        return described(endpoints, has_keys=bool(service.settings.api_keys))

    async def openapi(request: Request) -> Response:
        """This description."""
        return json_response(document(request.app))

    return get(["/openapi.json", "/v1/openapi.json"], openapi)


def described(endpoints: Sequence[Endpoint], *, has_keys: bool) -> dict[str, Any]:
    """The document."""
    kinds = list(dict.fromkeys(kind for endpoint in endpoints for kind in endpoint.kinds))
    bodies, schemas = msgspec.json.schema_components(kinds, ref_template=REF)
    schema_of = dict(zip(kinds, bodies, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, [schema_of[kind] for kind in endpoint.kinds])
        if has_keys and endpoint.path in OPEN_PATHS:
            operation["security"] = []
        paths.setdefault(endpoint.path_format, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.1",
        "info": {"title": "linnet", "version": __version__, "description": ABOUT},
        "paths": paths,
        "components": {"schemas": {**schemas, "Error": ERROR}, "securitySchemes": KEYS},
        "security": [{name: []} for name in KEYS] if has_keys else [],
    }


def _operation(endpoint: Endpoint, bodies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    words = endpoint.path_format.replace("{", "").replace("}", "").split("/")
    operation: dict[str, Any] = {
        "operationId": "_".join([endpoint.method.lower(), *filter(None, words)]),
        "summary": endpoint.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": TEXT}
            for name in endpoint.param_convertors
        ],
        "responses": {
            "200": {"description": "the answer", "content": {kind: {} for kind in endpoint.media}},
            "default": {
                "description": "an error",
                "content": {JSON: {"schema": {"$ref": REF.format(name="Error")}}},
            },
        },
    }
    if bodies:
        schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
    return operation
