"""Earlier answers, put as a template takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from linnet.engine.chat.formats.harmony import CHANNEL, START
from linnet.engine.chat.formats.parts import Format, read
from linnet.engine.chat.formats.table import CHANNELS

THINKING_BLOCK: Final = re.compile(r"""== ?['"]thinking['"]""")
REASONING_KEYS: Final = ("reasoning_content", "thinking", "reasoning", "thought")


class History:
    """What there is to know of a template for that: channels in content become fields, and
    reasoning goes to the key that the template reads."""

    def __init__(self, template: str, format: Format) -> None:
        self._format = format
        keys = [key for key in REASONING_KEYS if _is_read(key, template)]
        self._key = [*keys, REASONING_KEYS[0]][0]
        # Of the content, rather, it is one of several blocks.
        self._in_blocks = keys in ([], ["thinking"]) and bool(THINKING_BLOCK.search(template))

    def message(self, message: dict[str, Any]) -> dict[str, Any]:
        """The message, another one if it is an answer that has to change."""
        if message.get("role") != "assistant":
            return message
        changes: dict[str, Any] = {}
        content, calls = _text(message.get("content")), message.get("tool_calls")
        reasoning = next((message[key] for key in REASONING_KEYS if message.get(key)), "")
        if self._format is CHANNELS and CHANNEL in content:
            found = read(CHANNELS, content, prompt=f"{START}assistant")
            content, calls = found.content, calls or [*found.tool_calls]
            reasoning = reasoning or found.reasoning
            changes = {"content": content} | ({"tool_calls": calls} if calls else {})
        if not isinstance(reasoning, str) or not reasoning:
            return {**message, **changes}
        if self._format is CHANNELS and calls and content:  # whose template refuses to have both
            reasoning, content = f"{reasoning}\n\n{content}", ""
            changes |= {"content": content, self._key: reasoning}
        if self._in_blocks:
            answer = [{"type": "text", "text": content}] if content else []
            changes["content"] = [{"type": "thinking", "thinking": reasoning}, *answer]
        elif self._key not in message:
            changes[self._key] = reasoning
        return {**message, **changes}


def _text(content: Any) -> str:
    """The content as one text; none where it has parts that are none."""
    parts = content if isinstance(content, list | tuple) else [content]
    found = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    return "".join(texts) if len(texts) == len(found) else ""


def _is_read(key: str, template: str) -> bool:
    """Whether the template takes it from a message."""
    pattern = rf"""[\w\]](\.|\[['"]|\.get\(['"]){key}\b|['"]{key}['"] (not )?in """
    return re.search(pattern, template) is not None
