"""How models write what they think, say and call: reasoning, content and tool calls."""

from __future__ import annotations

from dataclasses import replace

from linnet.engine.chat.formats.parts import Format
from linnet.engine.chat.formats.table import FORMATS, REASONING
from linnet.engine.chat.formats.tagged import Tagged


def format_of(*templates: str) -> Format:
    """The format of answers, by the markers that a model's templates spell: whichever they write,
    or cut off. Without any, an answer is content."""
    template = "\n".join(templates)
    reasoning = next((tags for tags in REASONING if tags[1] in template), None)
    for entry in FORMATS.values():
        if all(sign in template for sign in entry.signs):
            format = entry.format
            if isinstance(format, Tagged) and format.reasoning in REASONING:
                return replace(format, reasoning=reasoning)
            return format
    return Tagged(reasoning=reasoning)


def with_calls_as(format: Format, written: str, name: str) -> Format:
    """The same, but that calls are read as in an answer of a template's which calls that name;
    where some entry of the table reads it."""
    answer = written.strip()
    for entry in FORMATS.values():
        calls = entry.format.calls if isinstance(entry.format, Tagged) else None
        if calls is None or not isinstance(format, Tagged):
            continue
        starts = [answer.find(opener) for opener in calls.openers]
        starts += [0] if answer[:1] and answer[:1] in calls.bare else []
        for start in (start for start in starts if start >= 0):
            found = calls.read(answer[start:], [{"name": name}], is_whole=False)
            if found and [call["function"]["name"] for call in found.calls] == [name]:
                return replace(format, calls=calls)
    return format


def without_bare_calls(format: Format) -> Format:
    """The same, but that an answer without any marker is content, whatever it looks like."""
    if not isinstance(format, Tagged) or format.calls is None:
        return format
    return replace(format, calls=replace(format.calls, bare=""))


def without_reasoning(format: Format) -> Format:
    """The same, but that reasoning and its tags are content. Channels are told apart all the same:
    nothing of theirs is text."""
    return replace(format, reasoning=None) if isinstance(format, Tagged) else format
