"""Messages as clients of OpenAI's API send them, put into the shape that a chat template expects.

That API has None for what is not there, lists of parts for content, JSON text for the arguments of
a call, and the role "developer"; a template has what its author had in mind (`abilities`). Messages
that are in its shape already go through as they are.
"""

from __future__ import annotations

import json
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

from linnet.engine.chat.abilities import (
    ABSENT,
    JSON_TEXT,
    LATER,
    LEADING,
    OBJECT,
    PARTS,
    SECOND,
    TEXT,
    Abilities,
)
from linnet.engine.chat.history import History

TEXT_TYPES: Final = ("text", "input_text", "output_text", "refusal")
MEDIA: Final = ("image", "audio", "video", "file")  # what a type of part names, or begins with
REASONING: Final = ("reasoning_content", "thinking", "reasoning")  # keys for the same


def expected_tools(tools: Any, abilities: Abilities) -> Any:
    """`tools` without keys that are None, nor `strict`, which is not for the model, and what stands
    for none. Warns where the template would leave them out in silence."""
    tools = _plain(tools)
    if tools is None:
        return abilities.without_tools()
    if not isinstance(tools, list | tuple):
        return tools
    if tools and not abilities.writes_tools():
        _warn("the chat template leaves out the tools: the model will not know of them")
    return [_told(tool) for tool in tools]


def _told(tool: Any) -> Any:
    tool = _without_none(tool, "function")
    if not isinstance(tool, dict):
        return tool
    function = tool.get("function")
    if isinstance(function, dict):
        return {**tool, "function": {k: v for k, v in function.items() if k != "strict"}}
    return {key: item for key, item in tool.items() if key != "strict"}


def expected_messages(
    messages: Any, abilities: Abilities, history: History
) -> list[dict[str, Any]]:
    """`messages` as the template expects them; the given ones are left as they are.

    Raises ValueError for what is no list of messages with a role, for parts of content that are no
    text where the template takes text, and for arguments of a call that are not JSON. Warns of what
    the template would leave out in silence.
    """
    messages = _plain(messages)
    if not isinstance(messages, list | tuple):
        like = '[{"role": "user", "content": "Hello"}]'
        raise ValueError(f"messages is {reprlib.repr(messages)}; it must be a list such as {like}")
    cleaned = [_cleaned(message, f"messages[{i}]") for i, message in enumerate(messages)]
    shaped = [history.message(message) for message in cleaned]
    shaped = _with_roles(shaped, abilities)
    n_merged = len(messages) - len(shaped)
    for i, message in enumerate(shaped):
        name = f"messages[{i + n_merged}]"
        if "tool_calls" in message:
            _shape_calls(message, abilities, name)
        _shape_content(message, _place(shaped, i), abilities, name)
    return shaped


# ---- one message by itself -----------------------------------------------------------------------


def _cleaned(given: Any, name: str) -> dict[str, Any]:
    """A copy, as deep as we change it, without what is None or stands for nothing."""
    given = _plain(given)
    if not isinstance(given, Mapping) or not isinstance(given.get("role"), str):
        found = reprlib.repr(given)
        raise ValueError(f"{name} is {found}; it must be a dict with a 'role'")
    message = {key: item for key, item in given.items() if item is not None}
    if isinstance(message.get("content"), list | tuple):
        message["content"] = [
            _part(part, f"{name}.content[{i}]") for i, part in enumerate(message["content"])
        ]
    calls = message.get("tool_calls")
    if isinstance(calls, list | tuple) and calls:
        message["tool_calls"] = [_without_none(_with_arguments(call), "function") for call in calls]
    elif isinstance(calls, list | tuple):
        del message["tool_calls"]
    reasoning = next((message[key] for key in REASONING if key in message), None)
    if reasoning is not None:
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return message


def _plain(value: Any) -> Any:
    """The dict of an object of a client library (a pydantic model); anything else as it is."""
    dump = getattr(value, "model_dump", None)
    return dump() if callable(dump) and not isinstance(value, type) else value


def _without_none(value: Any, *keys: str) -> Any:
    """A dict's copy without keys that are None, in those of its dicts that `keys` name, too."""
    value = _plain(value)
    if not isinstance(value, Mapping):
        return value
    kept = {key: item for key, item in value.items() if item is not None}
    return kept | {key: _without_none(kept[key]) for key in keys if key in kept}


def _with_arguments(call: Any) -> Any:
    """A call whose arguments are None or empty has none: {}."""
    call = _plain(call)
    function = _plain(call.get("function")) if isinstance(call, Mapping) else None
    if isinstance(function, Mapping) and function.get("arguments", {}) in (None, ""):
        return {**call, "function": {**function, "arguments": {}}}
    return call


def _part(part: Any, name: str) -> Any:
    part = {"type": "text", "text": part} if isinstance(part, str) else _without_none(part)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(kind, str) and kind.removeprefix("input_").startswith(MEDIA):
        raise ValueError(f"{name} has the type {kind!r}; models read text alone here")
    return part


# ---- the messages together -----------------------------------------------------------------------


def _with_roles(messages: list[dict[str, Any]], abilities: Abilities) -> list[dict[str, Any]]:
    """ "developer" as "system", and a system prompt within a question, where it must be."""
    roles = {message["role"] for message in messages}
    if not roles & {"developer", "system"} or not abilities.content("user", LEADING).forms:
        return messages  # nothing to do, or nothing is known
    if "developer" in roles and not abilities.knows_developer():
        messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
    n_system = next((i for i, m in enumerate(messages) if m["role"] != "system"), len(messages))
    if not n_system or abilities.content("system", LEADING).forms:
        return messages
    question: dict[str, Any] = {"role": "user", "content": ""}
    index = next((i for i, m in enumerate(messages) if m["role"] == "user"), None)
    if index is not None:
        question = messages[index]
    contents = [m.get("content") for m in (*messages[:n_system], question)]
    question = {**question, "content": _joined(contents)}
    rest = [m for i, m in enumerate(messages) if i >= n_system and i != index]
    at = 0 if index is None else index - n_system
    return [*rest[:at], question, *rest[at:]]


def _joined(contents: Sequence[Any]) -> Any:
    """Contents, some of them lists of parts, as one, a line between each."""
    contents = [content for content in contents if content]
    if all(isinstance(content, str) for content in contents):
        return "\n".join(contents)
    parts: list[Any] = []
    for content in contents:
        if parts:
            parts.append({"type": "text", "text": "\n"})
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return parts


def _place(messages: Sequence[Mapping[str, Any]], i: int) -> str:
    if i == 0:
        return LEADING
    is_system = {message["role"] for message in messages[: i + 1]} <= {"system", "developer"}
    return SECOND if is_system else LATER


# ---- one message for a template ------------------------------------------------------------------


def _shape_content(message: dict[str, Any], place: str, abilities: Abilities, name: str) -> None:
    role, content, calls = message["role"], message.get("content"), "tool_calls" in message
    if content is None or (calls and content in ("", [])):
        _shape_empty(message, place, abilities)
        return
    if not isinstance(content, str | list):
        return
    answer = abilities.content(role, place)
    if answer.drops and content:
        _warn(f"{name}, of role {role!r}, is left out by the chat template")
    if isinstance(content, str):
        if PARTS in answer.forms and TEXT not in answer.forms:
            message["content"] = [{"type": "text", "text": content}]
    elif TEXT in answer.forms and PARTS not in answer.forms:
        message["content"] = "".join(
            _text_of(part, f"{name}.content[{i}]") for i, part in enumerate(content)
        )


def _shape_empty(message: dict[str, Any], place: str, abilities: Abilities) -> None:
    """Write content that is not there as the template wants it, which may be as it is."""
    if "tool_calls" in message:
        answer = abilities.calls()
        forms = [content for _, content in answer.forms or answer.rendered]
    else:
        forms = list(abilities.no_content(message["role"], place).forms)
    given = message.get("content", ABSENT)
    if forms and given not in forms:
        message.pop("content", None)
        if forms[0] is not ABSENT:
            message["content"] = forms[0]


def _text_of(part: Any, name: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get("refusal" if kind == "refusal" else "text") if kind in TEXT_TYPES else None
    if not isinstance(text, str):
        found = reprlib.repr(part)
        raise ValueError(f"{name} is {found}; the chat template takes parts with a text alone")
    return text


def _shape_calls(message: dict[str, Any], abilities: Abilities, name: str) -> None:
    """Write arguments as the template wants them."""
    answer = abilities.calls(beside_text=bool(message.get("content")))
    if answer.drops:
        also = " or the content beside them" if message.get("content") else ""
        _warn(f"{name}.tool_calls{also} are left out by the chat template")
    forms = [form for form, _ in (answer.forms or abilities.calls().forms)]
    calls = message["tool_calls"]
    if not forms or not isinstance(calls, list):
        return
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping) and "arguments" in function:
            field = f"{name}.tool_calls[{i}].function.arguments"
            arguments = _arguments(function["arguments"], forms, field)
            calls[i] = {**call, "function": {**function, "arguments": arguments}}


def _arguments(given: Any, forms: Sequence[str], name: str) -> Any:
    if OBJECT not in forms:
        return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    if not isinstance(given, str):
        return given
    try:
        parsed = json.loads(given)
    except (ValueError, RecursionError):
        parsed = None
    if isinstance(parsed, dict):
        return parsed
    if JSON_TEXT in forms:
        return given
    raise ValueError(f"{name} is {reprlib.repr(given)}; it must be an object, or one as JSON text")


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)
