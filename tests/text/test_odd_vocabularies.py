"""Vocabularies with faults that text can be written without: a warning, and what is taken."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from support import byte_pairs
from support.byte_pairs import LETTERS, MERGES
from test_tokenizer import BYTE, CONTROL, NORMAL, PLAIN, USER_DEFINED, build, metadata, pieces

from linnet.engine.text.tokenizer import Tokenizer

N = len(PLAIN)
TYPES = metadata()["tokenizer.ggml.token_type"]
SCORES = metadata()["tokenizer.ggml.scores"]


def changed(values: Any, index: int, value: float) -> Any:
    array = np.array(values)
    array[index] = value
    return array


def build_bpe(**changes: Any) -> Tokenizer:
    return byte_pairs.build(**changes)


@pytest.mark.parametrize("value", [N, 2**32 - 1, -1])
def test_a_special_token_that_there_is_not_is_llama_cpp_s_default(value: int) -> None:
    for key, name, default in (("bos_token_id", "bos_id", 1), ("eos_token_id", "eos_id", 2)):
        with pytest.warns(UserWarning, match=f"{key} is {value}, .*; {default} is taken"):
            assert getattr(build(**{key: value}), name) == default
        with pytest.warns(UserWarning, match=f"{key} is {value * 99}, .*; there is none"):
            assert getattr(build_bpe(**{key: value * 99}), name) is None
    for key in ("unknown_token_id", "eot_token_id", "eom_token_id", "fim_pad_token_id"):
        with pytest.warns(UserWarning, match=f"{key} is {value}, .*; there is none"):
            assert build(**{key: value}).eog_ids == build().eog_ids


@pytest.mark.parametrize("flag", ["add_bos_token", "add_eos_token"])
def test_a_token_that_there_is_not_is_not_added(flag: str) -> None:
    with pytest.warns(UserWarning, match=f"{flag} is true; the vocabulary has no such token"):
        tokenizer = build({"a": (0.0, NORMAL)}, **{flag: True}, add_space_prefix=False)
    assert tokenizer.encode("a") == [0]


@pytest.mark.parametrize("type", [0, 7, -1, 255])
def test_a_type_that_is_none_is_normal(type: int) -> None:
    token_id = list(PLAIN).index("ab")
    with pytest.warns(UserWarning, match=rf"token_type\[{token_id}\] is {type}; 1 \(normal\)"):
        odd = build(token_type=changed(TYPES, token_id, type))
    assert odd.encode("abcd") == build().encode("abcd")
    assert odd.decode([token_id]) == "ab"


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_0(score: float) -> None:
    with pytest.warns(UserWarning, match=r"scores\[9\] is .*; 0 is taken"):
        assert build(scores=changed(SCORES, 9, score)).encode("ab") == build().encode("ab")


def test_types_and_scores_of_no_tokens_are_left_out() -> None:
    more = {"token_type": [*TYPES, 1], "scores": [*SCORES, 0.0]}
    with pytest.warns(UserWarning, match=f"has {N + 1} entries; .* has {N}; .*left out"):
        assert build(**{key: np.array(v) for key, v in more.items()}).n_vocab == N


@pytest.mark.parametrize("missing", [[0], [0xC3], [0xC3, 0xA9], [*range(255)]])
def test_bytes_may_be_missing(missing: list[int]) -> None:
    table = {text: entry for text, entry in PLAIN.items() if text not in
             {f"<0x{byte:02X}>" for byte in missing}}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = build(table)
        assert tokenizer.decode(tokenizer.encode("ab cd")) == "ab cd"
    if 0xC3 in missing:
        with pytest.warns(UserWarning, match="'é' has no tokens to be written with") as caught:
            left = tokenizer.encode("abéabé", add_special=False)
        assert len(caught) == 1
        others = bytes([0xA9]) * (0xA9 not in missing)
        assert b"".join(map(tokenizer.token_bytes, left)) == b" ab" + others + b"ab" + others
    unknown = build(table, unknown_token_id=0)
    written = unknown.encode(chr(missing[0]), add_special=False)
    assert 0 in written
    assert max(written) < unknown.n_vocab


@pytest.mark.parametrize("text", ["<0xZZ>", "<0x-1>", "<0x0a>", "<0x0A", "0A", "<0x100>"])
def test_a_byte_token_of_another_name_stands_for_its_text(text: str) -> None:
    with pytest.warns(UserWarning, match=rf"tokens\[{N}\] is '{text}', of type 6"):
        tokenizer = build(PLAIN | {text: (0.0, BYTE)})
    assert tokenizer.decode([N]) == text
    assert tokenizer.decode(tokenizer.encode("ab\n")) == "ab\n"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_token_that_is_not_utf_8_is_written_as_it_is(kind: str) -> None:
    """Two halves of a character make it; no text becomes them."""
    values = metadata() if kind == "llama" else byte_pairs.metadata(more=("zz", "zzz"))
    texts: Any = values["tokenizer.ggml.tokens"]
    halves = "é".encode()[:1], "é".encode()[1:]
    texts[-3:-1] = halves
    with pytest.warns(UserWarning, match=r"\(and 1 more\) is b'\\xc3', which is not UTF-8"):
        tokenizer = Tokenizer.from_metadata(values)
    n = tokenizer.n_vocab
    assert tokenizer.decode([n - 3, n - 2], continues=True) == "é"
    for text in ("é", "\\xc3", "\xc3"):
        assert not {n - 3, n - 2} & set(tokenizer.encode(text, parse_special=True))
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("type", [NORMAL, CONTROL, USER_DEFINED, BYTE])
def test_of_two_tokens_alike_text_becomes_the_first_and_both_are_decoded(type: int) -> None:
    at = list(PLAIN).index("ab")
    tokens, types = [*PLAIN, "ab", "ab"], np.array([*TYPES, type, type])
    scores = np.array([*SCORES, 5.0, 6.0], np.float32)
    with pytest.warns(UserWarning, match=rf"\[{N}\] \(and 1 more\) is 'ab', as token {at} is"):
        tokenizer = build(tokens=tokens, token_type=types, scores=scores)
    assert tokenizer.encode("cab") == build().encode("cab")
    assert [tokenizer.decode([i], skip_special=False) for i in (at, N, N + 1)] == ["ab"] * 3


def test_a_special_token_twice_is_found_as_the_first() -> None:
    tokens, types = [*PLAIN, "<x>", "<x>"], np.array([*TYPES, CONTROL, CONTROL])
    scores = np.array([*SCORES, 0.0, 0.0], np.float32)
    with pytest.warns(UserWarning, match="that text becomes the first of them"):
        tokenizer = build(tokens=tokens, token_type=types, scores=scores)
    assert tokenizer.encode("<x>a", parse_special=True, add_special=False)[0] == N
    assert {N, N + 1}.isdisjoint(tokenizer.encode("<x>a"))


def test_a_token_twice_in_byte_pairs() -> None:
    values: Any = byte_pairs.metadata(more=("zz", "zzz"))
    values["tokenizer.ggml.tokens"][-3:-1] = ["hello", "h"]
    with pytest.warns(UserWarning, match=r"\(and 1 more\) is 'hello'"):
        tokenizer = Tokenizer.from_metadata(values)
    first = LETTERS.index("h")
    assert pieces(tokenizer, "hello h") == ["hello", "Ġ", "h"]
    assert tokenizer.encode("h", add_special=False) == [first]
    assert tokenizer.decode([tokenizer.n_vocab - 2]) == "h"


@pytest.mark.parametrize(
    "bad", [b"\xff \xfe", "a", "a b c", "", " a", "h zz", "a b"], ids=lambda bad: repr(bad)
)
def test_a_bad_merge_is_left_out(bad: str | bytes) -> None:
    good = build_bpe()
    values: Any = byte_pairs.metadata() | {"tokenizer.ggml.merges": [bad, *MERGES, bad]}
    with pytest.warns(UserWarning, match=r"merges has '.*', not two tokens .*; left out"):
        odd = Tokenizer.from_metadata(values)
    assert odd.encode("hello world 23") == good.encode("hello world 23")


def test_words_that_are_cut_by_guess_are_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"tokenizer\.ggml\.pre is missing") as caught:
        guessed = build_bpe(pre=None)
    assert len(caught) == 1
    assert guessed.encode("it's 12345") == build_bpe(pre="default").encode("it's 12345")
