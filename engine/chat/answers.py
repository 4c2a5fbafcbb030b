"""An answer, read while its tokens come: which of it is reasoning, content, a tool call."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from linnet.engine.chat.formats.parts import Format, Part, Splitter, ToolSchemas, joined
from linnet.engine.text.tokenizer import Tokenizer
from linnet.engine.text.vocabulary import TokenType

CONTROL_TOKENS: Final = re.compile(r"<[^<>]*>|｜[^｜]*｜")  # in a marker of several
TAIL: Final = 64  # tokens of a prompt, which hold whatever it begins of the answer


def marker_tokens(format: Format, tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens that are a marker, or some of one, and that letters do not make."""
    ids, types = tokenizer.vocabulary.ids, tokenizer.vocabulary.types
    texts = {t for m in format.markers for t in ([m] if m in ids else CONTROL_TOKENS.findall(m))}
    return {t: ids[t] for t in texts if t in ids and types[ids[t]] != TokenType.NORMAL}


def end_of(prompt: Sequence[int], tokenizer: Tokenizer) -> str:
    """Of a prompt's text, what it may have begun of the answer among it."""
    return tokenizer.decode(prompt[-TAIL:], skip_special=False)


class AnswerReader:
    """Tells reasoning, content and tool calls of an answer apart, token by token.

    A marker that is a token is known by its id, whether or not it gives text: a model that only
    spells it means the text. One of several tokens is known by its letters.
    """

    def __init__(
        self, format: Format, tokenizer: Tokenizer, prompt: Sequence[int], *, skip_special: bool,
        tools: ToolSchemas = (), held: Sequence[str] = (),
    ) -> None:  # fmt: skip
        """`prompt`: its ids. `skip_special`: whether the text is without control tokens. `tools`:
        those that the prompt offers. `held`: see `Format.reader`."""
        ids = tokenizer.vocabulary.ids
        self._markers = {ids[marker]: marker for marker in format.markers if marker in ids}
        tokens = marker_tokens(format, tokenizer)
        self._splitter = Splitter([marker for marker in format.markers if marker not in tokens])
        self._letters = {i: text for text, i in tokens.items() if i not in self._markers}
        self._reader = format.reader(end_of(prompt, tokenizer), tools, held=held)
        self._detokenizer = tokenizer.detokenizer(skip_special=skip_special, continues=True)
        self._waiting: deque[_Piece] = deque()
        self._n_certain = 0  # characters of those that no stop string can take back

    @property
    def reasons(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._reader.reasons

    def push(
        self, token_id: int | None, text: str | None = None, *, is_cut: bool = False
    ) -> Part:  # fmt: skip
        """Take a token, None after the last, and the text that has become certain with it, None
        where no stop string can take any back; `is_cut`: see `Reader.finish`."""
        if token_id is None:
            self._waiting.append(_Piece(self._detokenizer.finish()))
        else:
            text_of_it, marker = self._detokenizer.push(token_id), self._markers.get(token_id, "")
            hidden = "" if text_of_it else self._letters.get(token_id, "")
            self._waiting.append(_Piece(text_of_it, marker, hidden))
        self._n_certain = sys.maxsize if text is None else self._n_certain + len(text)
        parts = [*self._read()]
        if token_id is None:
            parts.append(self._reader.text(self._splitter.finish()))
            parts.append(self._reader.finish(is_cut=is_cut))
        return joined(parts)

    def _read(self) -> Iterator[Part]:
        while self._waiting:
            piece = self._waiting.popleft()
            certain, rest = piece.text[: self._n_certain], piece.text[self._n_certain :]
            if rest:
                self._waiting.appendleft(piece if piece.marker else _Piece(rest))
                if piece.marker:
                    return
            self._n_certain -= len(certain)
            if piece.marker:
                yield self._reader.text(self._splitter.finish())
                yield self._reader.marker(piece.marker)
            else:
                for text, marks in self._splitter.push(certain + piece.hidden):
                    yield self._reader.marker(text) if marks else self._reader.text(text)
            if rest:
                return


class _Piece(NamedTuple):
    """What a token gives: text, which a stop string may take back; what marker it is, if it is
    one; the letters that it has in a marker of several tokens, where it gives no text."""

    text: str
    marker: str = ""
    hidden: str = ""
