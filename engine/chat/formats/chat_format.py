"""A format by itself, for texts that some model wrote: whole, or as they come."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias

from linnet.engine.chat.formats import format_of
from linnet.engine.chat.formats.parts import Format, Part, TextReader, ToolSchemas, read
from linnet.engine.chat.formats.table import FORMATS

Answer: TypeAlias = Part


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a kind of model writes reasoning, content and tool calls.

    ChatFormat.named("hermes").parse(text).tool_calls
    """

    format: Format

    @classmethod
    def named(cls, name: str) -> ChatFormat:
        """One of the table's. Raises ValueError with their names."""
        if name not in FORMATS:
            close = get_close_matches(str(name), FORMATS, 1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            known = ", ".join(FORMATS)
            raise ValueError(f"there is no format {name!r}{meant} There are: {known}")
        return cls(FORMATS[name].format)

    @classmethod
    def of_template(cls, template: str) -> ChatFormat:
        """That of a chat template in Jinja, by the markers in it."""
        return cls(format_of(template))

    def parse(
        self, text: str, *, tools: ToolSchemas = (), prompt: str = "", is_cut: bool = False
    ) -> Answer:
        """A whole answer, markers and all.

        `tools`: those that were offered, whose schemas say which parameters are text, where the
        format does not. `prompt`: its end, which may have opened the reasoning. `is_cut`: whether
        a limit ended the answer; a call that is not closed is none then.
        """
        return read(self.format, text, prompt=prompt, tools=tools, is_cut=is_cut)

    def stream(self, *, tools: ToolSchemas = (), prompt: str = "") -> TextReader:
        """What `parse` gives, piece by piece: `push(text)` for each, and `finish()`. Together the
        answers are the same however the text is cut."""
        return TextReader(self.format, prompt=prompt, tools=tools)
