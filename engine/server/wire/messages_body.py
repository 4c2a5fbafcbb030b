"""Bodies of Anthropic's Messages API, and the conversations that they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from linnet.engine.server.errors import APIError
from linnet.engine.server.service import Service
from linnet.engine.server.wire.shape import FlatFormat, Shape, shape_of
from linnet.engine.server.wire.tools import AnthropicChoice, Offer, Tool
from linnet.engine.server.wire.types import (
    MOST_MESSAGES,
    MOST_STOPS,
    MOST_TOOLS,
    Limit,
    Sampling,
)

# Claude Code's, whose hash of the conversation changes with each request: no prefix would be
# the same.
BILLING_HEADER = "x-anthropic-billing-header"


class Text(Struct, tag="text"):
    text: str


class Thinking(Struct, tag="thinking"):
    thinking: str


class RedactedThinking(Struct, tag="redacted_thinking"):
    """Encrypted: nobody here can read it."""


class ToolUse(Struct, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class Image(Struct, tag="image"):
    pass


class Document(Struct, tag="document"):
    pass


class SearchResult(Struct, tag="search_result"):
    pass


class ToolResult(Struct, tag="tool_result"):
    tool_use_id: str
    content: str | list[Text | Image | Document | SearchResult] | None = None


Stops = Annotated[list[str], Meta(max_length=MOST_STOPS)]
Content = Text | Thinking | RedactedThinking | ToolUse | ToolResult | Image | Document


class Message(Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[Content | SearchResult]


class GivenTool(Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ThinkingConfig(Struct):
    """`budget_tokens`: of the type "enabled"."""

    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Limit | None = None


class OutputConfig(Struct):
    effort: str | None = None
    format: FlatFormat | None = None


class Conversation(Sampling, kw_only=True):
    """What a prompt is made of: the body of `count_tokens`."""

    model: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MOST_MESSAGES)]
    system: str | list[Text] | None = None
    tools: Annotated[list[GivenTool], Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: AnthropicChoice | None = None
    thinking: ThinkingConfig | None = None
    output_config: OutputConfig | None = None
    output_format: FlatFormat | None = None  # where betas of the API had it
    chat_template_kwargs: dict[str, Any] | None = None

    def shapes(self) -> Iterator[Shape]:
        """See `Shaped.shapes`."""
        yield from super().shapes()
        if self.output_format:
            yield shape_of(self.output_format, "output_format")
        if self.output_config and self.output_config.format:
            yield shape_of(self.output_config.format, "output_config.format")

    @property
    def budget(self) -> int | None:
        """Of reasoning, in tokens."""
        is_on = self.thinking is not None and self.thinking.type == "enabled"
        return self.thinking.budget_tokens if self.thinking and is_on else None


class CreateMessage(Conversation, kw_only=True):
    """The body of a request for an answer."""

    max_tokens: Limit
    stop: Stops | None = field(name="stop_sequences", default=None)
    stream: bool | None = None


async def prompt_of(service: Service, body: Conversation, tools: Sequence[Tool]) -> list[int]:
    """The ids; an answer that the last message begins goes on. `tools`: those that the model is
    told of. Raises APIError."""
    service.check_model(body.model)
    messages = _system(body)
    for i, message in enumerate(body.messages):
        messages += _translated(message, f"messages[{i}]")
    last = messages[-1]
    goes_on = last["role"] == "assistant"
    if goes_on and not last.keys() <= {"role", "content"}:
        refusal = "the last message, which the answer continues, must have text alone"
        raise APIError(400, f"{refusal}; give the results of its tool calls", param="messages")
    return await service.conversation(
        messages, tools=tools, variables=_variables(body), goes_on=goes_on
    )


def _system(body: Conversation) -> list[dict[str, Any]]:
    if isinstance(body.system, list):
        texts = [block.text for block in body.system]
        if texts and texts[0].startswith(BILLING_HEADER):
            del texts[0]
        text = "".join(texts)
    else:
        text = body.system or ""
    return [{"role": "system", "content": text}] if text else []


def _translated(message: Message, name: str) -> list[dict[str, Any]]:
    """A message as OpenAI's API has it, after those with the results of tools. Raises APIError."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    texts, thoughts, calls, results = [], [], [], []
    for i, block in enumerate(message.content):
        match block:
            case Text(text):
                texts.append(text)
            case Thinking(thinking):
                thoughts.append(thinking)
            case RedactedThinking():
                pass
            case ToolUse(id, tool, arguments):
                function = {"name": tool, "arguments": arguments}
                calls.append({"id": id, "type": "function", "function": function})
            case ToolResult(id, content):
                text = _text(content or "", f"{name}.content[{i}]")
                results.append({"role": "tool", "tool_call_id": id, "content": text})
            case _:
                raise _unreadable(block, f"{name}.content[{i}]")
    if results and not (texts or thoughts or calls):
        return results
    said: dict[str, Any] = {"role": message.role, "content": "".join(texts)}
    if thoughts:
        said["reasoning_content"] = "".join(thoughts)
    if calls:
        said["tool_calls"] = calls
    return [*results, said]


def _text(content: str | list[Any], name: str) -> str:
    if isinstance(content, str):
        return content
    for i, block in enumerate(content):
        if not isinstance(block, Text):
            raise _unreadable(block, f"{name}.content[{i}]")
    return "".join(block.text for block in content)


def _unreadable(block: Struct, name: str) -> APIError:
    kind = block.__struct_config__.tag
    message = f"{name} has the type {kind!r}; models read text alone here"
    return APIError(400, message, param="messages")


def offer_of(body: Conversation) -> Offer:
    """Raises APIError, also for tools that Anthropic runs."""
    for i, tool in enumerate(body.tools or ()):
        if tool.input_schema is None:
            kind = "has no input_schema" if tool.type is None else f"is {tool.type!r}"
            message = f"tools[{i}] {kind}; tools must be functions of yours, with an input_schema"
            raise APIError(400, message, param="tools")
    tools = [{"type": "function", "function": _function(tool)} for tool in body.tools or ()]
    return Offer.of(tools, body.tool_choice)


def _function(tool: GivenTool) -> dict[str, Any]:
    described = {} if tool.description is None else {"description": tool.description}
    strict = {"strict": True} if tool.strict else {}
    return {"name": tool.name, **described, "parameters": tool.input_schema, **strict}


def _variables(body: Conversation) -> dict[str, Any]:
    """For the template."""
    variables: dict[str, Any] = {}
    if body.output_config and body.output_config.effort:
        variables["reasoning_effort"] = body.output_config.effort
    if body.thinking:
        variables["enable_thinking"] = body.thinking.type != "disabled"
    return variables | (body.chat_template_kwargs or {})
