"""Answers in a shape: every way to ask for one, on every path, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest
from support.serving import Running, asked, serving

from linnet.engine.sampling import constraint

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ab", "cd"]}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}
ANYTHING = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
BY_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
GBNF = 'root ::= "yes" | "no"'
LARK = 'start: "yes" | "no"'
CHAT, PLAIN, NATIVE = "/v1/chat/completions", "/v1/completions", "/completion"


def fits(text: str) -> bool:
    """Whether a text is JSON that SCHEMA allows."""
    found = json.loads(text)
    is_old = isinstance(found["old"], bool)
    return found.keys() == {"name", "old"} and found["name"] in ("ab", "cd") and is_old


def is_choice(text: str) -> bool:
    return text in ("yes", "no")


def is_number(text: str) -> bool:
    return re.fullmatch("[0-9]{3}", text) is not None


ASKED: list[Any] = [
    ({"response_format": BY_SCHEMA}, fits),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, fits),
    ({"json_schema": SCHEMA}, fits),
    ({"structured_outputs": {"json": SCHEMA}}, fits),
    ({"structured_outputs": {"json": json.dumps(SCHEMA), "regex": None}}, fits),
    ({"structured_outputs": {"regex": "[0-9]{3}"}}, is_number),
    ({"structured_outputs": {"choice": ["yes", "no"]}}, is_choice),
    ({"structured_outputs": {"grammar": LARK}}, is_choice),
    ({"grammar": GBNF}, is_choice),
    ({"grammar": "", "guided_json": SCHEMA, "response_format": {"type": "text"}}, fits),
    ({"guided_json": json.dumps(SCHEMA)}, fits),
    ({"guided_regex": "[0-9]{3}"}, is_number),
    ({"guided_choice": ["yes", "no"]}, is_choice),
    ({"guided_grammar": GBNF}, is_choice),
]


def text_of(server: Running, path: str, **fields: Any) -> tuple[str, str]:
    """An answer's text, and why it ended."""
    how = {"max_tokens": 60, "temperature": 1, "seed": 1, **fields}
    if path == CHAT:
        choice = server.answer(path, **asked(**how))["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]
    body = server.answer(path, prompt="so:", **how)
    if path == NATIVE:
        return body["content"], {"eos": "stop", "limit": "length"}[body["stop_type"]]
    return body["choices"][0]["text"], body["choices"][0]["finish_reason"]


def shown(value: Any) -> str:
    """A case's name, the same in every process."""
    return str(getattr(value, "__name__", value))[:50]


@pytest.mark.parametrize("path", [CHAT, PLAIN, NATIVE])
@pytest.mark.parametrize(("fields", "holds"), ASKED, ids=shown)
def test_an_answer_has_the_shape(
    server: Running, path: str, fields: dict[str, Any], holds: Any
) -> None:
    text, reason = text_of(server, path, **fields)
    assert holds(text)
    assert reason == "stop"


@pytest.mark.parametrize("format", [{"type": "json_object"}, ANYTHING], ids=str)
def test_any_object_is_json(server: Running, format: dict[str, Any]) -> None:
    text, reason = text_of(server, CHAT, response_format=format, max_tokens=200)
    assert text.startswith("{")
    assert reason == "length" or isinstance(json.loads(text), dict)


def test_a_limit_cuts_and_says_so(server: Running) -> None:
    text, reason = text_of(server, CHAT, response_format=BY_SCHEMA, max_tokens=3)
    assert reason == "length"
    assert text.startswith("{")


def test_a_stream_has_it_too(server: Running) -> None:
    chunks = server.chat_stream(max_tokens=60, response_format=BY_SCHEMA)
    assert fits("".join(c["choices"][0]["delta"].get("content") or "" for c in chunks))


def test_the_servers_own_is_for_requests_that_do_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """And none waits for the vocabulary, which is read before the server is ready."""
    with serving(sampling={"choice": ["yes", "no"], "max_tokens": 60}) as server:
        monkeypatch.setattr(constraint, "_Wrapped", None)
        assert is_choice(text_of(server, CHAT)[0])
        assert is_number(text_of(server, CHAT, guided_regex="[0-9]{3}")[0])
        free = text_of(server, CHAT, response_format={"type": "text"}, max_tokens=9)
        assert free[1] == "length"


WRONG: list[Any] = [
    ("response_format", {"type": "x"}), ("response_format", {}),
    ("response_format", {"type": "json_schema"}),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "x"}}),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}),
    ("response_format", {"type": "json_object", "schema": {"$ref": "#/nowhere"}}),
    ("json_schema", {"type": 1}), ("json_schema", {"uniqueItems": True, "type": "array"}),
    ("json_schema", False), ("json_schema", "{}"), ("grammar", "start: x"),
    ("guided_json", "{"), ("guided_json", "null"), ("guided_json", [1]), ("guided_regex", "("),
    ("guided_regex", ""), ("guided_regex", r"(a)\1"), ("guided_choice", []),
    ("guided_choice", [""]), ("guided_choice", ["x"] * 1025), ("guided_grammar", "root ::= ("),
    ("structured_outputs", {"json": {"type": "x"}}), ("structured_outputs", {"regex": "("}),
    ("structured_outputs", {"structural_tag": {"a": 1}}),
    ("structured_outputs", {"json": {}, "whitespace_pattern": " "}),
    ("structured_outputs", {"json": {}, "disable_any_whitespace": True}),
]  # fmt: skip


@pytest.mark.parametrize("path", [CHAT, PLAIN, NATIVE])
@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: str(value)[:60])
def test_what_cannot_be_enforced_is_refused(
    server: Running, path: str, name: str, value: Any
) -> None:
    body = asked(prompt="a", **{name: value})
    error = server.refusal(path, 400, **body)
    assert error["param"] == name
    assert error["message"]
    server.rests()


def test_two_shapes_are_one_too_many(server: Running) -> None:
    error = server.refusal(CHAT, 400, **asked(grammar=GBNF, response_format=BY_SCHEMA))
    assert error["param"] == "grammar"
    assert "response_format and grammar" in error["message"]
    structured = {"regex": "a", "choice": ["b"]}
    error = server.refusal(CHAT, 400, **asked(structured_outputs=structured))
    assert error["param"] == "structured_outputs"


def test_without_llguidance_it_is_said(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    error = server.refusal(CHAT, 501, **asked(response_format=BY_SCHEMA))
    assert error["param"] == "response_format"
    assert 'pip install "linnet-llm[structured]"' in error["message"]
    server.chat()
