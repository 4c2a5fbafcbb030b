"""Which tools a model may call and whether it has to, in the words of every API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from msgspec import Struct

from linnet.engine.chat.formats.schemas import function_of
from linnet.engine.server.errors import APIError

Tool = Mapping[str, Any]  # as chat completions have it


class FunctionName(Struct):
    name: str


class NamedFunction(Struct, tag="function"):
    """Of chat completions, which have the name in an object of its own."""

    function: FunctionName


class FlatNamedFunction(Struct, tag="function"):
    """Of Responses."""

    name: str


class FlatAllowedTools(Struct, tag="allowed_tools"):
    """Of Responses."""

    mode: Literal["auto", "required"]
    tools: list[FlatNamedFunction]


class AllowedNames(Struct):
    mode: Literal["auto", "required"]
    tools: list[NamedFunction]


class AllowedTools(Struct, tag="allowed_tools"):
    """Of chat completions."""

    allowed_tools: AllowedNames


class AnthropicChoice(Struct):
    """`name`: of the type "tool"."""

    type: Literal["auto", "none", "any", "tool"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


Mode = Literal["auto", "none", "required"]
MODES: tuple[Mode, ...] = ("auto", "none", "required")
ToolChoice = Mode | NamedFunction | AllowedTools
FlatToolChoice = Mode | FlatNamedFunction | FlatAllowedTools


class Offer(NamedTuple):
    """`tools`: those that the model is told of. `choice`: see `ChatRequest.tool_choice`."""

    tools: Sequence[Tool]
    choice: str

    @classmethod
    def of(
        cls, tools: Sequence[Tool] | None,
        choice: ToolChoice | FlatToolChoice | AnthropicChoice | None,
    ) -> Offer:  # fmt: skip
        """What a choice among tools comes to. Raises APIError where it cannot be had."""
        mode, names = _meaning(choice)
        if mode == "none" and not names:
            return cls((), mode)
        offered = [(_name(tool, i), tool) for i, tool in enumerate(tools or ())]
        for name in names:
            if name not in dict(offered) or name in MODES:
                wanted = f"that of one of the tools, other than {', '.join(MODES)}"
                message = f"tool_choice has the name {name!r}; it must be {wanted}"
                raise APIError(400, message, param="tool_choice")
        if isinstance(choice, AllowedTools | FlatAllowedTools):
            offered = [(name, tool) for name, tool in offered if name in names]
        if mode != "auto" and not offered:
            message = "tool_choice asks for a call; there is no tool"
            raise APIError(400, message, param="tool_choice")
        return cls([tool for _, tool in offered], mode)


def _meaning(
    choice: ToolChoice | FlatToolChoice | AnthropicChoice | None,
) -> tuple[str, Sequence[str]]:
    """That of `ChatRequest`, and the names of tools in it. Raises APIError."""
    match choice:
        case str(mode):
            return mode, ()
        case NamedFunction(FunctionName(name)) | FlatNamedFunction(name):
            return name, (name,)
        case AllowedTools(AllowedNames(mode, tools)):
            return mode, [tool.function.name for tool in tools]
        case FlatAllowedTools(mode, tools):
            return mode, [tool.name for tool in tools]
        case AnthropicChoice("tool", None):
            raise APIError(400, "tool_choice.name is missing", param="tool_choice")
        case AnthropicChoice("tool", str(name)):
            return name, (name,)
        case AnthropicChoice("any"):
            return "required", ()
        case AnthropicChoice("none"):
            return "none", ()
    return "auto", ()


def _name(tool: Tool, i: int) -> str:
    """Raises APIError."""
    function = function_of(tool)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        message = f"tools[{i}] has no name; it must be a function with a name that is a text"
        raise APIError(400, message, param="tools")
    return name
