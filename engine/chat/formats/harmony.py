"""Messages in channels, as gpt-oss writes them (OpenAI's harmony).

An answer is several messages, <|channel|>analysis<|message|> why <|end|><|start|>assistant and so
on: analysis is reasoning; what is addressed to a function is a call of it; all else is content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from linnet.engine.chat.formats.calls import in_text, names, parsed
from linnet.engine.chat.formats.grammar import ANY, Lark
from linnet.engine.chat.formats.parts import (
    CallPiece,
    Part,
    Splitter,
    ToolSchemas,
    Wanted,
    tool_call,
)
from linnet.engine.chat.formats.schemas import GrammarError, Tool

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
TO: Final = " to=functions."
ENDS: Final = ("<|end|>", "<|return|>", "<|call|>")
RECIPIENT: Final = re.compile(r"\bto=(functions\.)?([^\s<]+)")
ANALYSIS: Final = re.compile(re.escape(CHANNEL) + r"\s*analysis\b")


class Harmony:
    """The format of that family."""

    reasoning: Final = (f"{CHANNEL}analysis{MESSAGE}", f"<|end|>{START}assistant")
    has_channels: Final = True
    ends_reasoning: Final = ()
    begins_calls: Final = (CHANNEL, TO)
    markers: Final = (START, CHANNEL, MESSAGE, CONSTRAIN, *ENDS)

    def grammar(self, lark: Lark, wanted: Wanted, prompt: str) -> str | None:
        """Messages of analysis, where it may reason, and then one that is wanted: where any is, one
        to the user, or a call, perhaps with others to the user before."""
        is_free = wanted.shape is None and not wanted.must_call
        if is_free and wanted.reasons and not wanted.tools:
            return None
        is_begun = prompt.endswith(self.reasoning[0])
        if wanted.reasons and not (is_begun or prompt.endswith(f"{START}assistant")):
            raise GrammarError("the prompt has begun the answer, whose channels must be free")
        json = f"({lark.text(f'{CONSTRAIN}json')})? {lark.text(MESSAGE)}"
        lasts = [
            f"{lark.text(f'{header} ')} {json} {lark.json(tool.parameters)}"
            for tool in wanted.tools
            for header in (
                f"{CHANNEL}commentary{TO}{tool.name}",
                f"{TO}{tool.name}{CHANNEL}commentary",
            )
        ]
        if is_free:
            lasts.append(f"{lark.text(f'{CHANNEL}final{MESSAGE}')} /{ANY}/")
        elif not wanted.must_call:
            lasts.append(f"{lark.text(f'{CHANNEL}final')} {json} @{wanted.shape}")
        spelled = () if START in lark.tokens else ("<|",)
        text = lark.bare({"type": "string"}, f"<|end|>{START}assistant", without=spelled)
        channels = ["analysis"] * wanted.reasons + ["commentary"] * is_free
        begins = [lark.text(f"{CHANNEL}{channel}{MESSAGE}") for channel in channels]
        before = f"({lark.either(begins)} {text})*" if begins else ""
        begun = text if is_begun and wanted.reasons else ""
        return lark.grammar(f"{begun} {before} {lark.either(lasts)}")

    def call_grammars(self, new: Callable[[], Lark], tools: Sequence[Tool]) -> dict[int, str]:
        """None: a message says late that it is a call."""
        return {}

    def reader(
        self, prompt: str, tools: ToolSchemas = (), *, held: Sequence[str] = ()
    ) -> HarmonyReader:
        reader, splitter = HarmonyReader(tools, tells_pieces=bool(held)), Splitter(self.markers)
        pieces = splitter.push(prompt[max(0, prompt.rfind(START)) :])
        for text, marks in pieces:
            (reader.marker if marks else reader.text)(text)
        reader.begin()
        return reader


class HarmonyReader:
    """Each message becomes a paragraph of its kind, or a call."""

    def __init__(self, tools: ToolSchemas, *, tells_pieces: bool = False) -> None:
        """`tells_pieces`: of calls, which are held to a form then."""
        self._offered, self._tells_pieces = names(tools), tells_pieces
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
            name = None if self._body else self._recipient
            self._body += text
            if text and self._tells_pieces and self._is_ours:
                return Part(pieces=(CallPiece(text, name),))
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

    @property
    def reasons(self) -> bool:
        return self._header is None and self._reasons

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
        is_told = self._body and self._tells_pieces and self._is_ours
        pieces = (CallPiece("", is_last=True),) if is_told else ()
        return Part(tool_calls=(tool_call(self._recipient, arguments),), pieces=pieces)
