"""Python functions as tools: what a model is told of them, and calls made for it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any, Final

from linnet.engine.chat.docstrings import described
from linnet.engine.chat.formats.parts import ToolCall
from linnet.engine.chat.hints import Hinted, Member, Schema, objects

Tool = Callable[..., Any] | Mapping[str, Any]
NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class Tools:
    """Tools of a conversation: functions, and dicts of those that somebody else runs.

    `schemas`: {"type": "function", "function": {"name", "description", "parameters"}} of each. A
    function's parameters are of types that JSON has, `Literal`, `Optional` and other unions, enums,
    dataclasses, TypedDicts, pydantic models, and lists and dicts of those.
    """

    def __init__(self, tools: Sequence[Tool]) -> None:
        """Raises ValueError for functions that cannot be told to a model, naming the reason."""
        self._functions: dict[str, tuple[Callable[..., Any], Hinted]] = {}
        self.schemas: list[Mapping[str, Any]] = []
        for i, tool in enumerate(tools):
            self.schemas.append(self._of(tool, f"tools[{i}]") if callable(tool) else tool)

    def can_run(self, calls: Sequence[ToolCall]) -> bool:
        """Whether none of the calls is of a tool that is a dict."""
        dicts = {_name(schema) for schema in self.schemas} - self._functions.keys()
        return not any(_name(call) in dicts for call in calls)

    @property
    def async_names(self) -> list[str]:
        """The functions that have to be awaited."""
        return [
            name for name, (function, _) in self._functions.items() if iscoroutinefunction(function)
        ]

    def results(self, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
        """A message with the result of each call; of one that fails, with the error."""
        return [self._result(call) for call in calls]

    async def awaited_results(self, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
        """The same of functions that may be async; the others run in threads. All calls run at the
        same time."""
        from asyncio import gather  # takes long to import, which few need

        return await gather(*map(self._awaited_result, calls))

    def _of(self, function: Callable[..., Any], where: str) -> Schema:
        name = getattr(function, "__name__", "")
        if not NAME.fullmatch(name):
            limits = "a function with a name of at most 64 letters, digits, _ and -"
            raise ValueError(f"{where} is {function!r}; it must be {limits}")
        if name in self._functions:
            raise ValueError(f"{where} has the name {name!r}, as another has")
        description, texts = described(inspect.getdoc(function))
        try:
            parameters = _members(function, texts)
            about = objects(parameters, dict, name)
        except RecursionError as error:
            raise ValueError(f"{where}, {name}, has a type that is made of itself") from error
        except (ValueError, NameError) as error:
            raise ValueError(f"{where}: {error}") from error
        self._functions[name] = function, about
        schema = {"name": name, "description": description, "parameters": _hoisted(about.schema)}
        return {"type": "function", "function": schema}

    async def _awaited_result(self, call: ToolCall) -> dict[str, Any]:
        from asyncio import to_thread

        try:
            function, given = self._prepared(call)
            is_async = iscoroutinefunction(function)
            content = _text(await (function(**given) if is_async else to_thread(function, **given)))
        except Exception as error:  # of the function's, any
            content = _told(error)
        return _message(call, content)

    def _result(self, call: ToolCall) -> dict[str, Any]:
        try:
            function, given = self._prepared(call)
            content = _text(function(**given))
        except Exception as error:  # of the function's, any
            content = _told(error)
        return _message(call, content)

    def _prepared(self, call: ToolCall) -> tuple[Callable[..., Any], dict[str, Any]]:
        """The function that a call is of, and its arguments. Raises ValueError, and what
        constructors raise."""
        name, arguments = _name(call), call["function"].get("arguments") or {}
        if name not in self._functions:
            known = ", ".join(self._functions)
            raise ValueError(f"there is no tool {name!r}; there are {known}")
        function, about = self._functions[name]
        given = json.loads(arguments) if isinstance(arguments, str) else arguments
        return function, about.value(given, name)


def _message(call: ToolCall, content: str) -> dict[str, Any]:
    """The result of a call."""
    message = {"role": "tool", "name": _name(call), "content": content}
    return message | ({"tool_call_id": call["id"]} if "id" in call else {})


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _members(function: Callable[..., Any], texts: Mapping[str, str]) -> dict[str, Member]:
    """A function's parameters, by name. `texts`: what is known of them."""
    hints = typing.get_type_hints(function, include_extras=True)
    members: dict[str, Member] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(f"{parameter} cannot be given by its name, as models give it")
        is_optional = parameter.default is not parameter.empty
        members[name] = Member(hints.get(name, Any), is_optional, texts.get(name, ""))
    return members


def _hoisted(schema: Schema) -> Schema:
    """The schema with the definitions of all that is in it at its root, where references look."""
    found: dict[str, Any] = {}

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(item) for item in value]
        if not isinstance(value, dict):
            return value
        for name, item in value.get("$defs", {}).items():
            if found.setdefault(name, without(item)) != without(item):
                raise ValueError(f"two types are called {name!r}")
        return {key: without(item) for key, item in value.items() if key != "$defs"}

    schema = without(schema)
    return schema | ({"$defs": found} if found else {})


def _name(tool: Mapping[str, Any]) -> str:
    """A schema's, or a call's."""
    function = tool.get("function")
    return str(function.get("name")) if isinstance(function, Mapping) else ""


def _text(result: Any) -> str:
    return result if isinstance(result, str) else json.dumps(result, default=_plain)


def _plain(value: Any) -> Any:
    """Of what JSON has no way to write."""
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return getattr(value, "value", str(value))  # of an enum
