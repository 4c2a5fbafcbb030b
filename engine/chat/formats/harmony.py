"""Messages in channels, as gpt-oss writes them (OpenAI's harmony).

An answer is several messages, <|channel|>analysis<|message|> why <|end|><|start|>assistant and so
on: analysis is reasoning; what is addressed to a function is a call of it; all else is content.
"""

from __future__ import annotations

import re
from typing import Final

from linnet.engine.chat.formats.parts import Part, Splitter, parsed, tool_call

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
ENDS: Final = ("<|end|>", "<|return|>", "<|call|>")
RECIPIENT: Final = re.compile(r"\bto=(?:functions\.)?([^\s<]+)")
ANALYSIS: Final = re.compile(re.escape(CHANNEL) + r"\s*analysis\b")


class Harmony:
    """The format of that family."""

    markers: Final = (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)

    def reader(self, prompt: str) -> HarmonyReader:
        reader, splitter = HarmonyReader(), Splitter(self.markers)
        pieces = splitter.push(prompt[max(0, prompt.rfind(START)) :])
        for text, marks in pieces:
            (reader.marker if marks else reader.text)(text)
        reader.begin()
        return reader


class HarmonyReader:
    """Each message becomes a paragraph of its kind, or a call."""

    def __init__(self) -> None:
        self._header: str | None = ""  # of the message that comes; None within one
        self._given = 0  # so much of that the prompt has
        self._recipient = self._body = ""  # of a call
        self._reasons = False
        self._gaps = {True: "", False: ""}  # before more of reasoning, and of content

    def begin(self) -> None:
        """What came so far was the prompt."""
        self._given = len(self._header or "")

    def text(self, text: str) -> Part:
        if self._header is not None:
            self._header += text
        elif self._recipient:
            self._body += text
        elif text:
            text, self._gaps[self._reasons] = self._gaps[self._reasons] + text, ""
            return Part(reasoning=text) if self._reasons else Part(content=text)
        return Part()

    def marker(self, marker: str) -> Part:
        if marker == START or marker in ENDS:
            part = self._ended()
            self._header, self._given = marker, 0
            return part
        if self._header is None:
            return self.text(marker)
        if marker == MESSAGE:
            found = RECIPIENT.search(self._header)
            self._recipient, self._body = found[1] if found else "", ""
            self._reasons = ANALYSIS.search(self._header) is not None
            self._header = None
        else:
            self._header += marker
        return Part()

    def finish(self) -> Part:
        """An answer without any marker is content."""
        if self._header is None:
            return self._ended()
        said = self._header[self._given :]
        return Part(content="" if any(marker in said for marker in Harmony.markers) else said)

    def _ended(self) -> Part:
        if self._header is not None:
            return Part()
        if not self._recipient:
            self._gaps[self._reasons] = "\n\n"
            return Part()
        arguments = parsed(self._body)
        call = tool_call(self._recipient, self._body if arguments is None else arguments)
        return Part(tool_calls=(call,))
