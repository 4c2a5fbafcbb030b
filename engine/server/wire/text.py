"""llama-server's `/tokenize`, `/detokenize` and `/apply-template`, and vLLM's `/tokenizer_info`.

The first two have vLLM's fields as well: with `/tokenizer_info` they are what lm-eval takes for a
model's tokenizer.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from linnet.engine.server.errors import APIError, refused
from linnet.engine.server.http import json_response
from linnet.engine.server.service import Service
from linnet.engine.server.wire.endpoint import Endpoint, get, post
from linnet.engine.server.wire.models import template_of
from linnet.engine.server.wire.prompts import ids_of, is_several, prompts_of
from linnet.engine.server.wire.types import Conversation
from linnet.engine.text.tokenizer import Tokenizer


class Tokenize(Struct):
    """`content`, of llama-server: a text, or a list that mixes texts and ids. `prompt`, of vLLM: a
    text, which gets what the model wants around it unless `add_special_tokens` is false."""

    content: Any = None
    prompt: str | None = None
    add_special: bool = False
    add_special_tokens: bool = True
    parse_special: bool = True
    with_pieces: bool = False


class Detokenize(Struct):
    """The body."""

    tokens: list[int]


def routes(service: Service) -> list[Endpoint]:
    async def tokenize(_: Request, body: Tokenize) -> Response:
        """The token ids of a text."""
        if body.prompt is not None:
            given, param, add_special = body.prompt, "prompt", body.add_special_tokens
        elif body.content is not None:
            given, param, add_special = body.content, "content", body.add_special
        else:
            raise APIError(400, "content is missing", param="content")
        if is_several(given):
            raise APIError(400, "content is a list of texts; it must be one", param="content")
        (ids,) = await ids_of(
            service, prompts_of(given, param), param,
            add_special=add_special, parse_special=body.parse_special,
        )  # fmt: skip
        llm = service.llm.llm
        return json_response({
            "tokens": [_piece(llm.tokenizer, i) for i in ids] if body.with_pieces else ids,
            "count": len(ids),
            "max_model_len": llm.n_ctx,
        })  # fmt: skip

    async def detokenize(_: Request, body: Detokenize) -> Response:
        """The text of token ids."""
        llm = service.llm
        try:
            text = await llm.aside(
                lambda: llm.llm.tokenizer.decode(body.tokens, skip_special=False)
            )
        except ValueError as error:
            raise refused(error, param="tokens") from error
        return json_response({"content": text, "prompt": text})

    async def tokenizer_info(_: Request) -> Response:
        """The tokens, and the template, that texts are put between."""
        around = service.llm.llm.tokenizer.vocabulary.boundaries
        return json_response({**around, "chat_template": template_of(service)})

    async def apply_template(_: Request, body: Conversation) -> Response:
        """The prompt that a conversation becomes."""
        prompt = await service.rendered(
            body.messages, tools=body.tools, variables=body.variables,
            goes_on=bool(body.continue_final_message),
        )  # fmt: skip
        return json_response({"prompt": prompt})

    return [
        *post(["/tokenize", "/v1/tokenize"], tokenize, Tokenize),
        *post(["/detokenize", "/v1/detokenize"], detokenize, Detokenize),
        *get(["/tokenizer_info", "/v1/tokenizer_info"], tokenizer_info),
        *post(["/apply-template", "/v1/apply-template"], apply_template, Conversation),
    ]


def _piece(tokenizer: Tokenizer, token_id: int) -> dict[str, Any]:
    """A token's text, or its bytes where they are not UTF-8."""
    data = tokenizer.token_bytes(token_id)
    try:
        return {"id": token_id, "piece": data.decode()}
    except UnicodeDecodeError:
        return {"id": token_id, "piece": [*data]}
