"""The byte-pair encoding of SentencePiece ("llama" in GGUF, SPM in llama.cpp), by that library.

A GGUF file holds the tokens, scores and types of a SentencePiece model, from which the model is
rebuilt in memory. Where llama.cpp and SentencePiece differ, it is changed so that the ids are
llama.cpp's: unused and user-defined tokens can be merged like any other (user-defined ones are
matched before we see the text, too).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

import numpy as np
from numpy.typing import NDArray

from linnet.engine.text.on_demand import Encode, OnDemand
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
_NO_TOKEN: Final = -1  # where text cannot be written


class SentencePiece:
    """Text without special tokens to ids, and ids to bytes."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises `TokenizerError` for a token that is longer than SentencePiece takes."""
        self.vocabulary: Final = vocabulary
        self._byte_values: Final = byte_values(vocabulary)
        self._ids: Final = vocabulary.of_text()
        _check_lengths(self._ids)
        self._encoder: Final = OnDemand(self._ids, self._build, _written)

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
        encode, unk_id = self._encoder.encode, self.vocabulary.unk_id
        ids = encode(text)
        if _NO_TOKEN not in ids:
            return ids
        if unk_id is not None:
            return [unk_id if i == _NO_TOKEN else i for i in ids]
        self.prepare()
        warn_unwritable(c for c in dict.fromkeys(text) if _NO_TOKEN in encode(c))
        return [i for i in ids if i != _NO_TOKEN]

    def prepare(self) -> None:
        """Do now what a long text needs."""
        self._encoder.prepare()

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; `token_id` must be in range."""
        if token_id in self._byte_values:
            return self._byte_values[token_id]
        text = self.vocabulary.texts[token_id]
        if self.vocabulary.types[token_id] in (TokenType.NORMAL, TokenType.UNUSED):
            text = text.replace(_SPACE, " ")
        return text.encode()

    def _build(self, ids: Mapping[str, int]) -> Encode:
        """The library's encoder with these tokens, and those for bytes; it gives `_NO_TOKEN` for
        what they cannot write."""
        from sentencepiece import SentencePieceProcessor  # slow to import, and not always needed

        names = BYTES_BY_NAME if self._byte_values else {}
        merged = {text: i for text, i in ids.items() if text not in names}
        token_ids = [*merged.values(), *(self._ids.get(name, _NO_TOKEN) for name in names)]
        token_ids.append(_NO_TOKEN)  # for the unknown piece
        processor = SentencePieceProcessor()
        try:
            scores = self.vocabulary.scores[[*merged.values()]]
            processor.LoadFromSerializedProto(_model_proto(merged, scores, names))
        except RuntimeError as error:
            raise TokenizerError(f"SentencePiece does not take the vocabulary: {error}") from error
        return lambda text: [token_ids[i] for i in processor.encode(text, out_type=int)]


def _written(text: str) -> str:
    return text.replace(" ", _SPACE)


def _check_lengths(ids: Mapping[str, int]) -> None:
    """Raise `TokenizerError` for a token that is longer than SentencePiece takes."""
    if 4 * max(map(len, ids), default=0) <= _MAX_PIECE_BYTES:
        return
    longest = max(ids, key=lambda text: len(text.encode()))
    n_bytes = len(longest.encode())
    if n_bytes > _MAX_PIECE_BYTES:
        found = f"{PREFIX}tokens[{ids[longest]}] has {n_bytes} bytes"
        raise TokenizerError(f"{found}; it must have at most {_MAX_PIECE_BYTES}")


# ---- the model, as sentencepiece reads it --------------------------------------------------------
#
# sentencepiece takes a model as a Protocol Buffers message (its src/sentencepiece_model.proto). Of
# that we need a few fields, and write them by hand: the protobuf package is large, slow to import,
# and refuses to load sentencepiece's bundled description unless their versions fit.

_BPE: Final = 2  # TrainerSpec.ModelType
_MAX_PIECE_BYTES: Final = 7_999
_NORMAL, _UNKNOWN, _BYTE = 1, 2, 6  # SentencePiece.Type


def _model_proto(
    merged: Collection[str], scores: NDArray[np.float32], byte_names: Collection[str]
) -> bytes:
    """A ModelProto: the pieces that come of merging, those for bytes (all, or none), and the one
    of type UNKNOWN that there must be."""
    unknown = _field(1, _field(1, b"\xff") + _field(3, _UNKNOWN))
    of_bytes = [_field(1, _field(1, name.encode()) + _field(3, _BYTE)) for name in byte_names]
    trainer = _field(3, _BPE) + _field(35, bool(byte_names))  # model_type, byte_fallback
    normalizer = _field(3, False) + _field(4, False)  # add_dummy_prefix, remove_extra_whitespaces
    last = [*of_bytes, unknown, _field(2, trainer), _field(3, normalizer)]
    return b"".join(chain(_pieces(list(map(str.encode, merged)), scores), last))


def _pieces(names: Sequence[bytes], scores: NDArray[np.float32]) -> Iterator[bytes]:
    """ModelProto.pieces: of each token, the piece (1), score (2) and type (3)."""
    lengths = list(map(len, names))
    heads = {n: _length(1, len(_length(1, n)) + n + 7) + _length(1, n) for n in set(lengths)}
    tails = np.empty(len(names), np.dtype("u1, <f4, u1, u1"))  # tag, score, tag, type
    tails["f0"], tails["f1"] = 2 << 3 | 5, scores
    tails["f2"], tails["f3"] = 3 << 3, _NORMAL
    parts = zip(map(heads.__getitem__, lengths), names, tails.view("V7").tolist(), strict=True)
    return chain.from_iterable(parts)  # with no Python for each of many thousands of tokens


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
