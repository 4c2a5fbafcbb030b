"""Prompts by chat templates against those of transformers, for messages as clients send them.

    python scripts/compare_templates.py FOLDER --python VENV/bin/python [--show]

renders conversations of many shapes by every template (*.jinja) in FOLDER and prints a table of how
many prompts are those that transformers gives for the same conversation put right. What is right is
tried in the order of `candidates`: the first that transformers renders without losing a word, and
without Python's writing of lists and dicts. VENV needs `pip install transformers`; --show prints
the prompts that differ.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from comparing import table  # noqa: E402
from support.byte_pairs import END, build  # noqa: E402

from linnet.engine.chat.template import ChatTemplate  # noqa: E402

THEIRS = """
import json, sys
from transformers.utils.chat_template_utils import render_jinja_template
def prompt(template, messages, tools):
    for tools in [tools] if tools else [None, []]:  # some take no None
        try:
            return render_jinja_template(
                [messages], tools=tools, chat_template=template, add_generation_prompt=True,
                bos_token=sys.argv[1], eos_token=sys.argv[1],
            )[0][0]
        except Exception:
            pass
    return None
json.dump([prompt(*each) for each in json.load(open(sys.argv[2]))], open(sys.argv[3], "w"))
"""
# What no prompt should hold: a part or arguments as Python or JSON writes the whole of it.
SPOILED = re.compile(r"""text\\*['"]\s*:\s*\\*['"]\w*Zq|'city'\s*:\s*'Zq|\\+"city\\+"|\bNone\b""")
TOOL = {
    "type": "function",
    "function": {
        "name": "weatherZq",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Where?"}},
            "required": ["city"],
        },
    },
}
Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Shape:
    """A conversation as a client sends it."""

    name: str
    messages: Messages
    tools: list[Any] | None = None


def parts(text: str) -> list[dict[str, str]]:
    """The text in two parts, cut at its space."""
    at = text.index(" ")
    return [{"type": "text", "text": piece} for piece in (text[:at], text[at:])]


def message(role: str, text: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text} | more


def calling(arguments: Any, content: Any = "", **more: Any) -> dict[str, Any]:
    function = {"name": "weatherZq", "arguments": arguments}
    call = {"id": "abc123def", "type": "function", "function": function}
    return message("assistant", content, tool_calls=[call], **more)


SYSTEM, USER, ANSWER = (
    message("system", "BriefZq beZq"),
    message("user", "HelloZq thereZq"),
    message("assistant", "GoodZq dayZq"),
)
RESULT = message("tool", "sunnyZq nowZq", tool_call_id="abc123def", name="weatherZq")
CITY = {"city": "ZqRome"}
CITY_TEXT = '{"city": "ZqRome"}'
SDK = dict.fromkeys(("refusal", "annotations", "audio", "function_call"))
SHAPES = (
    Shape("question", [USER]),
    Shape("three turns", [USER, ANSWER, USER]),
    Shape("system prompt", [SYSTEM, USER]),
    Shape("tools", [USER], [TOOL]),
    Shape("call", [USER, calling(CITY)], [TOOL]),
    Shape("call and result", [USER, calling(CITY), RESULT], [TOOL]),
    Shape("answer with keys of None", [USER, ANSWER | SDK | {"tool_calls": None}, USER]),
    Shape("call with content None", [USER, calling(CITY, None, **SDK), RESULT], [TOOL]),
    Shape("question in parts", [message("user", parts("HelloZq thereZq"))]),
    Shape("system prompt in parts", [message("system", parts("BriefZq beZq")), USER]),
    Shape("answer in parts", [USER, message("assistant", parts("GoodZq dayZq")), USER]),
    Shape(
        "result in parts",
        [USER, calling(CITY), RESULT | {"content": parts("sunnyZq nowZq")}],
        [TOOL],
    ),
    Shape("arguments as JSON text", [USER, calling(CITY_TEXT), RESULT], [TOOL]),
    Shape("developer", [message("developer", "BriefZq beZq"), USER]),
    Shape(
        "all of it",
        [
            message("developer", parts("BriefZq beZq"), name=None),
            message("user", parts("HelloZq thereZq")),
            calling(CITY_TEXT, None, **SDK),
            RESULT | {"content": parts("sunnyZq nowZq")},
        ],
        [TOOL],
    ),
)


# ---- the same, put right -------------------------------------------------------------------------


def candidates(messages: Messages, *, knows_developer: bool) -> Iterator[Messages]:
    """The conversation in every form that a template may be written for, the best first."""
    cleaned = [
        {key: value for key, value in each.items() if value is not None} for each in messages
    ]
    for roles in with_roles(cleaned, knows_developer=knows_developer):
        for arguments in (json.loads, str):
            called = with_arguments(roles, arguments)
            for shaped in with_contents(called):
                yield from with_empty(shaped)


def with_roles(messages: Messages, *, knows_developer: bool) -> Iterator[Messages]:
    first, rest = messages[0], messages[1:]
    if first["role"] == "developer" and not knows_developer:
        first = {**first, "role": "system"}
    yield [first, *rest]
    if first["role"] == "system":
        contents = [joined(each["content"]) for each in (first, rest[0])]
        yield [{**rest[0], "content": "\n".join(contents)}, *rest[1:]]


def with_arguments(messages: Messages, read: Any) -> Messages:
    messages = copy.deepcopy(messages)
    for each in messages:
        for call in each.get("tool_calls", ()):
            given = call["function"]["arguments"]
            text = given if isinstance(given, str) else json.dumps(given)
            call["function"]["arguments"] = read(text)
    return messages


def with_contents(messages: Messages) -> Iterator[Messages]:
    """Lists of parts kept for the roles that can have them, joined for others, and made."""
    roles = sorted({each["role"] for each in messages if isinstance(each.get("content"), list)})
    for bits in range(1 << len(roles)):
        join = {role for i, role in enumerate(roles) if bits >> i & 1}
        yield [
            {**each, "content": joined(each["content"])} if each["role"] in join else each
            for each in messages
        ]
    yield [
        {**each, "content": made(each["content"])} if each.get("content") else each
        for each in messages
    ]


def with_empty(messages: Messages) -> Iterator[Messages]:
    yield messages
    if any("tool_calls" in each for each in messages):
        for content in ("", None):
            yield [
                {**each, "content": content}
                if "tool_calls" in each and not each.get("content")
                else each
                for each in messages
            ]


def joined(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def made(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


# ---- theirs and ours -----------------------------------------------------------------------------


def theirs(python: str, requests: Sequence[tuple[str, Messages, Any]]) -> list[str | None]:
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "asked.json"), Path(folder, "answered.json")
        asked.write_text(json.dumps(requests))
        subprocess.run([python, "-c", THEIRS, END, str(asked), str(answered)], check=True)
        prompts: list[str | None] = json.loads(answered.read_text())
        return prompts


def knows_developer(python: str, sources: Sequence[str]) -> list[bool]:
    """Whether the role is more to a template than a role that nobody has heard of."""
    roles = "developer", "zqrole"
    requests = [(source, [message(r, "BriefZq"), USER], None) for source in sources for r in roles]
    prompts = theirs(python, requests)
    return [
        known is not None
        and "BriefZq" in known
        and (unknown is None or unknown.replace("zqrole", "developer") != known)
        for known, unknown in zip(prompts[::2], prompts[1::2], strict=True)
    ]


def right_prompt(shape: Shape, prompts: Sequence[str | None]) -> str | None:
    """The first of those that spoil nothing and lose the least; None if all of them are spoiled."""
    words = set(re.findall(r"\w*Zq\w*", json.dumps([shape.messages, shape.tools])))
    there = [prompt for prompt in prompts if prompt is not None]
    if not there:
        return None
    spoils = [len(SPOILED.findall(prompt)) for prompt in there]
    rest = [prompt for prompt, n in zip(there, spoils, strict=True) if n == min(spoils)]
    return max(rest, key=lambda prompt: sum(word in prompt for word in words))


def ours(template: ChatTemplate, shape: Shape) -> tuple[str, str]:
    """The prompt, or the error, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            prompt = template.render(shape.messages, tools=shape.tools)
        except ValueError as error:
            prompt = f"{type(error).__name__}: {error}"
    return prompt, "; ".join(str(warning.message) for warning in caught)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", required=True, help="a Python that has transformers")
    parser.add_argument("--show", action="store_true", help="print the prompts that differ")
    arguments = parser.parse_args()
    sources = {path.stem: path.read_text() for path in sorted(arguments.folder.glob("*.jinja"))}
    known = dict(
        zip(sources, knows_developer(arguments.python, list(sources.values())), strict=True)
    )
    cases = [
        (name, shape, list(candidates(shape.messages, knows_developer=known[name])))
        for name in sources
        for shape in SHAPES
    ]
    requests = [
        (sources[name], messages, shape.tools) for name, shape, many in cases for messages in many
    ]
    prompts = iter(theirs(arguments.python, requests))
    equal = dict.fromkeys((shape.name for shape in SHAPES), 0)
    refused, different = dict(equal), dict(equal)
    tokenizer = build()
    templates = {name: ChatTemplate(source, tokenizer) for name, source in sources.items()}
    for name, shape, many in cases:
        right = right_prompt(shape, [next(prompts) for _ in many])
        prompt, warned = ours(templates[name], shape)
        count = refused if right is None else equal if prompt == right else different
        count[shape.name] += 1
        if count is different:
            print(f"{name}: {shape.name}" + f" (warned: {warned})" * bool(warned))
            if arguments.show:
                print(f"  right: {right!r}\n  ours:  {prompt!r}")
    rows = [[key, str(equal[key]), str(different[key]), str(refused[key])] for key in equal]
    total = [sum(count.values()) for count in (equal, different, refused)]
    rows.append(["together", *map(str, total)])
    print(table(["messages", "equal", "different", "transformers has none"], rows))
    share = total[0] / (total[0] + total[1])
    print(f"{share:.1%} of {total[0] + total[1]} prompts are equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
