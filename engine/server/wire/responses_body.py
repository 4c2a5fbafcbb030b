"""Bodies of OpenAI's Responses API, and the conversations that they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from linnet.engine.server.errors import APIError, unsupported
from linnet.engine.server.log import tell
from linnet.engine.server.service import Service
from linnet.engine.server.wire.shape import FlatFormat, Shape, shape_of
from linnet.engine.server.wire.tools import FlatToolChoice, Offer, Tool
from linnet.engine.server.wire.types import (
    MOST_MESSAGES,
    MOST_TOOLS,
    Limit,
    Sampling,
    converted,
    template_variables,
)

LOGPROBS = "message.output_text.logprobs"  # that are asked for with `include`
NAME = re.compile(r"\w{1,40}")  # of a type; what else it may be is not for a log
STATEFUL = ("previous_response_id", "conversation", "prompt")  # fields that name what is kept


class InputText(Struct, tag="input_text"):
    text: str


class OutputText(Struct, tag="output_text"):
    text: str


class Refusal(Struct, tag="refusal"):
    refusal: str


class InputImage(Struct, tag="input_image"):
    pass


class InputFile(Struct, tag="input_file"):
    pass


Content = InputText | OutputText | Refusal | InputImage | InputFile


class Message(Struct, tag="message"):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Content]


class FunctionCall(Struct, tag="function_call"):
    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(Struct, tag="function_call_output"):
    call_id: str
    output: str | list[Content]


class Thought(Struct):
    """Of type reasoning_text or summary_text."""

    text: str


class Reasoning(Struct, tag="reasoning"):
    summary: list[Thought] | None = None
    content: list[Thought] | None = None


Item = Message | FunctionCall | FunctionCallOutput | Reasoning


class GivenTool(Struct):
    """What else than a function is skipped: OpenAI would run it."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextConfig(Struct):
    format: FlatFormat | None = None


class ReasoningConfig(Struct):
    effort: str | None = None
    summary: str | None = None


class CreateResponse(Sampling, kw_only=True):
    """The body. Nothing is stored, whatever `store` says."""

    model: str | None = None
    input: str | Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MOST_MESSAGES)]
    instructions: str | None = None
    tools: Annotated[list[GivenTool], Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: FlatToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tokens: Limit | None = field(name="max_output_tokens", default=None)
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    metadata: dict[str, str] | None = None
    stream: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None
    background: bool | None = None
    truncation: str | None = None
    include: list[str] | None = None  # mostly of what OpenAI's own tools give
    top_logprobs: int | None = None

    def check(self) -> None:
        """Raises APIError for what is asked for and cannot be done."""
        for name in STATEFUL:
            if getattr(self, name) is not None:
                raise unsupported(
                    name, "no response is kept; give all of the conversation as input"
                )
        if self.background:
            raise unsupported("background", "no response is kept; leave it out")
        if self.truncation not in (None, "disabled"):
            raise unsupported("truncation", "input is never cut; leave it out")
        if self.top_logprobs:
            raise unsupported("top_logprobs", "leave it out")
        if LOGPROBS in (self.include or ()):
            raise unsupported("include", f"leave out {LOGPROBS!r}")

    def shapes(self) -> Iterator[Shape]:
        """See `Shaped.shapes`."""
        yield from super().shapes()
        if self.text and self.text.format:
            yield shape_of(self.text.format, "text.format")

    @property
    def functions(self) -> list[GivenTool]:
        """Those of the tools that are."""
        return [tool for tool in self.tools or () if tool.type == "function"]


async def prompt_of(service: Service, body: CreateResponse, tools: Sequence[Tool]) -> list[int]:
    """The ids; `tools`: those that the model is told of. Raises APIError."""
    service.check_model(body.model)
    body.check()
    effort = body.reasoning.effort if body.reasoning else None
    variables = template_variables(effort, body.chat_template_kwargs)
    return await service.conversation(
        _messages(body), tools=tools, variables=variables, param="input"
    )


def _messages(body: CreateResponse) -> list[dict[str, Any]]:
    """As OpenAI's other API has them: what the model said in one go is one message of it."""
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    for i, given in enumerate(body.input):
        name = f"input[{i}]"
        match converted({"type": "message", **given}, Item, name):
            case Message("assistant", content):
                turn = _turn(messages, "content", "tool_calls")
                turn["content"] = _text(content, f"{name}.content")
            case Message(role, content):
                messages.append({"role": role, "content": _text(content, f"{name}.content")})
            case Reasoning(summary, content):
                turn = _turn(messages, "reasoning_content", "content", "tool_calls")
                turn["reasoning_content"] = "".join(each.text for each in content or summary or ())
            case FunctionCall(call_id, tool, arguments):
                function = {"name": tool, "arguments": arguments}
                call = {"id": call_id, "type": "function", "function": function}
                _turn(messages).setdefault("tool_calls", []).append(call)
            case FunctionCallOutput(call_id, output):
                text = _text(output, f"{name}.output")
                messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
    return messages


def _turn(messages: list[dict[str, Any]], *without: str) -> dict[str, Any]:
    """The last message, if it is the assistant's and has none of these keys yet, or a new one."""
    if not messages or messages[-1]["role"] != "assistant" or messages[-1].keys() & set(without):
        messages.append({"role": "assistant"})
    return messages[-1]


def _text(content: str | list[Content], name: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for i, part in enumerate(content):
        match part:
            case InputText(text) | OutputText(text) | Refusal(text):
                texts.append(text)
            case _:
                kind = part.__struct_config__.tag
                message = f"{name}[{i}] has the type {kind!r}; models read text alone here"
                raise APIError(400, message, param="input")
    return "".join(texts)


def offer_of(body: CreateResponse) -> Offer:
    """Raises APIError."""
    skipped = {tool.type for tool in body.tools or ()} - {"function"}
    if skipped:
        names = {kind if NAME.fullmatch(kind) else "?" for kind in skipped}
        tell("skipped", tools=",".join(sorted(names)))
    functions = []
    for tool in body.functions:
        described = {} if tool.description is None else {"description": tool.description}
        parameters = tool.parameters or {"type": "object", "properties": {}}
        strict = {"strict": True} if tool.strict else {}
        function = {"name": tool.name, **described, "parameters": parameters, **strict}
        functions.append({"type": "function", "function": function})
    return Offer.of(functions, body.tool_choice)
