"""Messages in channels, as gpt-oss writes them (OpenAI's harmony).

An answer is several messages, <|channel|>analysis<|message|> why <|end|><|start|>assistant and so
on: analysis is reasoning; what is addressed to a function is a call of it; all else is content.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from linnet.engine.chat.formats.calls import in_text, names, parsed
from linnet.engine.chat.formats.grammar import GrammarError, Lark
from linnet.engine.chat.formats.parts import Part, Splitter, ToolSchemas, Wanted, tool_call

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
ENDS: Final = ("<|end|>", "<|return|>", "<|call|>")
RECIPIENT: Final = re.compile(r"\bto=(functions\.)?([^\s<]+)")
ANALYSIS: Final = re.compile(re.escape(CHANNEL) + r"\s*analysis\b")


class Harmony:
    """The format of that family."""

    reasoning: Final = None
    markers: Final = (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)

    def grammar(self, lark: Lark, wanted: Wanted, prompt: str) -> str | None:
        """Any messages of analysis, and then one that is wanted."""
        lasts = []
        json = f"({lark.text(f'{CONSTRAIN}json')})? {lark.text(MESSAGE)}"
        if wanted.shape is not None and not wanted.must_call:
            lasts.append(f"{lark.text(f'{CHANNEL}final')} {json} @{wanted.shape}")
        if wanted.tools and (wanted.must_call or wanted.shape is not None):
            lasts += [
                f"{lark.text(f'{CHANNEL}commentary to=functions.{tool.name} ')} {json} "
                f"{lark.json(tool.parameters)}"
                for tool in wanted.tools
            ]
        if not lasts:
            return None
        if not prompt.endswith(f"{START}assistant"):
            raise GrammarError("the prompt has begun the answer, whose channels must be free")
        spelled = () if START in lark.tokens else ("<|",)
        thought = lark.bare({"type": "string"}, f"<|end|>{START}assistant", without=spelled)
        analysis = lark.rule(f"{lark.text(f'{CHANNEL}analysis{MESSAGE}')} {thought}")
        return lark.grammar(f"{analysis}* {lark.either(lasts)}")

    def call_grammars(self, new: Callable[[], Lark], tools: ToolSchemas) -> dict[int, str]:
        """None: a message says late that it is a call."""
        return {}

    def reader(self, prompt: str, tools: ToolSchemas = ()) -> HarmonyReader:
        reader, splitter = HarmonyReader(tools), Splitter(self.markers)
        pieces = splitter.push(prompt[max(0, prompt.rfind(START)) :])
        for text, marks in pieces:
            (reader.marker if marks else reader.text)(text)
        reader.begin()
        return reader


class HarmonyReader:
    """Each message becomes a paragraph of its kind, or a call."""

    def __init__(self, tools: ToolSchemas) -> None:
        self._offered = names(tools)
        self._header: str | None = ""  # of the message that comes; None within one
        self._given = 0  # so much of that the prompt has
        self._recipient = self._body = ""  # of a call
        self._is_ours = False  # the tool, not one that such models are trained to have
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
        if self._recipient and in_text(self._body):
            return self.text(marker)
        if marker == START or marker in ENDS:
            part = self._ended()
            self._header, self._given = marker, 0
            return part
        if self._header is None:
            return self.text(marker)
        if marker == MESSAGE:
            found = RECIPIENT.search(self._header)
            self._recipient, self._body = found[2] if found else "", ""
            self._is_ours = bool(found and found[1]) or self._recipient in self._offered
            if self._recipient == "assistant":
                self._recipient = ""
            self._reasons = ANALYSIS.search(self._header) is not None
            self._header = None
        else:
            self._header += marker
        return Part()

    def finish(self, *, is_cut: bool) -> Part:
        """An answer without any marker is content."""
        if self._header is None:
            return Part() if is_cut and self._recipient else self._ended()
        said = self._header[self._given :]
        return Part(content="" if any(marker in said for marker in Harmony.markers) else said)

    def _ended(self) -> Part:
        if self._header is not None:
            return Part()
        if not self._recipient:
            self._gaps[self._reasons] = "\n\n"
            return Part()
        if not self._is_ours and self._offered:
            return Part()
        arguments = parsed(self._body) if self._body.strip() else {}
        if not isinstance(arguments, dict):
            return Part(content=self._body)
        return Part(tool_calls=(tool_call(self._recipient, arguments),))
