"""Chat templates: from messages to the text, and the tokens, that a model was trained on.

A template comes with the model file (`tokenizer.chat_template`) and is a program in Jinja; it runs
in a sandbox (`sandbox`). Messages are data: they are not rendered, and control tokens
written out in them stay text, though the template's own become tokens. To tell the two apart,
those in messages are hidden while the template runs (`Tokenizer.hide_control_tokens`).
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from linnet.engine.chat.sandbox import SandboxedTemplate, TemplateError
from linnet.engine.text.tokenizer import Tokenizer, revealed

KEY: Final = "tokenizer.chat_template"
LONGEST: Final = 1 << 16  # characters of a template
SECONDS: Final = 5.0

Message = Mapping[str, Any]
RESERVED: Final = frozenset({"self", "messages"})  # names that no template can be given


class ChatTemplate:
    """The template of a model, in a process of its own until it is closed."""

    def __init__(self, source: str, tokenizer: Tokenizer, *, name: str = KEY) -> None:
        """`name`: what errors call it. Raises `TemplateError` for what is no text, too long or
        malformed, RuntimeError where the system has no process for it."""
        if not isinstance(source, str):
            found = reprlib.repr(source)
            raise TemplateError(f"{name} is {found}; it must be the text of a template in Jinja")
        if len(source) > LONGEST:
            limit = f"at most {LONGEST}"
            raise TemplateError(f"{name} has {len(source)} characters; it must have {limit}")
        self._tokenizer = tokenizer
        self._template = SandboxedTemplate(source, name=name, seconds=SECONDS)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object], tokenizer: Tokenizer) -> ChatTemplate:
        """The template in a file's metadata; raises `TemplateError` if there is none."""
        source: Any = metadata.get(KEY)
        if source is None:
            wanted = "to chat, give a template in Jinja as chat_template (--chat-template-file)"
            raise TemplateError(f"{KEY} is missing: {wanted}")
        return cls(source, tokenizer)

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
        **variables: Any,
    ) -> list[int]:
        """The ids of what `render` gives, control tokens in messages as text; see there."""
        text = self._render(messages, tools, add_generation_prompt, variables)
        ids = self._tokenizer.encode_with_hidden(text)
        vocabulary = self._tokenizer.vocabulary
        bos = [vocabulary.bos_id] if vocabulary.add_bos and vocabulary.bos_id is not None else []
        return ids if ids[:1] == bos else bos + ids

    def close(self) -> None:
        """End the process; another rendering starts another."""
        self._template.close()

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        if not isinstance(messages, list | tuple):
            found = reprlib.repr(messages)
            raise ValueError(f"messages is {found}; it must be a list of dicts")
        for number, message in enumerate(messages):
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                found = reprlib.repr(message)
                raise ValueError(f"messages[{number}] is {found}; it must be a dict with a 'role'")
        vocabulary = self._tokenizer.vocabulary
        tokens = {"bos_token": vocabulary.bos_id, "eos_token": vocabulary.eos_id}
        try:
            values = {
                "add_generation_prompt": add_generation_prompt,
                "tools": self._hidden(tools),
                **{name: "" if i is None else vocabulary.texts[i] for name, i in tokens.items()},
                **self._hidden(variables),
                "messages": self._hidden(messages),
            }
        except RecursionError as error:
            raise ValueError("messages or tools are nested too deeply") from error
        return self._template.render(values)

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


def template_variables(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Checked `chat_template_kwargs`. Raises ValueError."""
    variables = {} if given is None else given
    if not isinstance(variables, Mapping) or not all(isinstance(name, str) for name in variables):
        found = reprlib.repr(variables)
        raise ValueError(f"chat_template_kwargs is {found}; it must be a dict of names")
    for name in RESERVED & variables.keys():
        raise ValueError(f"chat_template_kwargs has {name!r}, which is not for a template")
    return dict(variables)
