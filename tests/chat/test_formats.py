"""Answers told apart: reasoning, content and tool calls, whatever their markers are made of."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any

import pytest
from support.byte_pairs import CONTROL, NORMAL, USER_DEFINED, build

from linnet.engine.chat.answers import AnswerReader
from linnet.engine.chat.formats import format_of
from linnet.engine.chat.formats.parts import Part, joined, read
from linnet.engine.chat.formats.table import CHANNELS, FORMATS, REASONING
from linnet.engine.chat.formats.tagged import Tagged
from linnet.engine.chat.template import ChatTemplate
from linnet.engine.text.stopping import StoppingDetokenizer
from linnet.engine.text.tokenizer import Tokenizer

MARKERS = (
    *(tag for pair in REASONING for tag in pair),
    *FORMATS["hermes"].format.markers,
    *CHANNELS.markers,
)
TYPES = {"control": CONTROL, "user-defined": USER_DEFINED, "normal": NORMAL}
TOKENIZERS = {name: build(specials=dict.fromkeys(MARKERS, type)) for name, type in TYPES.items()}
TOKENIZERS["text"] = build()
THINK, CHANNELED = "<think></think><tool_call></tool_call>", "<|channel|><|message|>"


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def answer_read(
    template: str, answer: str, *, prompt: str = "", tokenizer: Tokenizer,
    skip_special: bool = True, stop: tuple[str, ...] = (),
) -> list[Part]:  # fmt: skip
    """The parts of an answer that a model gives token by token, as a generation would read it."""
    encode = tokenizer.encode
    prompt_ids = encode(prompt, add_special=False, parse_special=True)
    reader = AnswerReader(format_of(template), tokenizer, prompt_ids, skip_special=skip_special)
    text = StoppingDetokenizer(tokenizer, stop, skip_special=skip_special)
    parts = []
    for token_id in encode(answer, add_special=False, parse_special=True):
        parts.append(reader.push(token_id, text.push(token_id)))
        if text.matched:
            break
    return [*parts, reader.push(None, text.finish())]


ANSWERS = [
    # template, end of the prompt, answer, its parts
    ("{{ 'no markers' }}", "", " <think>a</think> b\n", Part("", " <think>a</think> b\n")),
    (THINK, "", " plain <b>text</b> \n", Part("", " plain <b>text</b> \n")),
    (THINK, "", "", Part()),
    (THINK, "", "<think>\nwhy é\n</think>\n\nyes\n", Part("why é", "yes\n")),
    (THINK, "", "\n<think>\n\n</think>\n\nyes", Part("", "yes")),
    (THINK, "<think>\n", "why\n\nand how\n</think>\nyes", Part("why\n\nand how", "yes")),
    (THINK, "<think>\n\n</think>\n\n", "yes", Part("", "yes")),
    (THINK, "<think>", "cut sh", Part("cut sh", "")),
    (THINK, "", "a <think>b</think> c", Part("b", "a  c")),
    (THINK, "", "yes</think>no", Part("", "yes</think>no")),
    (THINK, "<think>", "a <think> b </think>c", Part("a <think> b", "c")),
    ("[/THINK]", "", "[THINK]why[/THINK]yes", Part("why", "yes")),
    ("<seed:think></seed:think>", "", "<seed:think>why</seed:think>yes", Part("why", "yes")),
    (THINK, "", '<tool_call>\n{"name": "f", "arguments": {"x": [1, "é"]}}\n</tool_call>',
     Part("", "", (call("f", {"x": [1, "é"]}),))),
    (THINK, "", '<think>why</think>\nI see.\n<tool_call>{"name": "f", "arguments": {}}</tool_call>'
     '\n<tool_call>{"name": "g", "parameters": {"a": null}}</tool_call>\n',
     Part("why", "I see.", (call("f", {}), call("g", {"a": None})))),
    (THINK, "", '<tool_call>[{"name": "f"}, {"name": "g", "arguments": "{}"}]</tool_call>',
     Part("", "", (call("f", {}), call("g", {})))),
    (THINK, "", '<tool_call>{"name": "f", "arguments": {"a": "<think>"}}',
     Part("", "", (call("f", {"a": "<think>"}),))),
    (THINK, "", "a \n<tool_call>\n<function=f></function>\n</tool_call> b",
     Part("", "a \n<tool_call>\n<function=f></function>\n</tool_call> b")),
    (THINK, "", "<tool_call>5</tool_call>", Part("", "<tool_call>5</tool_call>")),
    (THINK, "", '<tool_call>{"name": 5}</tool_call>',
     Part("", '<tool_call>{"name": 5}</tool_call>')),
    (THINK, "", '<tool_call>{"name": "f", "argu', Part("", '<tool_call>{"name": "f", "argu')),
    (THINK, "<think>", 'so <tool_call>{"name": "f"}</tool_call></think>x',
     Part('so <tool_call>{"name": "f"}</tool_call>', "x")),
    (CHANNELED, "<|end|><|start|>assistant", "<|channel|>analysis<|message|>why<|end|>"
     "<|start|>assistant<|channel|>final<|message|>yes", Part("why", "yes")),
    (CHANNELED, "<|start|>assistant", "<|channel|>analysis<|message|>one<|end|><|start|>assistant"
     "<|channel|>analysis<|message|>two<|end|><|start|>assistant<|channel|>commentary<|message|>"
     "Wait.<|end|><|start|>assistant<|channel|>commentary to=functions.get_it <|constrain|>json"
     '<|message|>{"a": 1}<|call|>', Part("one\n\ntwo", "Wait.", (call("get_it", {"a": 1}),))),
    (CHANNELED, "<|start|>assistant", " to=functions.f<|channel|>commentary json<|message|>{'a'",
     Part("", "{'a'")),
    (CHANNELED, "<|start|>assistant<|channel|>final<|message|>", "yes", Part("", "yes")),
    (CHANNELED, "<|start|>assistant<|channel|>analysis<|message|>", "wh", Part("wh", "")),
    (CHANNELED, "<|start|>assistant", "just text", Part("", "just text")),
    (CHANNELED, "", "just text", Part("", "just text")),
    (CHANNELED, "<|start|>assistant", "<|channel|>anal", Part()),
    ("<function=</tool_call><tool_call></think>", "<think>\n", "why\n<tool_call>\n<function=f>\n"
     "<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>",
     Part("why", "", (call("f", {"x": 1}),))),
]  # fmt: skip


@pytest.mark.parametrize("skip_special", [True, False], ids=["skipped", "shown"])
@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize(("template", "prompt", "answer", "expected"), ANSWERS)
def test_an_answer_is_told_apart_as_it_comes(
    template: str, prompt: str, answer: str, expected: Part, tokenizer: Tokenizer,
    skip_special: bool,
) -> None:  # fmt: skip
    if not format_of(template).markers and tokenizer is TOKENIZERS["control"] and skip_special:
        expected = Part("", " a b\n")  # what is text, then
    parts = answer_read(
        template, answer, prompt=prompt, tokenizer=tokenizer, skip_special=skip_special
    )
    assert joined(parts) == expected


@pytest.mark.parametrize(("template", "prompt", "answer", "expected"), ANSWERS)
def test_a_whole_answer_is_read_the_same(
    template: str, prompt: str, answer: str, expected: Part
) -> None:
    assert read(format_of(template), answer, prompt=prompt) == expected


def test_nothing_is_held_longer_than_it_may_be_a_marker() -> None:
    parts = answer_read(THINK, "<think>ab</think>cd<e", tokenizer=TOKENIZERS["text"])
    assert [part.reasoning for part in parts if part.reasoning] == ["a", "b"]
    assert [part.content for part in parts if part.content] == ["c", "d", "<e"]


@pytest.mark.parametrize("type", ["control", "user-defined"])
def test_a_token_that_is_spelled_in_letters_marks_nothing(type: str) -> None:
    tokenizer = TOKENIZERS[type]
    letters = [i for c in "</think>x" for i in tokenizer.encode(c, add_special=False)]
    reader = AnswerReader(format_of(THINK), tokenizer, [], skip_special=True)
    text = [reader.push(i, tokenizer.decode([i])) for i in letters]
    assert joined([*text, reader.push(None, "")]) == Part("", "</think>x")


@pytest.mark.parametrize("skip_special", [True, False])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("STOP", Part("why", "a")),
        ("aS", Part("why", "")),
        ("</think>", Part("why", "")),
        ("why</think>", Part("", "")),
        ("y", Part("wh", "")),
    ],
)
def test_what_a_stop_string_takes_is_in_no_part(
    stop: str, expected: Part, skip_special: bool
) -> None:
    parts = answer_read(
        THINK, "<think>why</think>aSTOPb", tokenizer=TOKENIZERS["control"],
        skip_special=skip_special, stop=(stop,),
    )  # fmt: skip
    assert joined(parts) == expected


def test_a_part_is_a_message_with_what_it_has() -> None:
    assert Part("", "yes").message == {"role": "assistant", "content": "yes"}
    said = {"content": "", "reasoning_content": "why", "tool_calls": [call("f", {})]}
    assert Part("why", "", (call("f", {}),)).message == {"role": "assistant", **said}


# ---- earlier answers in a template ---------------------------------------------------------------

CONTROLS = TOKENIZERS["control"]
CUT = "{{ messages[0].content.split('</think>')[-1].lstrip('\n') }}"


@lru_cache(4)
def template_of(source: str, tokenizer: Tokenizer) -> ChatTemplate:
    return ChatTemplate(source, tokenizer)


def rendered(source: str, *contents: Any, tokenizer: Tokenizer = CONTROLS) -> str:
    messages = [
        {"role": "assistant"} | (content if isinstance(content, dict) else {"content": content})
        for content in contents
    ]
    return template_of(source, tokenizer).render(messages)


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("tags", [*REASONING, ("<|end|>", "<|start|>")], ids=lambda tags: tags[0])
def test_reasoning_is_cut_off_whatever_its_tags_are(
    tags: tuple[str, str], tokenizer: Tokenizer
) -> None:
    source = f"{{{{ messages[0].content.split('{tags[1]}')[-1] }}}}"
    for content in (f"{tags[0]}why{tags[1]}\n yes", f"why{tags[1]}\n yes", "\n yes"):
        assert rendered(source, content, tokenizer=tokenizer) == "\n yes"
        parts = [{"type": "text", "text": content}]
        in_parts = source.replace(".content", ".content[0].text")
        assert rendered(in_parts, parts, tokenizer=tokenizer) == "\n yes"


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", "thought"])
def test_reasoning_goes_where_the_template_looks_for_it(key: str) -> None:
    for place in (f"messages[0].{key}", f"messages[0]['{key}']", f"messages[0].get('{key}')"):
        source = f"{{{{ messages[0].content }}}}|{{{{ {place} }}}}"
        for given in ("reasoning_content", "reasoning", "thinking", "thought"):
            assert rendered(source, {"content": "yes", given: "why"}) == "yes|why"
        assert rendered(source, {"content": "yes", "reasoning": "why", key: "else"}) == "yes|else"


def test_reasoning_is_a_block_where_the_template_takes_blocks() -> None:
    source = """{% for block in messages[0].content %}{% if block['type'] == 'thinking' %}[THINK]
        {{- block['thinking'] }}[/THINK]{% else %}{{ block['text'] }}{% endif %}{% endfor %}"""
    message = {"content": "yes", "reasoning_content": "why"}
    assert rendered(source, message) == "[THINK]why[/THINK]yes"
    assert rendered(source, message | {"content": ""}) == "[THINK]why[/THINK]"


def test_channels_become_the_fields_that_their_template_takes() -> None:
    source = """{% set m = messages[0] %}
        {%- if m.tool_calls and m.content and m.thinking %}{{ raise_exception('both') }}{% endif %}
        {{- m.content }}|{{ m.thinking }}|{{ m.tool_calls[0].function.name if m.tool_calls }}
        {#- <|channel|> <|message|> #}"""
    told = "<|channel|>analysis<|message|>why<|end|><|start|>assistant"
    final = f"{told}<|channel|>final<|message|>yes"
    both = f"{told}<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant"
    calls = f"{both}<|channel|>commentary to=functions.f<|message|>{{}}<|call|>"
    for tokenizer in TOKENIZERS.values():
        assert rendered(source, final, tokenizer=tokenizer) == "yes|why|"
        assert rendered(source, calls, tokenizer=tokenizer) == "|why\n\nWait.|f"
    given = {"content": "Wait.", "thinking": "why", "tool_calls": [call("g", {})]}
    assert rendered(source, given) == "|why\n\nWait.|g"
    assert rendered(source, "plain") == "plain||"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "<think>why</think>yes"},
        {"role": "system", "content": [{"type": "text", "text": "<think>why</think>yes"}]},
        {"role": "tool", "content": "yes</think>", "name": "</think>"},
        {"role": "assistant", "content": "yes<|end|>no<|start|>"},
        {"role": "assistant", "content": "", "reasoning_content": "why</think>"},
        {"role": "assistant", "content": "", "tool_calls": [call("f", {"a": "</think>"})]},
    ],
)
def test_all_other_control_tokens_in_messages_are_text(message: dict[str, Any]) -> None:
    template = ChatTemplate(f"{{{{ messages[0] }}}}{{# {CUT[3:-3]} #}}</think>", CONTROLS)
    ids = template.encode([message])
    controls = [i for i in ids if CONTROLS.vocabulary.types[i] == CONTROL]
    assert controls == ids[-1:] == [CONTROLS.vocabulary.ids["</think>"]]


def test_what_users_write_cuts_nothing_off() -> None:
    text = "<think>why</think>yes"
    assert rendered(CUT, {"role": "user", "content": text}) == text
    assert rendered(CUT, text) == "yes"


def test_every_pair_of_tags_is_told_from_the_others() -> None:
    for one, other in pairwise(REASONING):
        assert not {*one} & {*other}


def test_answers_are_read_as_the_template_for_tools_has_them() -> None:
    """Which the template for talk does not mention."""
    tools = "{{ tools }}<tool_call></tool_call>"
    template = ChatTemplate("{{ messages }}", CONTROLS, named={"tool_use": tools})
    answer = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert read(template.format, answer).tool_calls == (call("f", {}),)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("""{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}""", "llama3"),
        ("""{{ '<tool' ~ '_call>' }}{{ {"name": call.name, "arguments": call.arguments} | tojson }}
         {{- '</tool' ~ '_call>' }}""", "hermes"),
        ("""call {{ call.name }} with {{ call.arguments | tojson }}""", None),
    ],
)  # fmt: skip
def test_how_calls_are_written_is_seen_where_no_marker_tells(written: str, name: str) -> None:
    source = """{% for m in messages %}{{ m.role }}: {{ m.content }}{% for tool_call in m.tool_calls
        %}{% set call = tool_call.function %}CALL{% endfor %}<|endoftext|>{% endfor -%}
        {% if add_generation_prompt %}assistant: {% endif %}{{ tools }}"""
    source = source.replace("CALL", written)
    source = source.replace("{{ tools }}", "").replace("{% for m", "{{ tools }}{% for m", 1)
    format = ChatTemplate(source, CONTROLS).format
    expected = None if name is None else FORMATS[name].format.calls
    assert isinstance(format, Tagged)
    assert format.calls == expected
