"""The byte-pair encoding of GPT-2 ("gpt2" in GGUF) and of Gemma 4, by the library `tokenizers`.

A text is cut into words (`pretokenizers`). The bytes of a word are written as letters, one for
each, and the pair of neighbours that stands first among the merges is joined, until none is left.
Gemma 4 joins the characters of whole lines instead, with "▁" for a space, and writes a character
that is no token as tokens for its bytes.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

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
from linnet.kernels.memory import check_room

if TYPE_CHECKING:
    import tokenizers

# More bytes than the library takes, which ends the process where the system grants it no more.
ROOM: Final = 16 << 20
ENTRY_ROOM: Final = 512  # for a token or a merge
CHARACTER_ROOM: Final = 512  # for a character of a text

Pair = tuple[str, ...]  # of two, once checked

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
        self._is_byte_level: Final = pre_tokenizer.is_byte_level
        self._byte_values: Final = {} if self._is_byte_level else byte_values(vocabulary)
        ids = dict(vocabulary.ids)  # of what text can become
        for token_id in vocabulary.of_types(*_NOT_TEXT):
            if token_id not in vocabulary.unreachable:
                del ids[vocabulary.texts[token_id]]
        self._ids: Final = ids
        names = _LETTERS if self._is_byte_level else BYTES_BY_NAME
        self._missing_bytes: Final = {byte for byte, c in enumerate(names) if c not in ids}
        self._tokenizer: Final = _build(vocabulary, ids, merges, pre_tokenizer)

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

    def _merge(self, text: str) -> list[int]:
        check_room(ROOM + CHARACTER_ROOM * len(text))
        with _panics_are_errors():
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

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
_BYTES: Final = {letter: byte for byte, letter in enumerate(_LETTERS)}


def _read_merges(metadata: Mapping[str, object]) -> list[str]:
    merges = metadata.get(PREFIX + "merges")
    if isinstance(merges, np.ndarray) and not merges.size:
        return []  # an empty array has any type
    different = dict.fromkeys(read_strings(metadata, "merges"))  # of two alike, the first counts
    return [merge if isinstance(merge, str) else "" for merge in different]


def _build(
    vocabulary: Vocabulary,
    ids: dict[str, int],
    merges: Sequence[str],
    pre_tokenizer: PreTokenizer,
) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer, models  # not always needed

    def model(pairs: list[Pair]) -> models.BPE:
        return models.BPE(
            ids,
            pairs,  # type: ignore[arg-type]
            ignore_merges=pre_tokenizer.ignores_merges,
            byte_fallback=not pre_tokenizer.is_byte_level,
        )

    check_room(ROOM + ENTRY_ROOM * (len(ids) + len(merges)))
    pairs = [tuple(merge.split(" ")) for merge in merges]
    with _panics_are_errors():
        try:
            bpe = model(pairs)
        except Exception:  # the library's own type is Exception; find out what it objects to
            bpe = model(_mergeable(vocabulary, ids, pairs))
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = splitter(pre_tokenizer)
    return tokenizer


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


def _mergeable(vocabulary: Vocabulary, ids: Mapping[str, int], pairs: list[Pair]) -> list[Pair]:
    """The merges that text can take part in: those of two tokens that make a third, none of them a
    control token. Warns of others than these."""
    kept: list[Pair] = []
    bad: list[Pair] = []
    for pair in pairs:
        parts = (*pair, "".join(pair))
        if len(pair) != 2 or not all(part in vocabulary.ids for part in parts):
            bad.append(pair)
        elif all(part in ids for part in parts):
            kept.append(pair)
    if bad:
        first = f"{PREFIX}merges has {reprlib.repr(' '.join(bad[0]))}"
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        warn(f"{first}{more}, not two tokens with a space between, that make a third; left out")
    return kept
