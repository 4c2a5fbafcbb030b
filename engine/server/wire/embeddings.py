"""`/v1/embeddings`, of OpenAI's API, and llama-server's own `/embedding`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from linnet.engine.server.errors import APIError, refused, unavailable, unsupported
from linnet.engine.server.http import Gone, json_response
from linnet.engine.server.service import Service
from linnet.engine.server.sse import unless_gone
from linnet.engine.server.wire.endpoint import Endpoint, post
from linnet.engine.server.wire.prompts import ids_of, prompts_of

Vectors = list[npt.NDArray[np.float32]]  # (n_embd,) each


class Embeddings(Struct):
    """The bodies of both. `content` is llama-server's name for `input`; `embd_normalize`: 2 for a
    length of 1, -1 for vectors as they are."""

    model: str | None = None
    input: Any = None
    content: Any = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    embd_normalize: Literal[-1, 2] = 2


def routes(service: Service) -> list[Endpoint]:
    turn = asyncio.Lock()  # texts go one after another: a pool with other work makes the vectors

    async def vectors(ids: Sequence[Sequence[int]], normalize: bool) -> Vectors:
        llm, pooling = service.llm, service.settings.pooling
        made: Vectors = []
        for each in ids:
            async with turn:
                if service.draining:
                    raise unavailable("the server is shutting down")
                made += [*await llm.embed([each], pooling=pooling, normalize=normalize)]
        return made

    async def create(request: Request, body: Embeddings) -> Response:
        """Vectors of texts.

        At `/embeddings` those who name a model, as OpenAI's clients always do, get OpenAI's shape,
        and others llama-server's.
        """
        service.check_model(body.model)
        if body.dimensions is not None:
            raise unsupported("dimensions", "vectors have as many as the model's")
        param = "input" if body.input is not None or body.content is None else "content"
        if (given := getattr(body, param)) is None:
            raise APIError(400, "input is missing: a text, token ids, or a list", param="input")
        service.enter(1, param)
        try:
            ids = await ids_of(service, prompts_of(given, param), param)
            made = await unless_gone(request, vectors(ids, body.embd_normalize == 2))
        except ValueError as error:
            raise refused(error, param=param) from error
        finally:
            service.leave(1)
        if made is None:
            return Gone()
        n_tokens = sum(map(len, ids))
        service.metrics.embedded_tokens += n_tokens
        path = request.url.path
        if path.endswith("/embedding") or (path == "/embeddings" and body.model is None):
            return json_response(
                [{"index": i, "embedding": [vector.tolist()]} for i, vector in enumerate(made)]
            )
        return json_response({
            "object": "list",
            "model": service.model_id,
            "data": [_item(i, vector, body) for i, vector in enumerate(made)],
            "usage": {"prompt_tokens": n_tokens, "total_tokens": n_tokens},
        })  # fmt: skip

    paths = "/v1/embeddings", "/embeddings", "/embedding", "/v1/embedding"
    return post(paths, create, Embeddings)


def _item(index: int, vector: npt.NDArray[np.float32], body: Embeddings) -> dict[str, Any]:
    """base64: of little-endian f32."""
    embedding = (
        base64.b64encode(vector.astype("<f4").tobytes()).decode()
        if body.encoding_format == "base64"
        else vector.tolist()
    )
    return {"object": "embedding", "index": index, "embedding": embedding}
