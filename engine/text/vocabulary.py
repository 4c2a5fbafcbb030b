"""The vocabulary of a model file: its tokens, their types and scores, and the special ones.

Read from the metadata keys `tokenizer.ggml.*` (ggml docs/gguf.md) and checked as it is read, so
that what comes after can index without fear: every id is in range, every token is text, and each
array has as many entries as there are tokens. What text can be written without is no reason to
refuse a file: it gives a UserWarning, and llama.cpp's default is taken.
"""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

PREFIX: Final = "tokenizer.ggml."

# Tokens that end a generation, known by their text: a file's metadata often names only one of
# them. These are the ones llama.cpp knows (src/llama-vocab.cpp).
# fmt: off
_END_TEXTS: Final = frozenset({
    "</s>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "[e~[", "<|eot_id|>", "<|eom_id|>",
    "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<|endoftext|>",
    "<|end_of_text|>", "<end_of_turn>", "<end_of_utterance>", "<turn|>", "<|tool_response>",
    "<\uff5cend▁of▁sentence\uff5c>", "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
    "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
})
# fmt: on
# Where all on the left are in the vocabulary, the one on the right ends a message, not the turn.
_NOT_AN_END: Final = (
    (frozenset({"<|return|>", "<|call|>"}), "<|end|>"),
    (frozenset({"<|calls|>", "<|flush|>"}), "<|end|>"),
    (frozenset({"<|tool_response>"}), "</s>"),
)
# Control tokens that are part of an answer: they divide it into channels (gpt-oss).
_DIVIDERS: Final = frozenset({"<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"})
BYTES_BY_NAME: Final = MappingProxyType({f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)})
_END_KEYS: Final = ("eot", "eom", "fim_pad", "fim_rep", "fim_sep")


class TokenizerError(ValueError):
    """A tokenizer that cannot be built, or an id it does not have; says what, and the limit."""


class TokenType(IntEnum):
    """What a token is, as `tokenizer.ggml.token_type` numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # begins, ends, separates: no text, and never made of a user's text
    USER_DEFINED = 4  # text that is always one token
    UNUSED = 5
    BYTE = 6  # "<0x00>" to "<0xFF>": one byte of a character that has no token


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vocabulary:
    """The tokens of a model. The index into `texts`, `types` and `scores` is the token id."""

    texts: Sequence[str]
    ids: Mapping[str, int]  # the reverse of texts, but for the unreachable
    unreachable: frozenset[int]  # tokens that no text becomes: second ones of a text, and `raw`
    raw: Mapping[int, bytes]  # what is not UTF-8
    types: bytes  # a TokenType each
    scores: NDArray[np.float32]  # (n_tokens,) the higher, the sooner it is merged
    bos_id: int | None
    eos_id: int | None
    unk_id: int | None
    eog_ids: frozenset[int]  # all that end a generation
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    shown: frozenset[int]  # control tokens that are part of an answer: where its messages divide
    strips_right: frozenset[int]  # special tokens that take the white space after them along

    @property
    def boundaries(self) -> dict[str, str]:
        """The texts of the tokens around a text, by the names that chat templates have for them;
        empty where there is none."""
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id}
        return {name: "" if i is None else self.texts[i] for name, i in ids.items()}

    def of_text(self) -> dict[str, int]:
        """The ids of the tokens that text can become by merging: no control tokens among them."""
        ids = dict(self.ids)
        for token_id in self.of_types(TokenType.CONTROL, TokenType.UNKNOWN):
            if token_id not in self.unreachable:
                del ids[self.texts[token_id]]
        return ids

    def of_types(self, *types: TokenType) -> list[int]:
        """The ids of all tokens of these types, in order."""
        return _of_types(self.types, *types)


def read_vocabulary(
    metadata: Mapping[str, object],
    *,
    bos_id: int | None,
    eos_id: int | None,
    add_bos: bool,
    add_space_prefix: bool,
) -> Vocabulary:
    """Read and check the vocabulary in a model's metadata.

    The keywords are what holds for keys that are missing; a default id that the vocabulary does
    not reach becomes None. Raises `TokenizerError` naming the key, its value and the limit.
    """
    texts, raw = _read_texts(metadata)
    ids, unreachable = _index(texts, raw)
    n_tokens = len(texts)
    bos_id = _read_id(metadata, "bos", n_tokens, default=bos_id)
    eos_id = _read_id(metadata, "eos", n_tokens, default=eos_id)
    add_bos = _read_flag(metadata, "add_bos_token", default=add_bos, needs=bos_id)
    add_eos = _read_flag(metadata, "add_eos_token", default=False, needs=eos_id)
    end_ids = {eos_id} | {_read_id(metadata, name, n_tokens) for name in _END_KEYS}
    message_ends = {text for signs, text in _NOT_AN_END if signs <= ids.keys()} & ids.keys()
    end_ids_by_text = {ids[text] for text in _END_TEXTS - message_ends if text in ids}
    eog_ids = frozenset(i for i in end_ids | end_ids_by_text if i is not None)
    shown = frozenset(ids[text] for text in _DIVIDERS & ids.keys() | message_ends) - eog_ids
    types = _read_types(metadata, n_tokens, control=end_ids_by_text)
    return Vocabulary(
        texts=texts,
        ids=ids,
        unreachable=unreachable,
        raw=raw,
        types=types,
        scores=_read_scores(metadata, n_tokens),
        bos_id=bos_id,
        eos_id=eos_id,
        unk_id=_read_id(metadata, "unknown", n_tokens),
        eog_ids=eog_ids,
        add_bos=add_bos,
        add_eos=add_eos,
        add_space_prefix=_read_flag(metadata, "add_space_prefix", default=add_space_prefix),
        shown=shown,
        strips_right=_strips_right(metadata, ids, types),
    )


def read_strings(metadata: Mapping[str, object], key: str) -> list[str | bytes]:
    """An array of strings; one that is not UTF-8 comes as bytes.

    Raises `TokenizerError` where it is missing, or is something else.
    """
    strings = metadata.get(PREFIX + key)
    if not isinstance(strings, list) or not set(map(type, strings)) <= {str, bytes}:
        raise _error(key, strings, "an array of strings")
    return strings


def byte_values(vocabulary: Vocabulary) -> dict[int, bytes]:
    """The byte that each BYTE token stands for, by id; one of another name stands for its text."""
    values: dict[int, bytes] = {}
    for token_id in vocabulary.of_types(TokenType.BYTE):
        text = vocabulary.texts[token_id]
        if text in BYTES_BY_NAME:
            values[token_id] = BYTES_BY_NAME[text]
        else:
            found = f"{PREFIX}tokens[{token_id}] is {reprlib.repr(text)}, of type {TokenType.BYTE}"
            warn(
                f"{found} (byte); it stands for its text, as it is not one of '<0x00>' to '<0xFF>'"
            )
    return values


def warn(message: str) -> None:
    """Tell of what is wrong with a vocabulary, or a text, that can still be used."""
    warnings.warn(message, stacklevel=3)


def warn_unwritable(characters: Iterable[str]) -> None:
    """Tell of characters that are left out of a text."""
    first, *others = characters
    warn(f"{first!r}{_others(1 + len(others))} has no tokens to be written with; it is left out")


def _read_texts(metadata: Mapping[str, object]) -> tuple[list[str], dict[int, bytes]]:
    """The tokens, and by id those that are not UTF-8; an empty one becomes "[EMPTY_<id>]", as in
    llama.cpp."""
    strings = read_strings(metadata, "tokens")
    if not strings:
        raise TokenizerError(f"{PREFIX}tokens has 0 entries; at least 1 is needed")
    raw = {}
    texts: list[Any] = [*strings]
    if bytes in set(map(type, strings)):
        raw = {i: string for i, string in enumerate(strings) if isinstance(string, bytes)}
        first, others = min(raw), _others(len(raw))
        found = f"{PREFIX}tokens[{first}]{others} is {reprlib.repr(raw[first])}, which is not UTF-8"
        warn(f"{found}; no text becomes such a token")
        texts = [
            s.decode(errors="backslashreplace") if i in raw else s for i, s in enumerate(texts)
        ]
    if "" in texts:
        texts = [text or f"[EMPTY_{i}]" for i, text in enumerate(texts)]
    return texts, raw


def _index(texts: Sequence[str], raw: Mapping[int, bytes]) -> tuple[dict[str, int], frozenset[int]]:
    """The ids of tokens by their text, and those that no text becomes. Of several tokens with one
    text, it becomes the first."""
    ids = dict(zip(texts, range(len(texts)), strict=True))
    unreachable = frozenset(raw)
    if len(ids) != len(texts):
        ids = {texts[i]: i for i in reversed(range(len(texts)))}
        doubles = [i for i, text in enumerate(texts) if ids[text] != i]
        again, others = doubles[0], _others(len(doubles))
        first = f"is {reprlib.repr(texts[again])}, as token {ids[texts[again]]} is"
        warn(f"{PREFIX}tokens[{again}]{others} {first}; that text becomes the first of them")
        unreachable |= frozenset(doubles)
    for token_id in raw:
        if ids.get(texts[token_id]) == token_id:
            del ids[texts[token_id]]
    return ids, unreachable


def _read_id(
    metadata: Mapping[str, object], name: str, n_tokens: int, *, default: int | None = None
) -> int | None:
    """A special token; the default where the file names none, or one that there is not."""
    key = f"{name}_token_id"
    value = metadata.get(PREFIX + key)
    if value is not None and not _is_integer(value):
        raise _error(key, value, f"0 to {n_tokens - 1}, as there are {n_tokens} tokens")
    if value is not None and 0 <= value < n_tokens:
        return int(value)
    default = default if default is not None and default < n_tokens else None
    if value is not None:
        taken = "there is none" if default is None else f"{default} is taken, llama.cpp's default"
        warn(f"{PREFIX}{key} is {value}, and there are {n_tokens} tokens; {taken}")
    return default


def _read_flag(
    metadata: Mapping[str, object], key: str, *, default: bool, needs: int | None = 0
) -> bool:
    value = metadata.get(PREFIX + key, default)
    if not isinstance(value, bool | np.bool_):
        raise _error(key, value, "true or false")
    if value and needs is None and PREFIX + key in metadata:
        warn(f"{PREFIX}{key} is true; the vocabulary has no such token, so none is added")
    return bool(value) and needs is not None


def _read_types(
    metadata: Mapping[str, object], n_tokens: int, *, control: Collection[int]
) -> bytes:
    """The token types; all NORMAL if the file has none. Those in `control` are CONTROL anyway."""
    types = bytearray([TokenType.NORMAL]) * n_tokens
    if PREFIX + "token_type" in metadata:
        numbers = _read_numbers(metadata, "token_type", n_tokens, kinds="iu")
        unknown = np.flatnonzero((numbers < min(TokenType)) | (numbers > max(TokenType)))
        if unknown.size:
            first = f"{PREFIX}token_type[{unknown[0]}]{_others(unknown.size)}"
            warn(f"{first} is {numbers[unknown[0]]}; {TokenType.NORMAL} (normal) is taken")
            numbers[unknown] = TokenType.NORMAL
        types = bytearray(numbers.astype(np.uint8))
    for token_id in control:
        types[token_id] = TokenType.CONTROL
    return bytes(types)


def _of_types(types: bytes, *wanted: TokenType) -> list[int]:
    ids: list[int] = np.flatnonzero(np.isin(np.frombuffer(types, np.uint8), wanted)).tolist()
    return ids


def _read_scores(metadata: Mapping[str, object], n_tokens: int) -> NDArray[np.float32]:
    """The scores; all zero if the file has none."""
    if PREFIX + "scores" not in metadata:
        return np.zeros(n_tokens, np.float32)
    with np.errstate(over="ignore"):
        scores = _read_numbers(metadata, "scores", n_tokens, kinds="iuf").astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        first = f"{PREFIX}scores[{bad[0]}]{_others(bad.size)}"
        warn(f"{first} is {scores[bad[0]]}, not a finite number; 0 is taken")
        scores[bad] = 0
    return scores


def _read_numbers(
    metadata: Mapping[str, object], key: str, n_tokens: int, *, kinds: str
) -> NDArray[Any]:
    numbers = metadata[PREFIX + key]
    if not isinstance(numbers, np.ndarray) or numbers.dtype.kind not in kinds:
        raise _error(key, numbers, "an array of " + ("numbers" if "f" in kinds else "integers"))
    if numbers.size != n_tokens:
        found = f"{PREFIX}{key} has {numbers.size} entries; {PREFIX}tokens has {n_tokens}"
        if numbers.size < n_tokens:
            raise TokenizerError(f"{found}, and each must have one")
        warn(f"{found}; those behind are left out")
    return numbers[:n_tokens].copy()


def _strips_right(
    metadata: Mapping[str, object], ids: Mapping[str, int], types: bytes
) -> frozenset[int]:
    """The special tokens that take white space after them along: those of Phi-3, by its name.

    A GGUF file cannot say this of a token, so llama.cpp goes by the model's name; so do we.
    """
    name = metadata.get("general.name")
    if not isinstance(name, str) or not any(n in name.lower() for n in ("phi-3", "phi3")):
        return frozenset()
    special = _of_types(types, TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
    return frozenset(special) - {ids.get(text) for text in ("<unk>", "<s>", "<|endoftext|>")}


def _others(n: int) -> str:
    """How many there are beside the one that a message names."""
    return f" (and {n - 1} more)" if n > 1 else ""


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _error(key: str, value: object, limit: str) -> TokenizerError:
    found = "missing" if value is None else reprlib.repr(value)
    return TokenizerError(f"{PREFIX}{key} is {found}; it must be {limit}")
