"""An answer, read while its tokens come: which of it is reasoning, content, a tool call."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from linnet.engine.chat.formats.parts import Format, Part, Splitter, joined
from linnet.engine.text.tokenizer import Tokenizer
from linnet.engine.text.vocabulary import TokenType

TAIL: Final = 64  # tokens of a prompt, which hold whatever it begins of the answer


class AnswerReader:
    """Tells reasoning, content and tool calls of an answer apart, token by token.

    A marker that is a token is known by its id, whether or not it gives text: a model that only
    spells it means the text.
    """

    def __init__(
        self, format: Format, tokenizer: Tokenizer, prompt: Sequence[int], *, skip_special: bool
    ) -> None:
        """`prompt`: its ids. `skip_special`: whether the text is without control tokens."""
        vocabulary = tokenizer.vocabulary
        ids = {m: vocabulary.ids[m] for m in format.markers if m in vocabulary.ids}
        self._markers = {token_id: marker for marker, token_id in ids.items()}
        is_text = {m for m, i in ids.items() if vocabulary.types[i] == TokenType.NORMAL}
        self._splitter = Splitter([m for m in format.markers if m not in ids or m in is_text])
        self._reader = format.reader(tokenizer.decode(prompt[-TAIL:], skip_special=False))
        self._detokenizer = tokenizer.detokenizer(skip_special=skip_special, continues=True)
        self._waiting: deque[tuple[str, str | None]] = deque()  # texts, and what markers they are
        self._n_certain = 0  # characters of those that no stop string can take back

    def push(self, token_id: int | None, text: str) -> Part:
        """Take a token, None after the last, and the text that has become certain with it."""
        if token_id is None:
            self._waiting.append((self._detokenizer.finish(), None))
        else:
            piece = self._detokenizer.push(token_id)
            self._waiting.append((piece, self._markers.get(token_id)))
        self._n_certain += len(text)
        parts = [*self._read()]
        if token_id is None:
            parts += [self._reader.text(self._splitter.finish()), self._reader.finish()]
        return joined(parts)

    def _read(self) -> Iterator[Part]:
        while self._waiting:
            text, marker = self._waiting.popleft()
            certain, rest = text[: self._n_certain], text[self._n_certain :]
            if rest and marker is None:
                self._waiting.appendleft((rest, None))
            elif rest:
                self._waiting.appendleft((text, marker))
                return
            self._n_certain -= len(certain)
            if marker is None:
                for piece, marks in self._splitter.push(certain):
                    yield self._reader.marker(piece) if marks else self._reader.text(piece)
            else:
                yield self._reader.text(self._splitter.finish())
                yield self._reader.marker(marker)
            if rest:
                return
