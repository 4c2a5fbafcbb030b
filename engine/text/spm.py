"""The byte-pair encoding of SentencePiece ("llama" in GGUF, SPM in llama.cpp), by that library.

A GGUF file holds the tokens, scores and types of a SentencePiece model, from which the model is
rebuilt in memory. Where llama.cpp and SentencePiece differ, the types are changed so that the ids
are llama.cpp's: unused and user-defined tokens can be merged like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from linnet.engine.text.vocabulary import (
    BYTES_BY_NAME,
    PREFIX,
    TokenizerError,
    TokenType,
    Vocabulary,
    byte_values,
    read_vocabulary,
    warn_unwritable,
)

_SPACE: Final = "\u2581"  # "▁", how a token writes a space


class SentencePiece:
    """Text without special tokens to ids, and ids to bytes."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises `TokenizerError` if the vocabulary is not one of SentencePiece."""
        from sentencepiece import SentencePieceProcessor  # slow to import, and not always needed

        self.vocabulary: Final = vocabulary
        self._byte_values: Final = byte_values(vocabulary)
        self._processor = SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(_model_proto(vocabulary, self._byte_values))
        except RuntimeError as error:
            raise TokenizerError(f"SentencePiece does not take the vocabulary: {error}") from error

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> SentencePiece:
        """Read from a model's metadata, with llama.cpp's defaults for what is missing."""
        vocabulary = read_vocabulary(
            metadata, bos_id=1, eos_id=2, add_bos=True, add_space_prefix=True
        )
        return cls(vocabulary)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, which must be free of surrogates.

        What neither a token nor byte tokens can write becomes the unknown token, or is left out
        with a UserWarning where there is none. (llama.cpp ends there; a run of such characters is
        one unknown token here, as in SentencePiece.)
        """
        ids: list[int] = self._processor.encode(text, out_type=int)
        n_tokens, unk_id = len(self.vocabulary.texts), self.vocabulary.unk_id
        if max(ids, default=0) < n_tokens:  # none of the pieces that _model_proto adds
            return ids
        if unk_id is not None:
            return [unk_id if i >= n_tokens else i for i in ids]
        encode = self._processor.encode
        warn_unwritable(c for c in dict.fromkeys(text) if max(encode(c, out_type=int)) >= n_tokens)
        return [i for i in ids if i < n_tokens]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; `token_id` must be in range."""
        if token_id in self._byte_values:
            return self._byte_values[token_id]
        text = self.vocabulary.texts[token_id]
        if self.vocabulary.types[token_id] in (TokenType.NORMAL, TokenType.UNUSED):
            text = text.replace(_SPACE, " ")
        return text.encode()


# ---- the model, as sentencepiece reads it --------------------------------------------------------
#
# sentencepiece takes a model as a Protocol Buffers message (its src/sentencepiece_model.proto). Of
# that we need a few fields, and write them by hand: the protobuf package is large, slow to import,
# and refuses to load sentencepiece's bundled description unless their versions fit.

_BPE: Final = 2  # TrainerSpec.ModelType
_MAX_PIECE_BYTES: Final = 7_999
_NOT_TEXT: Final = frozenset({TokenType.UNKNOWN, TokenType.CONTROL})
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # SentencePiece.Type
_PIECE_TYPES: Final = {  # SentencePiece.Type, by TokenType
    TokenType.NORMAL: _NORMAL,
    TokenType.UNKNOWN: _CONTROL,  # as there can be only one unknown piece, and we add that
    TokenType.CONTROL: _CONTROL,
    TokenType.USER_DEFINED: _NORMAL,  # matched before we see the text; llama.cpp merges to them too
    TokenType.UNUSED: _NORMAL,
    TokenType.BYTE: _BYTE,
}


def _model_proto(vocabulary: Vocabulary, byte_values: Mapping[int, bytes]) -> bytes:
    """The ModelProto of a vocabulary. More pieces come at the end: one of type UNKNOWN and, as
    there must be all bytes or none, those of bytes that have no token."""
    names = _names(vocabulary)
    there = {names[token_id] for token_id in byte_values}
    missing = [name for name in map(str.encode, BYTES_BY_NAME) if there and name not in there]
    codes = np.array([0, *(_PIECE_TYPES[type] for type in TokenType)])  # by TokenType, from 0
    types = codes[np.frombuffer(vocabulary.types, np.uint8)]
    types[[i for i in vocabulary.of_types(TokenType.BYTE) if i not in byte_values]] = _NORMAL
    types[list(vocabulary.unreachable)] = _CONTROL
    for name in missing:
        token_id = vocabulary.ids.get(name.decode())
        if token_id is not None and names[token_id] == name:  # of another type
            types[token_id] = _BYTE
    added = [(b"\xff", _UNKNOWN), *((name, _BYTE) for name in missing if name not in set(names))]
    pieces = (_field(1, _field(1, name) + _field(3, type)) for name, type in added)
    trainer = _field(3, _BPE) + _field(35, bool(there))  # model_type, byte_fallback
    normalizer = _field(3, False) + _field(4, False)  # add_dummy_prefix, remove_extra_whitespaces
    last = [*pieces, _field(2, trainer), _field(3, normalizer)]
    return b"".join(chain(_pieces(names, vocabulary.scores, types), last))


def _pieces(
    names: Sequence[bytes], scores: NDArray[np.float32], types: NDArray[np.integer]
) -> Iterator[bytes]:
    """ModelProto.pieces: of each token, the piece (1), score (2) and type (3)."""
    lengths = list(map(len, names))
    heads = {n: _length(1, len(_length(1, n)) + n + 7) + _length(1, n) for n in set(lengths)}
    tails = np.empty(len(names), np.dtype("u1, <f4, u1, u1"))  # tag, score, tag, type
    tails["f0"], tails["f1"] = 2 << 3 | 5, scores
    tails["f2"], tails["f3"] = 3 << 3, types
    parts = zip(map(heads.__getitem__, lengths), names, tails.view("V7").tolist(), strict=True)
    return chain.from_iterable(parts)  # with no Python for each of many thousands of tokens


def _names(vocabulary: Vocabulary) -> list[bytes]:
    """What the pieces are called: as the tokens, but for tokens that no text is to become. Those
    are given a name that no text in UTF-8 can hold."""
    names = list(map(str.encode, vocabulary.texts))
    for token_id in chain(vocabulary.of_types(*_NOT_TEXT), vocabulary.unreachable):
        names[token_id] = b"\xff%d" % token_id
    longest = max(names, key=len)
    if len(longest) > _MAX_PIECE_BYTES:
        raise TokenizerError(
            f"{PREFIX}tokens[{names.index(longest)}] has {len(longest)} bytes; it must have at "
            f"most {_MAX_PIECE_BYTES}"
        )
    return names


def _field(number: int, value: bytes | int) -> bytes:
    """A field as it is written: its number and wire type, and the value."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _length(number, len(value)) + value


def _length(number: int, n_bytes: int) -> bytes:
    """What is written before the bytes of a field."""
    return _varint(number << 3 | 2) + _varint(n_bytes)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first, and the eighth bit set in all bytes but the last."""
    if number < 128:
        return bytes((number,))
    return bytes((number & 127 | 128,)) + _varint(number >> 7)
