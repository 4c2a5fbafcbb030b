"""Text to token ids and back, as llama.cpp does it, from nothing but a model file's metadata.

A text is cut at its special tokens, and the pieces between them, each with a space in front if the
model wants it, are handed to the algorithm that `tokenizer.ggml.model` names; `ALGORITHMS`, at the
end, has one class for each.

What a user types is text: control tokens such as "</s>" are looked for only with
`parse_special=True`, and without it no text is encoded as one.
"""

from __future__ import annotations

import codecs
import os
import re
import reprlib
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property, partial
from types import MappingProxyType
from typing import Final, Protocol, Self

from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.gguf.source import naming
from linnet.engine.text.bpe import BytePairs
from linnet.engine.text.spm import SentencePiece
from linnet.engine.text.vocabulary import PREFIX, TokenizerError, TokenType, Vocabulary

__all__ = ["ALGORITHMS", "StreamDetokenizer", "Tokenizer", "TokenizerError", "revealed"]

HIDDEN: Final = re.compile("[\udc00-\udcff]+")  # what `Tokenizer.hide_control_tokens` hides

_PREFIX: Final = 4  # characters
_MANY: Final = 64  # strings (of a length) to look for one after another, at the most
_WHITE_SPACE: Final = " \t\n\v\f\r"
_HIDDEN: Final = frozenset({TokenType.CONTROL, TokenType.UNKNOWN})
_SPECIAL: Final = _HIDDEN | {TokenType.USER_DEFINED}

Find = Callable[[int], int]  # start -> where a token stands next, from start on, or -1


class Algorithm(Protocol):
    """How a kind of tokenizer turns text without special tokens into ids, and ids into bytes."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> Self: ...

    def encode(self, text: str) -> list[int]: ...

    def prepare(self) -> None: ...

    def token_bytes(self, token_id: int) -> bytes: ...


class Tokenizer:
    """Text to token ids and back, for one model. Built by `from_gguf` or `from_metadata`.

    It holds no state between calls: one can serve any number of threads.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self._algorithm = algorithm
        self.vocabulary: Final = algorithm.vocabulary
        self.n_vocab: Final = len(self.vocabulary.texts)
        self.bos_id: Final = self.vocabulary.bos_id
        self.eos_id: Final = self.vocabulary.eos_id
        self.eog_ids: Final = self.vocabulary.eog_ids

    @classmethod
    def from_gguf(cls, path_or_file: str | os.PathLike[str] | GGUFFile) -> Tokenizer:
        """The tokenizer of a model file, given by its path or already open.

        Raises `TokenizerError` if the file has no usable tokenizer, and what opening it raises.
        """
        if not isinstance(path_or_file, GGUFFile):
            with GGUFFile(path_or_file) as file:
                return cls.from_gguf(file)
        metadata = path_or_file.metadata
        with naming(path_or_file.path):
            return cls.from_metadata(metadata)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> Tokenizer:
        """The tokenizer that `metadata` describes; raises `TokenizerError` if it is not usable."""
        model = metadata.get(PREFIX + "model")
        if not isinstance(model, str) or model not in ALGORITHMS:
            known = ", ".join(map(repr, ALGORITHMS))
            raise TokenizerError(
                f"{PREFIX}model is {reprlib.repr(model)}; it must be one of {known}"
            )
        return cls(ALGORITHMS[model].from_metadata(metadata))

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """The ids of `text`.

        With `add_special`, the tokens that the model wants around a text are added, unless they are
        there: its bos token in front, its eos token at the end. With `parse_special`, control
        tokens that are written out in the text become tokens; user-defined tokens always do. Half a
        surrogate pair, which is no character, is read as U+FFFD. What the vocabulary has no way to
        write becomes its unknown token, or is left out with a UserWarning.
        """
        vocabulary = self.vocabulary
        parts = [*self._split(_well_formed(text), parse_special=parse_special)]
        bos = [vocabulary.bos_id] if add_special and vocabulary.add_bos else []
        eos = [vocabulary.eos_id] if add_special and vocabulary.add_eos else []
        before, after = bos if parts[:1] != bos else [], eos if parts[-1:] != eos else []
        space = " " if vocabulary.add_space_prefix else ""
        ids: list[int] = []
        for part in [*before, *parts, *after]:
            if isinstance(part, str):
                ids += self._algorithm.encode(space + part)
            elif part is not None:
                ids.append(part)
        return ids

    def prepare(self) -> None:
        """Do now what the first long text would wait for, up to a second."""
        self._algorithm.prepare()

    def control_tokens_in(self, text: str) -> list[str]:
        """The control tokens that are spelled in `text`, once each, in order."""
        types, texts = self.vocabulary.types, self.vocabulary.texts
        found = self._find_specials(_well_formed(text), parse_special=True)
        return list(dict.fromkeys(texts[i] for *_, i in found if types[i] == TokenType.CONTROL))

    def hide_control_tokens(self, text: str) -> str:
        """`text` with the control tokens spelled in it written so that none is found in it again.

        Each of their bytes becomes half a surrogate pair, which no text holds; `revealed` turns
        them back.
        """
        text, types = _well_formed(text), self.vocabulary.types
        parts, at = [], 0
        for start, end, token_id in self._find_specials(text, parse_special=True):
            if types[token_id] in _HIDDEN:
                hidden = "".join(chr(0xDC00 + byte) for byte in text[start:end].encode())
                parts += [text[at:start], hidden]
                at = end
        return "".join([*parts, text[at:]])

    def encode_with_hidden(self, text: str) -> list[int]:
        """The ids of `text`, its control tokens parsed and those that are hidden taken for text.

        Nothing is added around it.
        """
        space = " " if self.vocabulary.add_space_prefix else ""
        ids: list[int] = []
        for part in self._split(text, parse_special=True):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._algorithm.encode(space + revealed(part))
        return ids

    def encode_continuation(self, text: str) -> list[int]:
        """The ids of a text that goes on from another: nothing is put in front of it, no control
        token is parsed."""
        return self._algorithm.encode(_well_formed(text))

    def decode(
        self, ids: Iterable[int], *, skip_special: bool = True, continues: bool = False
    ) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD.

        With `skip_special`, control tokens give no text. The space that encoding puts in front of
        a text is left out, unless `continues` says that these ids go on from others. Raises
        `TokenizerError` for an id that the vocabulary does not have.
        """
        detokenizer = self.detokenizer(skip_special=skip_special, continues=continues)
        return "".join([*map(detokenizer.push, ids), detokenizer.finish()])

    def detokenizer(
        self, *, skip_special: bool = True, continues: bool = False
    ) -> StreamDetokenizer:
        """What `decode` does, token by token; for the keywords, see there."""
        drop_space = self.vocabulary.add_space_prefix and not continues
        return StreamDetokenizer(self, skip_special=skip_special, drop_space=drop_space)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; of a special token, those of its name.

        One token can be part of a character. Raises `TokenizerError` for an id out of range.
        """
        raw = self.vocabulary.raw.get(self._check(token_id))
        return self._algorithm.token_bytes(token_id) if raw is None else raw

    def is_hidden(self, token_id: int) -> bool:
        """Whether the token is one for the model alone, which `skip_special` leaves out."""
        is_control = self.vocabulary.types[self._check(token_id)] in _HIDDEN
        return is_control and token_id not in self.vocabulary.shown

    def _check(self, token_id: int) -> int:
        if not 0 <= token_id < self.n_vocab:
            raise TokenizerError(f"token id is {token_id}; it must be 0 to {self.n_vocab - 1}")
        return token_id

    def _split(self, text: str, *, parse_special: bool) -> Iterator[str | int]:
        """Cut `text` at its special tokens: pieces of text, and the ids of those between them."""
        at = 0
        for start, end, token_id in self._find_specials(text, parse_special=parse_special):
            if at < start:
                yield text[at:start]
            yield token_id
            at = end
        if at < len(text):
            yield text[at:]

    def _find_specials(self, text: str, *, parse_special: bool) -> list[tuple[int, int, int]]:
        """Start, end and id of the special tokens in `text`, from left to right.

        A longer token wins over a shorter one wherever it stands, as in llama.cpp; of two as long,
        the one with the lower id.
        """
        taken = bytearray(len(text))  # 1 for every character that belongs to a special token
        found: list[tuple[int, int, int]] = []
        for token_id, find in self._specials_in(text, parse_special=parse_special):
            length = len(self.vocabulary.texts[token_id])
            start = find(0)
            while start >= 0:
                end = start + length
                overlap = taken.rfind(1, start, end)
                if overlap >= 0:
                    end = overlap + 1
                else:
                    if token_id in self.vocabulary.strips_right:
                        while end < len(text) and text[end] in _WHITE_SPACE and not taken[end]:
                            end += 1
                    taken[start:end] = b"\1" * (end - start)
                    found.append((start, end, token_id))
                start = find(end)
        return sorted(found)

    def _specials_in(self, text: str, *, parse_special: bool) -> Iterator[tuple[int, Find]]:
        """The special tokens that `text` may hold, in the order in which they are matched."""
        types, texts = self.vocabulary.types, self.vocabulary.texts
        finds: dict[int, Find] = {}
        for prefix in _contained(self._specials_by_prefix.keys(), text):
            specials, lengths = self._specials_by_prefix[prefix]
            if len(specials) > _MANY * len(lengths):
                finds |= _find_many(text, prefix, specials, lengths)
            else:
                finds |= {i: partial(text.find, special) for special, i in specials.items()}
        for token_id in sorted(finds, key=lambda i: (-len(texts[i].encode()), i)):
            if parse_special or types[token_id] == TokenType.USER_DEFINED:
                yield token_id, finds[token_id]

    @cached_property
    def _specials_by_prefix(self) -> Mapping[str, tuple[Mapping[str, int], Set[int]]]:
        """By prefix: the special tokens that begin with it, {text: id}, and the texts' lengths.

        A vocabulary can have thousands, most of which begin alike ("<unused0>"): looking for the
        few prefixes first rules nearly all of them out.
        """
        by_prefix: dict[str, dict[str, int]] = {}
        for token_id in self.vocabulary.of_types(*_SPECIAL):
            text = self.vocabulary.texts[token_id]
            if token_id not in self.vocabulary.unreachable:
                by_prefix.setdefault(text[:_PREFIX], {})[text] = token_id
        return {prefix: (ids, set(map(len, ids))) for prefix, ids in by_prefix.items()}


def _contained(prefixes: Set[str], text: str) -> Iterable[str]:
    """The prefixes, of up to `_PREFIX` characters, that are in the text."""
    if len(prefixes) <= _MANY:
        return [prefix for prefix in prefixes if prefix in text]
    lengths = set(map(len, prefixes))
    return {text[i : i + n] for n in lengths for i in range(len(text))} & prefixes


def _find_many(
    text: str, prefix: str, specials: Mapping[str, int], lengths: Set[int]
) -> dict[int, Find]:
    """A `Find` for each of the specials in the text, all of which begin with `prefix`.

    One pass over the text finds all: where the prefix stands, what follows is looked up.
    """
    places: dict[int, list[int]] = {}
    start = text.find(prefix)
    while start >= 0:
        for length in lengths:
            token_id = specials.get(text[start : start + length])
            if token_id is not None:
                places.setdefault(token_id, []).append(start)
        start = text.find(prefix, start + 1)
    return {token_id: partial(_next, starts) for token_id, starts in places.items()}


def _next(places: Sequence[int], at: int) -> int:
    """The first of the places that is not before `at`, or -1."""
    i = bisect_left(places, at)
    return places[i] if i < len(places) else -1


class StreamDetokenizer:
    """Ids to text one at a time, with a character given out once its last byte is there."""

    __slots__ = ("_decoder", "_drop_space", "_skip_special", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool, drop_space: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._drop_space = drop_space
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that is complete with this token; raises `TokenizerError` for a wrong id."""
        if self._skip_special and self._tokenizer.is_hidden(token_id):
            return ""
        piece = self._tokenizer.token_bytes(token_id)
        if self._drop_space:
            piece = piece.removeprefix(b" ")
        self._drop_space = False
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """What is left: U+FFFD for a character whose last bytes never came, or nothing."""
        return self._decoder.decode(b"", final=True)


def revealed(text: str) -> str:
    """`text` with what `Tokenizer.hide_control_tokens` hid turned back."""
    return _well_formed(
        HIDDEN.sub(
            lambda run: bytes(ord(c) - 0xDC00 for c in run[0]).decode(errors="replace"), text
        )
    )


def _well_formed(text: str) -> str:
    """`text` with surrogate pairs joined, and each half without the other replaced by U+FFFD."""
    if not isinstance(text, str):
        raise ValueError(f"text is {reprlib.repr(text)}; it must be a str")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


# `tokenizer.ggml.model` -> what encodes.
ALGORITHMS: Final[Mapping[str, type[Algorithm]]] = MappingProxyType(
    {"llama": SentencePiece, "gpt2": BytePairs, "gemma4": BytePairs}
)
