"""How models write what they think, say and call: a table of formats, and which a template has."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from linnet.engine.chat.formats.harmony import Harmony
from linnet.engine.chat.formats.parts import Format
from linnet.engine.chat.formats.tags import Pair, Tags

CHANNELS: Final = Harmony()
REASONING: Final[tuple[Pair, ...]] = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("<thinking>", "</thinking>"),
)
CALLS: Final[tuple[Pair, ...]] = (("<tool_call>", "</tool_call>"),)


def format_of(*templates: str) -> Format:
    """The format of answers, by the markers that a model's templates spell: whichever they write,
    or cut off. Without any, an answer is content."""
    template = "\n".join(templates)
    if all(marker in template for marker in ("<|channel|>", "<|message|>")):
        return CHANNELS
    reasoning = next((tags for tags in REASONING if tags[1] in template), None)
    calls = next((tags for tags in CALLS if tags[1] in template), None)
    return Tags(reasoning, calls)


def without_reasoning(format: Format) -> Format:
    """The same, but that reasoning and its tags are content. Channels are told apart all the same:
    nothing of theirs is text."""
    return replace(format, reasoning=None) if isinstance(format, Tags) else format
