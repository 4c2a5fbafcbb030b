"""Messages in every shape that clients send, for templates that expect one of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
from support.byte_pairs import build

from linnet.engine.chat.messages import expected_messages
from linnet.engine.chat.sandbox import TemplateError
from linnet.engine.chat.template import ChatTemplate

CONTROL = 3
TOKENIZER = build(specials={"</think>": CONTROL, "<|end|>": CONTROL})
ID = "abc123def"
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "yo"}
SYSTEM = {"role": "system", "content": "Be brief."}
DEVELOPER = {"role": "developer", "content": "Be brief."}
RESULT = {"role": "tool", "content": "sunny", "tool_call_id": ID}
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {}}}]
EACH = "{% for m in messages %}"
END = "{% endfor %}"
CALLS = "{% for c in m.tool_calls or [] %}<{{ c.function.name }} ARGUMENTS>{% endfor %}"
WRITTEN = EACH + "[{{ m.role }}]{{ m.content }}" + END
SPOKEN = EACH + "{{ '[' + m.role + ']' + m.content }}" + END
ITERATED = (
    EACH
    + "[{{ m.role }}]{% for p in m.content %}{% if p.type == 'text' %}({{ p.text }}){% endif %}"
    "{% endfor %}" + END
)
EITHER = (
    EACH + "[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}({{ p.text }}){% endfor %}{% endif %}" + END
)


@pytest.fixture(autouse=True)
def _no_warning() -> Iterator[None]:
    """Nothing is warned of but where a test says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@lru_cache(4)
def template_of(source: str) -> ChatTemplate:
    return ChatTemplate(source, TOKENIZER)


def render(source: str, *messages: Any, **variables: Any) -> str:
    return template_of(source).render(list(messages), **variables)


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def call(arguments: Any, **more: Any) -> dict[str, Any]:
    function = {"name": "now", "arguments": arguments}
    calls = [{"id": ID, "type": "function", "function": function}]
    return {"role": "assistant", "tool_calls": calls} | more


# ---- what is None is not there -------------------------------------------------------------------


@pytest.mark.parametrize("key", ["tool_calls", "refusal", "audio", "reasoning_content", "name"])
@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_keys_that_are_none_are_absent(key: str, role: str) -> None:
    source = EACH + "{% for k in m %}{{ k }} {% endfor %}{{ m.content }}|" + END
    message = {key: None, "role": role, "content": "yo"}
    assert render(source, message).startswith("role content yo|")
    assert message == {key: None, "role": role, "content": "yo"}  # whose message it is


def test_keys_within_calls_and_tools_that_are_none_are_absent() -> None:
    source = (
        "{{ tools | tojson }}" + EACH + "{{ m.content }}{{ (m.tool_calls or []) | tojson }}" + END
    )
    message = call({"a": None}, content="")
    message["tool_calls"][0] |= {"index": None}
    tool = {"type": "function", "strict": None, "function": {"name": "now", "description": None}}
    tool["function"] |= {"parameters": {"default": None}}
    text = render(source, USER, message, tools=[tool])
    assert "index" not in text
    assert '"arguments": {"a": null}' in text  # the value of an argument is data
    assert text.startswith(
        '[{"type": "function", "function": {"name": "now", "parameters": {"default": null}}}]'
    )


def test_no_calls_are_no_calls() -> None:
    source = EACH + "{% if 'tool_calls' in m %}CALLS{% endif %}{{ m.content }}" + END
    source = source.replace("CALLS", "{{ m.tool_calls[0].function.arguments }}")
    assert render(source, USER, ANSWER | {"tool_calls": []}) == "hiyo"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{{ m.content }}", ""),
        ("{{ m.content if m.content is defined else 'ABSENT' }}", "ABSENT"),
        ("{{ m.content + '' }}", ""),
        ("{{ m['content'].strip() }}", ""),
        ("{% if m.content is none %}none{% else %}{{ m.content + '' }}{% endif %}", ""),
    ],
)
@pytest.mark.parametrize("given", [{"content": None}, {}])
def test_content_beside_calls(content: str, expected: str, given: dict[str, Any]) -> None:
    source = EACH + content + CALLS.replace("ARGUMENTS", "{{ c.function.arguments.a }}") + END
    assert render(source, USER, call({"a": "x"}, **given)) == f"hi{expected}<now x>"


@pytest.mark.parametrize("given", [{"content": None}, {}, {"content": ""}])
def test_calls_that_a_template_writes_only_where_content_is_none(given: dict[str, Any]) -> None:
    source = (
        EACH + "{% if m.role == 'assistant' and m.content is none %}"
        "{% for c in m.tool_calls %}<{{ c.function.name }}{{ c.function.arguments | tojson }}>"
        "{% endfor %}{% else %}{{ m.content }}{% endif %}" + END
    )
    assert render(source, USER, call({"a": 1}, **given), RESULT) == 'hi<now{"a": 1}>sunny'
    with pytest.warns(UserWarning, match=r"messages\[1\]\.tool_calls or the content beside them"):
        assert render(source, USER, call({"a": 1}, content="So")) == "hiSo"


def test_an_answer_with_neither_content_nor_calls() -> None:
    refusal = {"role": "assistant", "content": None, "refusal": "no"}
    assert render(WRITTEN, USER, refusal, USER) == "[user]hi[assistant][user]hi"
    assert render(SPOKEN, USER, refusal, USER) == "[user]hi[assistant][user]hi"


# ---- parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", [WRITTEN, SPOKEN, WRITTEN.replace("}}" + END, "| tojson }}" + END)]
)
@pytest.mark.parametrize("message", [USER, SYSTEM, ANSWER, RESULT])
def test_parts_are_joined_where_a_template_takes_text(source: str, message: dict[str, Any]) -> None:
    before = {"user": [], "system": [], "assistant": [USER], "tool": [USER, ANSWER]}
    conversation = before[message["role"]]
    given = render(source, *conversation, message | {"content": parts("a b", " c")}, tools=None)
    assert given == render(source, *conversation, message | {"content": "a b c"})


@pytest.mark.parametrize("source", [ITERATED, EITHER])
def test_parts_stay_where_a_template_takes_them(source: str) -> None:
    assert render(source, USER | {"content": parts("a", "b")}) == "[user](a)(b)"


def test_parts_are_made_where_a_template_takes_nothing_else() -> None:
    assert render(ITERATED, SYSTEM, USER) == "[system](Be brief.)[user](hi)"
    assert render(EITHER, SYSTEM, USER) == "[system]Be brief.[user]hi"


def test_a_template_that_reads_one_part_gets_one_text() -> None:
    source = EACH + "{{ m.content if m.content is string else m.content[0].text }}" + END
    assert render(source, USER | {"content": parts("a", "b")}) == "ab"


def test_each_role_has_its_own_form() -> None:
    source = (
        EACH + "{% if m.role == 'user' %}{% for p in m.content %}({{ p.text }}){% endfor %}"
        "{% else %}{{ '[' + m.content + ']' }}{% endif %}" + END
    )
    system = SYSTEM | {"content": parts("a", "b")}
    assert render(source, system, USER, ANSWER, USER) == "[ab](hi)[yo](hi)"


@pytest.mark.parametrize(
    "part", ["b", {"type": "input_text", "text": "b"}, {"type": "refusal", "refusal": "b"}]
)
def test_other_parts_that_are_text(part: Any) -> None:
    given = USER | {"content": [{"type": "text", "text": "a", "annotations": None}, part]}
    assert render(SPOKEN, given) == "[user]ab"


@pytest.mark.parametrize("kind", ["image_url", "image", "input_audio", "input_image", "video"])
def test_media_are_refused(kind: str) -> None:
    content = [*parts("a"), {"type": kind, kind: {"url": "x"}}]
    for source in (SPOKEN, EITHER):
        with pytest.raises(ValueError, match=rf"messages\[1\]\.content\[1\] has the type '{kind}'"):
            render(source, USER, USER | {"content": content})


def test_parts_that_are_no_text_need_a_template_that_takes_parts() -> None:
    content = [*parts("a"), {"type": "thinking", "text": "b"}]
    assert render(EITHER, USER | {"content": content}) == "[user](a)(b)"
    with pytest.raises(ValueError, match=r"messages\[0\]\.content\[1\] is .*thinking"):
        render(SPOKEN, USER | {"content": content})


# ---- arguments -----------------------------------------------------------------------------------

ARGUMENTS = {"city": "Röme", "n": [1, None]}
AS_JSON = json.dumps(ARGUMENTS, ensure_ascii=False)
ONLY_OBJECTS = [
    "{{ c.function.arguments | tojson }}",
    "{% for k, v in c.function.arguments | items %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}",
    "{{ c.function.arguments.city }}",
]
ONLY_TEXT = [
    "{{ 'a' + c.function.arguments }}",
    "{{ 'a' ~ c.function.arguments }}",
    "{{ c.function.arguments }}",
    "{{ c.function.arguments.strip() }}",
]
BOTH = (
    "{{ c.function.arguments if c.function.arguments is string"
    " else c.function.arguments | tojson(indent=1) }}"
)


def calling(arguments: str) -> str:
    return EACH + "{{ m.content }}" + CALLS.replace("ARGUMENTS", arguments) + END


@pytest.mark.parametrize("arguments", [*ONLY_OBJECTS, BOTH])
def test_arguments_as_json_text_become_an_object(arguments: str) -> None:
    source = calling(arguments)
    given = render(source, USER, call(json.dumps(ARGUMENTS), content=None), RESULT)
    assert given == render(source, USER, call(ARGUMENTS, content=""), RESULT)
    assert "Röme" in given
    assert '\\"' not in given


@pytest.mark.parametrize("arguments", ONLY_TEXT)
def test_arguments_become_text_where_a_template_writes_them_so(arguments: str) -> None:
    source = calling(arguments)
    assert AS_JSON in render(source, USER, call(ARGUMENTS, content=""))
    assert '{"a":1 }' in render(source, USER, call('{"a":1 }', content=""))  # as it is


@pytest.mark.parametrize("given", [None, ""])
def test_no_arguments_are_an_empty_object(given: str | None) -> None:
    assert render(calling(ONLY_OBJECTS[0]), USER, call(given)) == "hi<now {}>"
    assert render(calling(ONLY_TEXT[0]), USER, call(given)) == "hi<now a{}>"


@pytest.mark.parametrize("given", ["{bad", "[1]", '"a"', "{" * 5000, "1" * 5000])
def test_arguments_that_are_not_json_are_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"messages\[1\]\.tool_calls\[0\]\.function\.arguments is"):
        render(calling(ONLY_OBJECTS[0]), USER, call(given))
    assert given in render(calling(BOTH), USER, call(given))  # a text is right there


def test_control_tokens_within_json_text_stay_text() -> None:
    """Written as they are, or as the surrogates that stand for hidden bytes."""
    for text in ("<|end|>", "".join(f"\\udc{byte:02x}" for byte in b"<|end|>")):
        template = ChatTemplate(calling(ONLY_OBJECTS[0]), TOKENIZER)
        ids = template.encode([USER, call(f'{{"a": "{text}"}}')])
        assert TOKENIZER.vocabulary.ids["<|end|>"] not in ids


# ---- roles ---------------------------------------------------------------------------------------

KNOWN_ROLES = EACH + "{% if m.role in ROLES %}[{{ m.role }}]{{ m.content }}{% endif %}" + END
THREE = KNOWN_ROLES.replace("ROLES", "['system', 'user', 'assistant']")
FOUR = KNOWN_ROLES.replace("ROLES", "['system', 'user', 'assistant', 'developer']")
REFUSES = (
    EACH + "{% if m.role not in ROLES %}{{ raise_exception('no ' + m.role) }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}" + END
)


@pytest.mark.parametrize(
    ("source", "role"),
    [
        (THREE, "system"),
        (REFUSES.replace("ROLES", "['system', 'user', 'assistant']"), "system"),
        (WRITTEN, "system"),  # which knows no role from another
        (FOUR, "developer"),
    ],
)
def test_a_developer_is_the_system_where_a_template_does_not_know_it(
    source: str, role: str
) -> None:
    expected = f"[{role}]Be brief.[user]hi"
    assert render(source, DEVELOPER, USER) == expected
    assert render(source, DEVELOPER | {"content": parts("Be ", "brief.")}, USER) == expected


@pytest.mark.parametrize("system", [SYSTEM, DEVELOPER, SYSTEM | {"content": parts("Be brief.")}])
@pytest.mark.parametrize("source", [REFUSES, KNOWN_ROLES])
def test_a_system_prompt_goes_into_the_first_question_where_it_must(
    source: str, system: dict[str, Any]
) -> None:
    source = source.replace("ROLES", "['user', 'assistant']")
    both = "[user]Be brief.\nhi"
    assert render(source, system, USER) == both
    assert render(source, system, USER, ANSWER, USER) == both + "[assistant]yo[user]hi"
    assert render(source, system, USER | {"content": parts("hi")}) == both
    assert render(source, system) == "[user]Be brief."


def test_a_template_without_anything_to_say_gets_the_messages_as_they_are() -> None:
    source = "{{ raise_exception('no') if not key }}" + WRITTEN
    assert render(source, DEVELOPER, USER, key=1) == "[developer]Be brief.[user]hi"
    with pytest.raises(TemplateError, match="refuses the messages: no"):
        render(source, USER)


# ---- what is left out ----------------------------------------------------------------------------


def test_what_a_template_leaves_out_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="the chat template leaves out the tools"):
        render(WRITTEN, USER, tools=TOOLS)
    with pytest.warns(UserWarning, match=r"messages\[1\], of role 'ipython', is left out"):
        render(THREE, USER, {"role": "ipython", "content": "1"})
    with pytest.warns(UserWarning, match=r"messages\[2\], of role 'system', is left out"):
        render(KNOWN_ROLES.replace("ROLES", "['user', 'assistant']"), USER, ANSWER, SYSTEM, USER)
    with pytest.warns(UserWarning, match=r"messages\[1\]\.tool_calls are left out"):
        render(WRITTEN, USER, call({"a": 1}, content=""))


def test_a_second_system_prompt_is_not_lost() -> None:
    source = (
        "{% if messages[0].role == 'system' %}<{{ messages[0].content }}>{% endif %}"
        + KNOWN_ROLES.replace("ROLES", "['user']")
    )
    assert render(source, SYSTEM, USER) == "<Be brief.>[user]hi"
    with pytest.warns(UserWarning, match=r"messages\[1\], of role 'system', is left out"):
        render(source, SYSTEM, SYSTEM, USER)


# ---- answers of a client library, reasoning, tools -----------------------------------------------


class Model:
    """As pydantic's are."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self._fields


def test_objects_of_a_client_library_are_messages() -> None:
    function = Model(name="now", arguments='{"a": 1}')
    answer = Model(role="assistant", content=None, tool_calls=[Model(id=ID, function=function)])
    assert render(calling(ONLY_OBJECTS[0]), USER, answer) == 'hi<now {"a": 1}>'


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_has_many_names(key: str) -> None:
    source = EACH + "{{ m.content }}{{ m.reasoning_content }}{{ m.thinking }}" + END
    assert render(source, USER, ANSWER | {key: "hm"}) == "hiyohmhm"


def test_no_tools_are_what_a_template_takes_for_none() -> None:
    looped = "{% for t in tools %}{{ t.function.name }}{% endfor %}" + WRITTEN
    assert render(looped, USER) == "[user]hi"
    assert render(looped, USER, tools=TOOLS) == "now[user]hi"
    assert render(looped, DEVELOPER | {"content": parts("a", "b")}, USER) == "[system]ab[user]hi"
    assert render("{{ tools is none }}" + WRITTEN, USER) == "True[user]hi"


def test_named_templates() -> None:
    key = "tokenizer.chat_template"
    metadata: dict[str, object] = {
        key: "PLAIN " + WRITTEN,
        f"{key}.tool_use": "TOOLS {{ tools | tojson }}" + WRITTEN,
        f"{key}.rag": "RAG {{ documents }}" + WRITTEN,
    }
    template = ChatTemplate.from_metadata(metadata, TOKENIZER)
    assert template.render([USER]) == "PLAIN [user]hi"
    assert template.render([USER], tools=[]) == "PLAIN [user]hi"
    assert template.render([USER], tools=TOOLS) == f"TOOLS {json.dumps(TOOLS)}[user]hi"
    assert template.render([USER], documents=[{"a": 1}]) == "RAG [{'a': 1}][user]hi"
    template.close()
    metadata[f"{key}.tool_use"] = "{{"
    template = ChatTemplate.from_metadata(metadata, TOKENIZER)
    with pytest.raises(TemplateError, match=rf"{key}.tool_use is malformed"):
        template.render([USER], tools=TOOLS)
    del metadata[key]
    metadata[f"{key}.tool_use"] = WRITTEN
    assert ChatTemplate.from_metadata(metadata, TOKENIZER).render([USER]) == "[user]hi"


# ---- well-formed messages ------------------------------------------------------------------------


@pytest.mark.parametrize("source", [WRITTEN, SPOKEN, EITHER, THREE, calling(ONLY_OBJECTS[0])])
def test_messages_in_shape_go_through_as_they_are(source: str) -> None:
    messages = [SYSTEM, USER, ANSWER, USER, call({"a": 1}, content=""), RESULT, ANSWER, USER]
    seen: list[Any] = []

    def attempts(many: Any) -> list[str | None]:
        seen.extend(many)
        return template._attempts(many)

    template = ChatTemplate(source, TOKENIZER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not every one of them writes calls
        for abilities in template._abilities.values():
            abilities._attempts = attempts
            assert expected_messages(messages, abilities, template._history) == messages
            n_attempts = len(seen)
            assert expected_messages(messages, abilities, template._history) == messages
            assert n_attempts == len(seen) > 0  # it is asked once


# ---- control tokens in the history ---------------------------------------------------------------

CUT = EACH + "{{ m.role }}:{{ m.content.split('</think>')[-1].lstrip() }}<|end|>" + END


def test_reasoning_is_cut_off_though_its_end_is_a_control_token() -> None:
    template = ChatTemplate(CUT, TOKENIZER)
    history = [USER, ANSWER | {"content": "why\n</think>\n\nyo"}, USER]
    assert template.render(history) == "user:hi<|end|>assistant:yo<|end|>user:hi<|end|>"
    assert template.encode(history) == template.encode([USER, ANSWER, USER])


def test_a_token_that_is_left_in_an_answer_stays_text() -> None:
    template = ChatTemplate(CUT, TOKENIZER)
    with pytest.warns(UserWarning, match="messages spell control tokens"):
        ids = template.encode([USER, ANSWER | {"content": "why</think>yo<|end|>"}, USER])
    assert ids.count(TOKENIZER.vocabulary.ids["<|end|>"]) == 3


def test_a_template_that_refuses_control_tokens_finds_them() -> None:
    source = EACH + "{% if '<|end|>' in m.content %}{{ raise_exception('no') }}{% endif %}" + END
    with pytest.raises(TemplateError, match="refuses the messages: no"):
        ChatTemplate(source + WRITTEN, TOKENIZER).render([ANSWER | {"content": "a<|end|>"}])
