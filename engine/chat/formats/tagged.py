"""Answers that are text with markers in it: <think> why </think> answer <tool_call> ..."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from linnet.engine.chat.formats.calls import Calls, Pair
from linnet.engine.chat.formats.grammar import Lark
from linnet.engine.chat.formats.parts import (
    CallPiece,
    Part,
    Splitter,
    ToolSchemas,
    Wanted,
    joined,
    whole_piece,
)
from linnet.engine.chat.formats.schemas import GrammarError, Tool

CONTENT, REASONING, SECTION, CALL = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """`reasoning`: the tags around it; `calls`: how they are written; None for what such a model
    does not write. `dropped`: markers that say nothing. `ends_reasoning`: others that begin what
    follows the reasoning, which such a model may not have closed.
    """

    reasoning: Pair | None = None
    calls: Calls | None = None
    dropped: tuple[str, ...] = ()
    ends_reasoning: tuple[str, ...] = ()

    has_channels: ClassVar[bool] = False

    @property
    def begins_calls(self) -> Sequence[str]:
        return (*self.calls.openers, *self.calls.bare) if self.calls else ()

    @property
    def markers(self) -> Sequence[str]:
        calls = self.calls.markers if self.calls else ()
        return tuple(dict.fromkeys([*(self.reasoning or ()), *calls, *self.dropped]))

    def grammar(self, lark: Lark, wanted: Wanted, prompt: str) -> str | None:
        bodies = []
        if wanted.shape is not None and not wanted.must_call:
            bodies.append(f"@{wanted.shape}")
        if wanted.tools and (wanted.must_call or wanted.shape is not None):
            bodies.append(self._written.all_of(lark, wanted.tools, several=wanted.several))
        return lark.grammar(lark.either(bodies)) if bodies else None

    def call_grammars(self, new: Callable[[], Lark], tools: Sequence[Tool]) -> dict[int, str]:
        calls, found = self.calls or Calls(), dict[int, str]()
        for opener in calls.openers:
            lark = new()
            if opener in lark.tokens and any(form.startswith(opener) for form in calls.forms):
                block = calls.block(lark, tools, several=True, opener=opener)
                found[lark.tokens[opener]] = lark.grammar(block)
        return found

    @property
    def _written(self) -> Calls:
        if self.calls is None:
            raise GrammarError("the chat template does not show how this model calls tools")
        return self.calls

    def reader(
        self, prompt: str, tools: ToolSchemas = (), *, held: Sequence[str] = ()
    ) -> TaggedReader:
        reasons = self.reasoning is not None and prompt.rstrip().endswith(self.reasoning[0])
        return TaggedReader(self, tools, reasons=reasons, held=held)


class TaggedReader:
    """White space is left out where reasoning begins or ends, and at the markers before the first
    and after the last of the content."""

    def __init__(
        self, format: Tagged, tools: ToolSchemas, *, reasons: bool, held: Sequence[str]
    ) -> None:
        """`reasons`: whether the prompt has opened the reasoning. `held`: see `Format.reader`."""
        self._format: Final = format
        self._reasoning: Final = format.reasoning or ("", "")
        self._tools: Final = tools
        calls = format.calls or Calls()
        self._calls: Final = calls
        self._sections: Final = dict(calls.section)
        self._state = REASONING if reasons else CONTENT
        self._has_content = False
        self._after_marker = reasons  # and white space
        self._spaces = {CONTENT: "", REASONING: ""}  # white space, before a marker perhaps
        self._call, self._after_call = "", CONTENT  # one that is open, and what it goes back to
        self._held: Final = tuple(held)
        self._n_told: int | None = None  # characters of its arguments; None before its name is
        self._goes_on = False  # those arguments, with whatever has no character that ends a call

    def text(self, text: str) -> Part:
        if not text:
            return Part()
        if self._state == CALL:
            self._call += text
            if any(c in text for c in self._calls.last):
                return self._read()
            return Part(pieces=self._pieces(text))
        if self._state == SECTION:
            return Part()
        if self._state == REASONING:
            return Part(reasoning=self._trimmed(text))
        first = text.lstrip()[:1]
        if first and first in self._calls.bare and not self._has_content:
            return self._open(text)
        text = self._trimmed(text)
        self._has_content = self._has_content or bool(text)
        return Part(content=text)

    def marker(self, marker: str) -> Part:
        opens, closes = self._reasoning
        if self._state == CALL:
            self._call += marker
            return self._read()
        if self._state == REASONING:
            if marker == closes:
                self._enter(CONTENT)
                return Part()
            if marker not in self._format.ends_reasoning:
                return self.text(marker)
            self._enter(CONTENT)
        if marker in self._calls.openers:
            return self._open(marker)
        if self._state == SECTION:
            if marker in self._sections.values():
                self._enter(CONTENT)
            return Part()
        if marker in self._sections:
            self._enter(SECTION)
        elif marker == opens:
            self._enter(REASONING)
        elif marker in self._format.dropped or marker in self._sections.values():
            self._after_marker = True
        else:
            return self.text(marker)
        return Part()

    @property
    def reasons(self) -> bool:
        return self._state == REASONING

    def finish(self, *, is_cut: bool) -> Part:
        if self._state == CALL:
            read = self._read(is_whole=not is_cut)
            if self._state != CALL:
                return joined([read, self.finish(is_cut=is_cut)])
            is_told = self._n_told is not None
            return Part() if is_cut or is_told else self._as_content(self._call)
        is_content = self._state == CONTENT and not self._after_marker
        return Part(content=self._spaces[CONTENT] if is_content else "")

    def _trimmed(self, text: str) -> str:
        """The text with what was held, but for white space at its end, which is held until more
        follows, and for that before the first."""
        if self._after_marker and (self._state == REASONING or not self._has_content):
            text = text.lstrip()
        text = self._spaces[self._state] + text
        given = text.rstrip()
        self._spaces[self._state] = text[len(given) :]
        self._after_marker = self._after_marker and not given
        return given

    def _enter(self, state: int) -> None:
        self._spaces[REASONING] = ""
        if not self._has_content:
            self._spaces[CONTENT] = ""
        self._state, self._after_marker = state, True

    def _open(self, text: str) -> Part:
        self._after_call = SECTION if self._state == SECTION else CONTENT
        self._state, self._call = CALL, text
        self._n_told, self._goes_on = None, False
        return self._read()

    def _read(self, *, is_whole: bool = False) -> Part:
        """The calls that are complete, and what follows them."""
        found = self._calls.read(self._call.lstrip(), self._tools, is_whole=is_whole)
        if found is None:
            return Part(pieces=self._pieces())
        pieces = self._pieces(is_last=True)
        call = self._call.lstrip()
        done, rest = call[: found.end], call[found.end :]
        self._state, self._call = self._after_call, ""
        if found.calls:
            self._after_marker = True
            others = tuple(map(whole_piece, found.calls[1:])) if pieces else ()
            part = Part(tool_calls=found.calls, pieces=pieces + others)
        else:
            part = self._as_content(done)
        return joined([part, *self._again(rest)])

    def _pieces(self, more: str = "", *, is_last: bool = False) -> tuple[CallPiece, ...]:
        """What is new of the arguments of a call that is held to a form; none where it is told when
        it is complete. `more`: what has come, and cannot end it."""
        if more and self._goes_on and self._n_told is not None:
            self._n_told += len(more)
            return (CallPiece(more),)
        call = self._call.lstrip()
        begun = self._calls.begun(call) if self._held and call.startswith(self._held) else None
        if begun is None:
            return ()
        n_told, self._n_told, self._goes_on = self._n_told, len(begun.arguments), begun.is_open
        piece = CallPiece(
            begun.arguments[n_told or 0 :], begun.name if n_told is None else None, is_last
        )
        return (piece,) if piece.text or is_last else ()

    def _again(self, rest: str) -> list[Part]:
        splitter = Splitter(self._format.markers)
        pieces = [*splitter.push(rest), (splitter.finish(), False)]
        return [self.marker(piece) if marks else self.text(piece) for piece, marks in pieces]

    def _as_content(self, text: str) -> Part:
        given, self._spaces[CONTENT], self._after_marker = self._spaces[CONTENT] + text, "", False
        self._has_content = True
        return Part(content=given)
