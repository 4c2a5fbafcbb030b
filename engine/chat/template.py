"""Chat templates: from messages to the text, and the tokens, that a model was trained on.

A template comes with the model file (`tokenizer.chat_template`) and is a program in Jinja; it runs
in a sandbox (`sandbox`). Messages are data: they are not rendered, and control tokens
written out in them stay text, though the template's own become tokens. To tell the two apart,
those in messages are hidden while the template runs (`Tokenizer.hide_control_tokens`).
"""

from __future__ import annotations

import re
import reprlib
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from linnet.engine.chat.abilities import CALLED, Abilities
from linnet.engine.chat.abilities import Message as Message
from linnet.engine.chat.builtin import TEMPLATES
from linnet.engine.chat.formats import format_of, with_calls_as
from linnet.engine.chat.formats.parts import Format
from linnet.engine.chat.formats.tagged import Tagged
from linnet.engine.chat.history import History
from linnet.engine.chat.messages import expected_messages, expected_tools
from linnet.engine.chat.sandbox import SandboxedTemplate, TemplateError
from linnet.engine.text.tokenizer import Tokenizer, revealed
from linnet.engine.text.vocabulary import TokenType

KEY: Final = "tokenizer.chat_template"
NAMED: Final = ("tool_use", "rag")  # keys under it, in order of precedence
LONGEST: Final = 1 << 16  # characters of a template
SECONDS: Final = 5.0

BASE: Final = "this looks like a base model, which continues texts (linnet generate)"
GIVE: Final = (
    "to chat all the same, give a template in Jinja as chat_template (--chat-template-file) or one "
    "by its name (--chat-template)"
)
RESERVED: Final = frozenset({"self", "messages"})  # names that no template can be given


class ChatTemplate:
    """The template of a model, in a process of its own until it is closed.

    `end`: what ends an answer even where it is no token of the model, but a text."""

    end: str | None = None

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        name: str = KEY,
        named: Mapping[str, str] | None = None,
    ) -> None:
        """`name`: what errors call it; `named`: templates in its place, by their name: "tool_use"
        where there are tools, "rag" where there are documents. Raises `TemplateError` for what is
        no text, too long or malformed, RuntimeError where the system has no process for it."""
        if not isinstance(source, str):
            found = reprlib.repr(source)
            raise TemplateError(f"{name} is {found}; it must be the text of a template in Jinja")
        if len(source) > LONGEST:
            limit = f"at most {LONGEST}"
            raise TemplateError(f"{name} has {len(source)} characters; it must have {limit}")
        self._tokenizer = tokenizer
        self._special_tokens = tokenizer.vocabulary.boundaries
        texts = [text for text in (named or {}).values() if isinstance(text, str)]
        self.source = source
        self._marked = format_of(source, *texts)  # whichever template asked for the answer
        self._history = History(source, self._marked)
        self._template = SandboxedTemplate(source, name=name, seconds=SECONDS)
        self._abilities = {
            beside_tools: Abilities(self._attempts, beside_tools=beside_tools)
            for beside_tools in (False, True)
        }
        self._named = named or {}
        self._opened: dict[str, ChatTemplate] = {}  # of those, the ones that were used

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object], tokenizer: Tokenizer) -> ChatTemplate:
        """The template in a file's metadata; raises `TemplateError` if there is none."""
        named: Any = {
            name: metadata[f"{KEY}.{name}"] for name in NAMED if f"{KEY}.{name}" in metadata
        }
        source: Any = metadata.get(KEY, next(iter(named.values()), None))
        if source is None:
            raise TemplateError(f"{KEY} is missing: {BASE}; {GIVE}: {', '.join(TEMPLATES)}")
        return cls(source, tokenizer, named=named)

    @classmethod
    def given(
        cls, template: str, tokenizer: Tokenizer, *, name: str = "chat_template"
    ) -> ChatTemplate:  # fmt: skip
        """A template by its name in `TEMPLATES`, or its text in Jinja; `name`: what errors call it.
        Raises `TemplateError` for what is neither, and what the constructor raises."""
        if turns := TEMPLATES.get(template) if isinstance(template, str) else None:
            made = cls(turns.source, tokenizer, name=name)
            made.end = turns.end
            return made
        if isinstance(template, str) and re.fullmatch(r"[\w.-]+", template):
            known = f"one of {', '.join(TEMPLATES)}, or the text of a template in Jinja"
            raise TemplateError(f"{name} is {template[:100]!r}; it must be {known}")
        return cls(template, tokenizer, name=name)

    @staticmethod
    def is_in(metadata: Mapping[str, object]) -> bool:
        """Whether a file's metadata has a template."""
        return any(key in metadata for key in (KEY, *(f"{KEY}.{name}" for name in NAMED)))

    @cached_property
    def format(self) -> Format:
        """Of answers: by the markers that the template spells or, where it spells none of calls,
        by a call that it writes."""
        if not isinstance(self._marked, Tagged) or self._marked.calls or "tool" not in self.source:
            return self._marked
        return with_calls_as(self._marked, self._abilities[True].written_call(), CALLED)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The text of a conversation, up to where the model's answer begins.

        `messages`: each with a "role" and mostly a "content". `tools`: functions the model may
        call, as JSON schemas. `variables`: what else the template takes, such as `enable_thinking`.

        Raises `TemplateError` where the template refuses the messages, fails, reaches for what is
        not its own, or goes beyond 5 s, 512 MiB of memory or 2^22 characters; ValueError for
        messages without a role, and for what is no text, number, list or dict.
        """
        return revealed(self._render(messages, tools, add_generation_prompt, variables))

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        begun: str = "",
        **variables: Any,
    ) -> list[int]:
        """The ids of what `render` gives, control tokens in messages as text; see there. `begun`:
        what the answer begins with."""
        text = self._render(messages, tools, add_generation_prompt, variables)
        text += self._tokenizer.hide_control_tokens(begun)
        ids = self._tokenizer.encode_with_hidden(text)
        vocabulary = self._tokenizer.vocabulary
        bos = [vocabulary.bos_id] if vocabulary.add_bos and vocabulary.bos_id is not None else []
        return ids if ids[:1] == bos else bos + ids

    def close(self) -> None:
        """End the process; another rendering starts another."""
        for template in (self, *self._opened.values()):
            template._template.close()

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        there = {"tool_use": tools, "rag": variables.get("documents")}
        for name in NAMED:
            if there[name] and name in self._named:
                template = self._opened.get(name)
                if template is None:
                    key = f"{KEY}.{name}"
                    template = ChatTemplate(self._named[name], self._tokenizer, name=key)
                    self._opened[name] = template
                return template._render(messages, tools, add_generation_prompt, variables)
        abilities = self._abilities[bool(tools)]
        shaped = expected_messages(messages, abilities, self._history)
        tools = expected_tools(tools, abilities)
        try:
            hidden = self._special_tokens | self._hidden(
                {
                    "add_generation_prompt": add_generation_prompt,
                    "tools": tools,
                    **variables,
                    "messages": shaped,
                }
            )
            plain = _revealed(hidden)
        except RecursionError as error:
            raise ValueError("messages or tools are nested too deeply") from error
        prompt = self._template.render(plain)
        return prompt if hidden == plain else self._with_hidden(prompt, hidden, plain)

    def _with_hidden(self, prompt: str, hidden: dict[str, Any], plain: dict[str, Any]) -> str:
        """`prompt`, which `plain` values give, with the control tokens hidden that come from them.

        A template may look for such tokens, as those around the reasoning in an answer, which it
        cuts off: then what hidden ones give is another prompt, and the answers' are left as they
        are, if none of theirs is left in the prompt.
        """
        safe = self._template.render(hidden)
        if revealed(safe) == prompt:
            return safe
        pairs = zip(plain["messages"], hidden["messages"], strict=True)
        messages = [bare if bare["role"] == "assistant" else safe for bare, safe in pairs]
        partly = self._template.render(hidden | {"messages": messages})
        if revealed(partly) == prompt and self._control_ids(partly) == self._control_ids(safe):
            return partly
        warnings.warn(
            "messages spell control tokens, and the chat template does more with them than write "
            "them down; here it is given text in their place",
            stacklevel=2,
        )
        return safe

    def _control_ids(self, text: str) -> list[int]:
        types = self._tokenizer.vocabulary.types
        ids = self._tokenizer.encode_with_hidden(text)
        return [i for i in ids if types[i] == TokenType.CONTROL]

    def _attempts(self, many: Sequence[Mapping[str, Any]]) -> list[str | None]:
        ours = {"add_generation_prompt": True, "tools": None, **self._special_tokens}
        return self._template.attempts([{**ours, **values} for values in many])

    def _hidden(self, value: Any) -> Any:
        """A copy of `value` with the control tokens hidden that are spelled in its texts."""
        if isinstance(value, str):
            return self._tokenizer.hide_control_tokens(value)
        if isinstance(value, Mapping):
            return {self._hidden_key(key): self._hidden(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._hidden(item) for item in value]
        for plain in (bool, int, float):
            if isinstance(value, plain):
                return plain(value)
        if value is not None:
            found = reprlib.repr(value)
            raise ValueError(f"a chat template takes text, numbers, lists and dicts, not {found}")
        return None

    def _hidden_key(self, key: Any) -> Any:
        if isinstance(key, Mapping | list | tuple):
            raise ValueError(f"a key for a chat template is {reprlib.repr(key)}; it must be a text")
        return self._hidden(key)


def _revealed(value: Any) -> Any:
    """A copy of a hidden value with the control tokens in its texts as they were."""
    if isinstance(value, str):
        return revealed(value)
    if isinstance(value, dict):
        return {_revealed(key): _revealed(item) for key, item in value.items()}
    return [_revealed(item) for item in value] if isinstance(value, list) else value


def template_variables(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Checked `chat_template_kwargs`. Raises ValueError."""
    variables = {} if given is None else given
    if not isinstance(variables, Mapping) or not all(isinstance(name, str) for name in variables):
        found = reprlib.repr(variables)
        raise ValueError(f"chat_template_kwargs is {found}; it must be a dict of names")
    for name in RESERVED & variables.keys():
        raise ValueError(f"chat_template_kwargs has {name!r}, which is not for a template")
    return dict(variables)
