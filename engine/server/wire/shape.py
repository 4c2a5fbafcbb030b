"""The shape that an answer is asked for, in whatever words: a field of SamplingParams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct

from linnet.engine.server.errors import APIError, unsupported

MOST_CHOICES = 1024
Schema = dict[str, Any] | bool
Text = Annotated[str, Meta(min_length=1)]
Choices = Annotated[list[Text], Meta(min_length=1, max_length=MOST_CHOICES)]


class TextFormat(Struct, tag="text"):
    """Any text."""


class ObjectFormat(Struct, tag="json_object", omit_defaults=True):
    """Any object in JSON, or those that llama-server's `schema` allows."""

    schema: Schema | None = None


class NamedSchema(Struct):
    """It is kept to whether or not it is `strict`."""

    schema: Schema


class SchemaFormat(Struct, tag="json_schema"):
    """Of chat completions."""

    json_schema: NamedSchema


class FlatSchemaFormat(Struct, tag="json_schema", omit_defaults=True):
    """Of Responses, which tell it again, and of Anthropic's messages; it is kept to whether or not
    it is `strict`."""

    schema: Schema
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


FlatFormat = TextFormat | ObjectFormat | FlatSchemaFormat


class StructuredOutputs(Struct):
    """vLLM's."""

    json: Schema | str | None = None
    json_object: bool | None = None
    regex: Text | None = None
    choice: Choices | None = None
    grammar: Text | None = None
    structural_tag: Any = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None

    def shapes(self, param: str) -> Iterator[Shape]:
        """Raises APIError."""
        for name in OPTIONS:
            if getattr(self, name):
                raise unsupported(f"{param}.{name}", "leave it out", param=param)
        if self.json_object:
            yield Shape(param, "json_schema", {})
        yield from _given(
            Shape(param, "json_schema", _schema(self.json, param)),
            Shape(param, "regex", self.regex),
            Shape(param, "choice", self.choice),
            Shape(param, "grammar", self.grammar),
        )


OPTIONS = (
    "structural_tag", "whitespace_pattern", "disable_any_whitespace",
    "disable_additional_properties",
)  # fmt: skip


class Shape(NamedTuple):
    """The field of a request, that of SamplingParams, and its value; None where any text will
    do."""

    param: str
    field: str
    value: Any


class Shaped(Struct, kw_only=True):
    """Fields of OpenAI's, llama-server's and vLLM's, older ones included."""

    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    json_schema: Schema | None = None
    grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = None
    guided_regex: Text | None = None
    guided_choice: Choices | None = None
    guided_grammar: Text | None = None

    @property
    def shape(self) -> Shape | None:
        """What is asked for. Raises APIError for several."""
        told = [*self.shapes()]
        found = [shape for shape in told if shape.value is not None] or told
        if len(found) > 1:
            first, second = found[:2]
            message = f"{first.param} and {second.param} both ask for a shape; an answer has one"
            raise APIError(400, message, param=second.param)
        return found[0] if found else None

    @property
    def shaped_by(self) -> str | None:
        """The field that asks for it."""
        return self.shape.param if self.shape else None

    def shapes(self) -> Iterator[Shape]:
        """Each that is given. Raises APIError."""
        if self.response_format is not None:
            yield shape_of(self.response_format, "response_format")
        if self.structured_outputs is not None:
            yield from self.structured_outputs.shapes("structured_outputs")
        yield from _given(
            Shape("json_schema", "json_schema", self.json_schema),
            Shape("grammar", "grammar", self.grammar or None),
            Shape("guided_json", "json_schema", _schema(self.guided_json, "guided_json")),
            Shape("guided_regex", "regex", self.guided_regex),
            Shape("guided_choice", "choice", self.guided_choice),
            Shape("guided_grammar", "grammar", self.guided_grammar),
        )


def shape_of(
    format: TextFormat | ObjectFormat | SchemaFormat | FlatSchemaFormat, param: str
) -> Shape:  # fmt: skip
    """What a format asks for."""
    match format:
        case ObjectFormat(schema):
            return Shape(param, "json_schema", {} if schema is None else schema)
        case SchemaFormat(NamedSchema(schema)) | FlatSchemaFormat(schema):
            return Shape(param, "json_schema", schema)
    return Shape(param, "json_schema", None)


def _given(*shapes: Shape) -> Iterator[Shape]:
    return (shape for shape in shapes if shape.value is not None)


def _schema(given: Schema | str | None, param: str) -> Schema | None:
    """One given in JSON, too. Raises APIError."""
    if not isinstance(given, str):
        return given
    try:
        found = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise APIError(400, f"{param} is not JSON: {error}", param=param) from error
    if not isinstance(found, dict | bool):
        raise APIError(400, f"{param} must be a JSON schema: an object, or a boolean", param=param)
    return found
