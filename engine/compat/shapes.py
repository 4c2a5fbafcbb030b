"""What llama-cpp-python takes to hold an answer to a shape, or to end it."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from linnet.engine.sampling.params import LogitsProcessor


class LlamaGrammar:
    """A grammar in GBNF, or what a JSON schema allows; `grammar` of Llama's calls.

    `fields`: of SamplingParams. Whether it can be held to is seen by the call, which raises
    ValueError, or ModuleNotFoundError without linnet-llm[structured].
    """

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    @classmethod
    def from_string(cls, grammar: str, verbose: bool = True) -> Self:
        return cls(grammar=grammar)

    @classmethod
    def from_file(cls, file: str | os.PathLike[str], verbose: bool = True) -> Self:
        """Raises OSError."""
        return cls(grammar=Path(file).read_text(encoding="utf-8"))

    @classmethod
    def from_json_schema(cls, json_schema: str, verbose: bool = True) -> Self:
        return cls(json_schema=json_schema)


def shape_fields(grammar: Any, response_format: Any) -> Mapping[str, Any]:
    """The field of SamplingParams that they ask for, or none. Raises ValueError for what is no
    shape, and for two of them."""
    asked = _format_fields(response_format)
    if grammar is None:
        return asked
    if not isinstance(grammar, LlamaGrammar):
        found = reprlib.repr(grammar)
        raise ValueError(f"grammar is {found}; it must be None or a LlamaGrammar")
    if asked:
        raise ValueError("grammar and response_format are given; an answer has one shape")
    return grammar.fields


def _format_fields(given: Any) -> Mapping[str, Any]:
    kind = given.get("type") if isinstance(given, Mapping) else given
    if kind is None or kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": given.get("schema") or {}}
    named = given.get("json_schema") if kind == "json_schema" else None
    if not isinstance(named, Mapping) or "schema" not in named:
        allowed = '{"type": "json_object", "schema": {...}}'
        raise ValueError(
            f"response_format is {reprlib.repr(given)}; it must be None or such as {allowed}"
        )
    return {"json_schema": named["schema"]}


def tool_choice_of(given: Any) -> str:
    """As `ChatRequest` takes it. Raises ValueError."""
    if given is None or given in ("auto", "none", "required"):
        return given or "auto"
    function = given.get("function") if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        allowed = "'auto', 'none', 'required' or " + json.dumps(
            {"type": "function", "function": {"name": "..."}}
        )
        raise ValueError(f"tool_choice is {reprlib.repr(given)}; it must be {allowed}")
    return name


def ending(criteria: Callable[[Any, Any], bool], eos_id: int | None) -> LogitsProcessor:
    """A logits processor after which nothing but the end token can come, once the criteria, which
    see all ids so far (n,) and logits (n_vocab,), are met. Raises ValueError without one."""
    if eos_id is None:
        raise ValueError("stopping_criteria are given; the model has no token that ends a text")

    def process(ids: Any, logits: Any) -> Any:
        if criteria(ids, logits):
            logits = np.full_like(logits, -np.inf)
            logits[eos_id] = 0
        return logits

    return process
