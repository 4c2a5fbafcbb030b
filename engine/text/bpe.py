"""The byte-pair encoding of GPT-2 ("gpt2" in GGUF) and of Gemma 4, by the library `tokenizers`.

A text is cut into words (`pretokenizers`). The bytes of a word are written as letters, one for
each, and the pair of neighbours that stands first among the merges is joined, until none is left.
Gemma 4 joins the characters of whole lines instead, with "▁" for a space, and writes a character
that is no token as tokens for its bytes.
"""

from __future__ import annotations

import hashlib
import operator
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from linnet.engine.text.on_demand import Encode, OnDemand
from linnet.engine.text.pretokenizers import PreTokenizer, find_pre_tokenizer
from linnet.engine.text.vocabulary import (
    BYTES_BY_NAME,
    PREFIX,
    TokenizerError,
    TokenType,
    Vocabulary,
    byte_values,
    read_strings,
    read_vocabulary,
    warn,
    warn_unwritable,
)
from linnet.kernels.compiler.object_cache import ObjectCache
from linnet.kernels.memory import check_room

if TYPE_CHECKING:
    import tokenizers

# More bytes than the library takes, which ends the process where the system grants it no more.
ROOM: Final = 16 << 20
ENTRY_ROOM: Final = 512  # for a token or a merge
CHARACTER_ROOM: Final = 512  # for a character of a text
MANY_MERGES: Final = 10_000  # to look at in a moment

_SPACE: Final = "\u2581"  # "▁"
_NOT_TEXT: Final = (TokenType.CONTROL, TokenType.UNKNOWN)
_LINE_BREAKS: Final = re.compile(r"\n{2,}")


class BytePairs:
    """Text without special tokens to ids, and ids to bytes."""

    def __init__(
        self, vocabulary: Vocabulary, merges: Sequence[str], pre_tokenizer: PreTokenizer
    ) -> None:
        """`merges`: two tokens with a space between, the first to be merged first.

        A merge of tokens that are not in the vocabulary is left out, with a UserWarning.
        """
        self.vocabulary: Final = vocabulary
        self._pre_tokenizer: Final = pre_tokenizer
        self._is_byte_level: Final = pre_tokenizer.is_byte_level
        self._byte_values: Final = {} if self._is_byte_level else byte_values(vocabulary)
        self._ids: Final = vocabulary.of_text()
        names = _LETTERS if self._is_byte_level else BYTES_BY_NAME
        self._missing_bytes: Final = {byte for byte, c in enumerate(names) if c not in self._ids}
        self._merges: Final = _mergeable(vocabulary, self._ids, merges)
        self._encoder: Final = OnDemand(
            self._ids, self._build, _in_letters if self._is_byte_level else str
        )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> BytePairs:
        """Read from a model's metadata, with llama.cpp's defaults for what is missing, but for its
        token 11, Falcon's, as bos and eos."""
        is_gemma = metadata.get(PREFIX + "model") == "gemma4"
        name = "gemma4" if is_gemma else metadata.get(PREFIX + "pre")
        pre_tokenizer = find_pre_tokenizer(name)
        if name is None:
            warn(
                f"{PREFIX}pre is missing; words are cut as llama.cpp does then, maybe not as the "
                "model was trained"
            )
        vocabulary = read_vocabulary(
            metadata,
            bos_id=None,
            eos_id=None,
            add_bos=pre_tokenizer.adds_bos,
            add_space_prefix=False,
        )
        # As in llama.cpp: these never put a space in front, and Gemma 4 has bos whatever it says.
        add_bos = vocabulary.add_bos or (name == "gemma4" and vocabulary.bos_id is not None)
        vocabulary = replace(vocabulary, add_space_prefix=False, add_bos=add_bos)
        return cls(vocabulary, _read_merges(metadata), pre_tokenizer)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, which must be free of surrogates.

        What the vocabulary has no way to write is left out, with a UserWarning.
        """
        if not self._is_writable(text):
            warn_unwritable(c for c in dict.fromkeys(text) if not self._is_writable(c))
        if self._is_byte_level:
            return self._merge(text)
        text = text.replace(" ", _SPACE)
        ids: list[int] = []
        for part in self._cut_line_breaks(text):
            ids += [part] if isinstance(part, int) else self._merge(part)
        return ids

    def prepare(self) -> None:
        """Do now what a long text needs."""
        self._encoder.prepare()

    def _merge(self, text: str) -> list[int]:
        check_room(ROOM + CHARACTER_ROOM * len(text))
        with _panics_are_errors():
            return self._encoder.encode(text)

    def _build(self, ids: Mapping[str, int]) -> Encode:
        """The library's encoder with these tokens, those for bytes, and what merges them."""
        from tokenizers import Tokenizer, models  # not always needed

        merges = self._merges if ids is self._ids else _merges_among(ids, self._merges)
        check_room(ROOM + ENTRY_ROOM * (len(ids) + len(merges)))
        model = models.BPE(
            dict(ids) | {name: self._ids[name] for name in BYTES_BY_NAME if name in self._ids},
            [(a, b) for a, b in (merge.split(" ") for merge in merges)],
            ignore_merges=self._pre_tokenizer.ignores_merges,
            byte_fallback=not self._is_byte_level,
        )
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = self._splitter
        return lambda text: tokenizer.encode(text, add_special_tokens=False).ids

    @cached_property
    def _splitter(self) -> tokenizers.pre_tokenizers.PreTokenizer:
        return splitter(self._pre_tokenizer)

    def _cut_line_breaks(self, text: str) -> Iterator[str | int]:
        """Cut out the runs of line breaks that are tokens, but not by merging (Gemma 4)."""
        runs = {run for run in set(_LINE_BREAKS.findall(text)) if run in self._ids}
        apart = {run for run in runs if len(self._merge(run)) != 1}
        if apart:
            pattern = "|".join(rf"(?<!\n)\n{{{len(run)}}}(?!\n)" for run in apart)
            for part in filter(None, re.split(f"({pattern})", text)):
                yield self._ids[part] if part in apart else part
        else:
            yield text

    def _is_writable(self, text: str) -> bool:
        if self._is_byte_level:
            return not self._missing_bytes or self._missing_bytes.isdisjoint(text.encode())
        others = "".join(c for c in set(text.replace(" ", _SPACE)) if c not in self._ids)
        return self._missing_bytes.isdisjoint(others.encode())

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; `token_id` must be in range."""
        if token_id in self._byte_values:
            return self._byte_values[token_id]
        text = self.vocabulary.texts[token_id]
        if self.vocabulary.types[token_id] in (*_NOT_TEXT, TokenType.USER_DEFINED):
            return text.encode()
        if not self._is_byte_level:
            return text.replace(_SPACE, " ").encode()
        try:
            return bytes([_BYTES[letter] for letter in text])
        except KeyError:  # not made of letters for bytes
            return text.encode()


def byte_letters() -> list[str]:
    """GPT-2's letter for each byte: itself where it can be seen, else one from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in visible else next(others)) for byte in range(256)]


_LETTERS: Final = byte_letters()
_LETTER_TABLE: Final = dict(enumerate(_LETTERS))  # for str.translate
_BYTES: Final = {letter: byte for byte, letter in enumerate(_LETTERS)}


def _in_letters(text: str) -> str:
    """The bytes of a text as letters."""
    return text.encode().decode("latin-1").translate(_LETTER_TABLE)


def _read_merges(metadata: Mapping[str, object]) -> list[str]:
    merges = metadata.get(PREFIX + "merges")
    if isinstance(merges, np.ndarray) and not merges.size:
        return []  # an empty array has any type
    strings = read_strings(metadata, "merges")
    if bytes in set(map(type, strings)):
        return [m if isinstance(m, str) else "" for m in strings]
    return cast("list[str]", strings)


@contextmanager
def _panics_are_errors() -> Iterator[None]:
    """The library panics where it has not thought of an error: as a BaseException, of a type that
    it does not name. It holds no state that could be left half-done."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        message = f"the library tokenizers gives up: {str(error)[:200]}"
        raise TokenizerError(message) from error


def splitter(pre_tokenizer: PreTokenizer) -> tokenizers.pre_tokenizers.PreTokenizer:
    """What cuts a text into words, as the library has it."""
    from tokenizers import Regex, pre_tokenizers

    cuts: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(regex), "isolated") for regex in pre_tokenizer.regexes
    ]
    if pre_tokenizer.is_byte_level:
        cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(cuts)


def _mergeable(
    vocabulary: Vocabulary, ids: Mapping[str, int], merges: Sequence[str]
) -> dict[str, int]:
    """The merges that text can take part in, and their ranks: those of two tokens that make a
    third, none of them a control token. Warns of others than these. Of two alike, the first counts.
    """
    if not (_noted(ids, merges) if len(merges) >= MANY_MERGES else _make_tokens(ids, merges)):
        merges = _sorted_out(vocabulary, ids, merges)
    ranks = dict(zip(merges, range(len(merges)), strict=True))
    if len(ranks) < len(merges):
        ranks = {merge: rank for rank, merge in enumerate(dict.fromkeys(merges))}
    return ranks


def _make_tokens(ids: Mapping[str, int], merges: Sequence[str]) -> bool:
    """Whether each merge is two of these tokens with a space between, that make a third."""
    parts = " ".join(merges).split(" ") if merges else []
    unions = map(operator.add, parts[::2], parts[1::2])
    return len(parts) == 2 * len(merges) and all(map(ids.__contains__, chain(parts, unions)))


def _noted(ids: Mapping[str, int], merges: Sequence[str]) -> bool:
    """`_make_tokens`, but what was true once is noted in the cache of kernels: to look at 280
    thousand merges takes longer than all the rest of reading a vocabulary."""
    written = "\0".join([*ids, *merges])
    if written.count("\0") != len(ids) + len(merges) - 1:  # in a token: not to be told apart
        return _make_tokens(ids, merges)
    key = hashlib.sha256(f"merges of {len(ids)} tokens\0{written}".encode()).hexdigest()
    cache = ObjectCache.from_environment()
    if cache.read(key) is not None:
        return True
    if _make_tokens(ids, merges):
        cache.write(key, b"")
        return True
    return False


def _sorted_out(vocabulary: Vocabulary, ids: Mapping[str, int], merges: Sequence[str]) -> list[str]:
    """See `_mergeable`: one by one."""
    kept: list[str] = []
    bad: list[str] = []
    for merge in dict.fromkeys(merges):
        pair = merge.split(" ")
        parts = (*pair, "".join(pair))
        if len(pair) != 2 or not all(part in vocabulary.ids for part in parts):
            bad.append(merge)
        elif all(part in ids for part in parts):
            kept.append(merge)
    if bad:
        first = f"{PREFIX}merges has {reprlib.repr(bad[0])}"
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        warn(f"{first}{more}, not two tokens with a space between, that make a third; left out")
    return kept


def _merges_among(ids: Mapping[str, int], ranks: Mapping[str, int]) -> list[str]:
    """The merges that make one of these tokens of two others, in order."""
    found = {
        merge
        for text in ids
        for i in range(1, len(text))
        if (merge := f"{text[:i]} {text[i:]}") in ranks
    }
    return sorted(found, key=ranks.__getitem__)
