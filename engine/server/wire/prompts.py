"""Prompts that are no conversations: texts, token ids, and lists that mix them."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from linnet.engine.checks import token_ids
from linnet.engine.server.errors import APIError, refused
from linnet.engine.server.service import Service

MOST_PROMPTS = 2048  # in a list
Prompt = str | list[int] | list[int | str]


def prompts_of(given: Any, param: str) -> list[Prompt]:
    """Those of a field: one, or those of a list of several. A list with an id in it is one prompt.

    llama-server's objects with a `prompt_string` are texts, and so are its and OpenAI's with a
    `content` of parts of type "text". Raises APIError.
    """
    if not is_several(given):
        return [_prompt(given, param)]
    if not 0 < len(given) <= MOST_PROMPTS:
        message = f"{param} has {len(given)} prompts; it must have 1 to {MOST_PROMPTS}"
        raise APIError(400, message, param=param)
    return [_prompt(each, f"{param}[{i}]") for i, each in enumerate(given)]


def is_several(given: Any) -> bool:
    """Whether a field has a list of prompts, be it of one."""
    return isinstance(given, list) and not any(map(_is_id, given))


async def ids_of(
    service: Service, prompts: Sequence[Prompt], param: str, *, add_special: bool = True,
    parse_special: bool = True,
) -> list[list[int]]:  # fmt: skip
    """The ids of each. A text, or one that a mixed list begins with, gets what the model wants
    around it with `add_special`; ids stay alone. Raises APIError."""
    llm = service.llm

    def encoded(prompt: Prompt) -> list[int]:
        encode, n_vocab = llm.llm.tokenizer.encode, llm.llm.tokenizer.n_vocab
        ids: list[int] = []
        for i, piece in enumerate([prompt] if isinstance(prompt, str) else prompt):
            if isinstance(piece, str):
                special = add_special and i == 0
                ids += encode(piece, add_special=special, parse_special=parse_special)
            else:
                ids += token_ids([piece], n_vocab)
        return ids

    try:
        return await llm.aside(lambda: [encoded(prompt) for prompt in prompts])
    except ValueError as error:
        raise refused(error, param=param) from error


def _prompt(given: Any, where: str) -> Prompt:
    param = where.partition("[")[0]
    if isinstance(given, dict):
        for name in given.keys() & {"multimodal_data", "image_data"}:
            raise APIError(400, f"{where}.{name}: this model reads text alone", param=param)
        given = given.get("prompt_string", _text(given.get("content")))
    if isinstance(given, str):
        return given
    if isinstance(given, list) and all(_is_id(piece) or isinstance(piece, str) for piece in given):
        return given
    what = "a text, a list of token ids, which may have texts among them, or a list of those"
    raise APIError(400, f"{where} is {reprlib.repr(given)}; it must be {what}", param=param)


def _is_id(piece: Any) -> bool:
    return isinstance(piece, int) and not isinstance(piece, bool)


def _text(parts: Any) -> str | None:
    """That of a message's content, None where it is something else."""
    if not isinstance(parts, list) or not parts:
        return None
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    whole = [text for text in texts if isinstance(text, str)]
    return "".join(whole) if len(whole) == len(parts) else None
