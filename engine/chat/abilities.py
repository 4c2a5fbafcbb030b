"""What a chat template makes of messages, found by giving it made-up ones.

A question is asked once for a template, when messages first need the answer: conversations that
differ in one thing are rendered, and their words looked for in the prompts. A template that renders
none of them has no answer, and nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Message = Mapping[str, Any]
Attempts = Callable[[Sequence[Mapping[str, Any]]], list[str | None]]

LEADING, SECOND, LATER = "leading", "second", "later"  # places; second: after a system prompt
TEXT, PARTS = "text", "parts"  # forms of content
OBJECT, JSON_TEXT = "object", "JSON text"  # forms of a call's arguments
ABSENT: Final = object()  # content that is not there
MOST_ANSWERS: Final = 64  # that are kept

_WORDS: Final = "qzwords", "qzmore"
CALLED: Final = "qzname"
_KEY, _VALUE, _NAME, _UNKNOWN_ROLE = "qzkey", "qzvalue", CALLED, "qzrole"
_CALL_ID: Final = "qzcall123"  # nine letters and digits, as some insist
_QUESTION: Final[Message] = {"role": "user", "content": "qzquestion"}
_ANSWER: Final[Message] = {"role": "assistant", "content": "qzanswer"}
_SYSTEM: Final[Message] = {"role": "system", "content": "qzsystem"}
_RESULT: Final[Message] = {
    "role": "tool",
    "content": "qzresult",
    "tool_call_id": _CALL_ID,
    "name": _NAME,
}
_CONTENTS: Final = {
    TEXT: "".join(_WORDS),
    PARTS: [{"type": "text", "text": word} for word in _WORDS],
}
_ARGUMENTS: Final = {OBJECT: {_KEY: _VALUE}, JSON_TEXT: f'{{"{_KEY}": "{_VALUE}"}}'}
_TOOLS: Final[list[Any]] = [
    {
        "type": "function",
        "function": {
            "name": "qztool",
            "description": "qzdescription",
            "parameters": {
                "type": "object",
                "properties": {"qzproperty": {"type": "string", "description": "qzmeaning"}},
                "required": ["qzproperty"],
            },
        },
    }
]
# Python's or JSON's own writing of a list of parts, of an object, and of a text in quotes.
_WRITTEN_PARTS: Final = re.compile(rf"""text\\*['"]\s*:\s*\\*['"]{_WORDS[0]}""")
_WRITTEN_OBJECT: Final = re.compile(rf"'{_KEY}'\s*:\s*'{_VALUE}'")
_QUOTED_TEXT: Final = re.compile(rf'\\+(u0022|"){_KEY}')
_SPOILED: Final = {OBJECT: _WRITTEN_OBJECT, JSON_TEXT: _QUOTED_TEXT}


@dataclass(frozen=True, slots=True)
class Answer:
    """`forms`: those that a template writes best, in order of ours; `rendered`: those it renders,
    whether it writes what was asked about or not."""

    forms: tuple[Any, ...]
    rendered: tuple[Any, ...]

    @property
    def drops(self) -> bool:
        """Whether the template renders, and leaves out what was asked about."""
        return bool(self.rendered) and not self.forms


class Abilities:
    """Answers about one template, given tools or not: some write messages otherwise beside them."""

    def __init__(self, attempts: Attempts, *, beside_tools: bool) -> None:
        """`attempts`: renders values, each to a text or None: see `SandboxedTemplate.attempts`."""
        self._attempts = attempts
        self._beside_tools = beside_tools
        self._answers: dict[Any, Any] = {}

    def content(self, role: str, place: str) -> Answer:
        """Which of TEXT and PARTS a message's content can be."""

        def shown(_: str, prompt: str) -> int:
            return all(word in prompt for word in _WORDS) and not _WRITTEN_PARTS.search(prompt)

        contents = {
            form: self._around({"role": role, "content": content}, place)
            for form, content in _CONTENTS.items()
        }
        return self._answer(("content", role, place), contents, shown)

    def no_content(self, role: str, place: str) -> Answer:
        """How a message without content and calls is written: ABSENT or ""."""
        contents = {
            content: self._around(_with_content({"role": role}, content), place)
            for content in (ABSENT, "")
        }
        return self._answer(("no content", role, place), contents, lambda *_: True)

    def calls(self, *, beside_text: bool = False) -> Answer:
        """How an answer that calls tools is written, as pairs: its arguments as an OBJECT or as
        JSON_TEXT, and its content, for want of one, as ABSENT, "" or None. With `beside_text`, it
        has content, which is TEXT."""
        contents = (_CONTENTS[TEXT],) if beside_text else (ABSENT, "", None)
        asked = {
            (form, content): [_QUESTION, _with_content(_calling(arguments), content)]
            for form, arguments in _ARGUMENTS.items()
            for content in contents
        }
        conversations = {pair: [messages, [*messages, _RESULT]] for pair, messages in asked.items()}

        def shown(pair: tuple[str, Any], prompt: str) -> int:
            form, content = pair
            if _SPOILED[form].search(prompt) or (beside_text and content not in prompt):
                return 0
            return sum(word in prompt for word in (_NAME, _KEY, _VALUE))

        return self._answer(("calls", beside_text), conversations, shown)

    def written_call(self) -> str:
        """What the template writes for an answer that calls CALLED, from where an answer begins;
        "" where that does not show."""

        def find() -> str:
            forms = self.calls().forms
            if not forms:
                return ""
            arguments, content = forms[0]
            answer = _with_content(_calling(_ARGUMENTS[arguments]), content)
            tools = self._given_tools()
            asked, answered = self._attempts(
                [
                    {"messages": [_QUESTION], "tools": tools},
                    {
                        "messages": [_QUESTION, answer],
                        "tools": tools,
                        "add_generation_prompt": False,
                    },
                ]
            )
            if not asked or not answered or not answered.startswith(asked):
                return ""
            return answered[len(asked) :]

        found: str = self._kept("written call", find)
        return found

    def writes_tools(self) -> bool:
        """Whether tools are in the prompt, as far as is known."""
        asked = {True: [[_QUESTION], [_SYSTEM, _QUESTION]]}
        return not self._answer("tools", asked, lambda _, prompt: "qztool" in prompt).drops

    def without_tools(self) -> list[Any] | None:
        """What `tools` is where there are none: None, or [] where the template fails for that."""

        def find() -> list[Any] | None:
            question: dict[str, Any] = {"messages": [_QUESTION]}
            none, empty = self._attempts([question | {"tools": None}, question | {"tools": []}])
            return [] if none is None and empty is not None else None

        found: list[Any] | None = self._kept("no tools", find)
        return found

    def knows_developer(self) -> bool:
        """Whether the role "developer" is more to the template than a role of any other name."""

        def find() -> bool:
            roles = "developer", _UNKNOWN_ROLE
            messages = [[{"role": role, "content": _WORDS[0]}, _QUESTION] for role in roles]
            known, unknown = self._attempts(
                [{"messages": given, "tools": self._given_tools()} for given in messages]
            )
            if known is None or _WORDS[0] not in known:
                return False
            return unknown is None or unknown.replace(_UNKNOWN_ROLE, "developer") != known

        return bool(self._kept("developer", find))

    def _given_tools(self) -> list[Any] | None:
        return _TOOLS if self._beside_tools else self.without_tools()

    def _around(self, message: Message, place: str) -> list[list[Message]]:
        """The shortest conversation with the message in its place."""
        role = message["role"]
        before: list[Message] = []
        if place == SECOND:
            before = [_SYSTEM]
        elif place == LATER and role == "tool":
            form, content = next(iter(self.calls().forms), (OBJECT, ""))
            before = [_QUESTION, _with_content(_calling(_ARGUMENTS[form]), content)]
            message = {**_RESULT, "content": message.get("content", "")}
        elif place == LATER:
            before = [_QUESTION] if role == "assistant" else [_QUESTION, _ANSWER]
        after = [] if role in ("user", "tool") else [_QUESTION]
        return [[*before, message, *after]]

    def _answer(
        self,
        question: Any,
        asked: Mapping[Any, Sequence[Sequence[Message]]],
        shown: Callable[[Any, str], int],
    ) -> Answer:
        """`asked`: by form, the same conversations; `shown`: how much of what is asked about is in
        a prompt."""

        def find() -> Answer:
            values = [
                {"messages": messages, "tools": self._given_tools()}
                for conversations in asked.values()
                for messages in conversations
            ]
            prompts = iter(self._attempts(values))
            by_form = {form: [next(prompts) for _ in many] for form, many in asked.items()}
            fewest = [  # some templates have a None of their own
                min((prompt.count("None") for prompt in column if prompt is not None), default=0)
                for column in zip(*by_form.values(), strict=True)
            ]
            scores = {
                form: sum(
                    shown(form, prompt)
                    for prompt, least in zip(row, fewest, strict=True)
                    if prompt is not None and prompt.count("None") == least
                )
                for form, row in by_form.items()
            }
            most = max(scores.values())
            return Answer(
                forms=tuple(form for form, score in scores.items() if score == most > 0),
                rendered=tuple(
                    form for form, row in by_form.items() if any(p is not None for p in row)
                ),
            )

        answer: Answer = self._kept(question, find)
        return answer

    def _kept(self, question: Any, find: Callable[[], Any]) -> Any:
        if question in self._answers:
            return self._answers[question]
        found = find()
        if len(self._answers) < MOST_ANSWERS:  # of roles, there is no end
            self._answers[question] = found
        return found


def _calling(arguments: Any) -> dict[str, Any]:
    """An answer without content that calls a tool."""
    function = {"name": _NAME, "arguments": arguments}
    return {
        "role": "assistant",
        "tool_calls": [{"id": _CALL_ID, "type": "function", "function": function}],
    }


def _with_content(message: Message, content: Any) -> dict[str, Any]:
    return {**message} if content is ABSENT else {**message, "content": content}
