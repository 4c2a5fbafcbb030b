"""The BPE of GPT-2 and Gemma 4: cuts of every pre-tokenizer, merges against a naive encoder."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT
from support.byte_pairs import (
    BYTE,
    CONTROL,
    END,
    LETTERS,
    MERGES,
    USER_DEFINED,
    build,
    metadata,
)

from linnet.engine.cli.main import main
from linnet.engine.text.bpe import BytePairs, splitter
from linnet.engine.text.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from linnet.engine.text.tokenizer import Tokenizer, TokenizerError

QUICK = settings(max_examples=80, deadline=None)


def pieces(tokenizer: Tokenizer, text: str, *, parse_special: bool = False) -> list[str]:
    ids = tokenizer.encode(text, add_special=False, parse_special=parse_special)
    return [tokenizer.vocabulary.texts[i] for i in ids]


# ---- words ---------------------------------------------------------------------------------------

TEXT = "I'M HTTPServer's 12345 x=½+[a] \n\n\t 你好。е\u0301t/\nß_b\u3000 €"  # noqa: RUF001
LIKE_LLAMA = "I|'M| HTTPServer|'s| |{}| x|=|½|+[|a|]| \n\n|\t| 你好|。е|\u0301t|/\n|ß|_b|\u3000| €"  # noqa: RUF001
LIKE_GPT_2 = (
    "I|'|M| HTTPServer|'s|{}| x|=|½|+[|a|]| \n\n\t| 你好|。|е|\u0301|t|/|\n|ß|_|b|\u3000| €"  # noqa: RUF001
)
IN_THREES, SINGLY, AS_ONE = "123|45", "1|2|3|4|5", " 12345"
LLAMA_3, QWEN_2 = LIKE_LLAMA.format(IN_THREES), LIKE_LLAMA.format(SINGLY)
GRANITE = LLAMA_3.replace("I|'", "I'").replace("r|'", "r'").replace("е|\u0301", "е\u0301")  # noqa: RUF001

# `TEXT` cut into words; scripts/compare_tokenizers.py finds llama.cpp to agree.
WORDS = {
    "default": LIKE_GPT_2.format(f" |{IN_THREES}").replace("'s", "'|s"),
    **dict.fromkeys(("llama-bpe", "dbrx", "chatglm-bpe", "glm4", "minicpm5"), LLAMA_3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "ufakzeka", "bailingmoe"), QWEN_2),
    "qwen35": QWEN_2.replace("е|\u0301", "е\u0301"),  # noqa: RUF001
    "seed-coder": QWEN_2.replace("/\n", "/|\n"),
    "laguna": QWEN_2.replace("/\n", "/|\n").replace(" \n\n", " |\n\n"),
    **dict.fromkeys(("gpt-2", "mpt", "gpt-neox"), LIKE_GPT_2.format(AS_ONE)),
    **dict.fromkeys(("starcoder", "smollm", "command-r"), LIKE_GPT_2.format(f" |{SINGLY}")),
    "falcon": LIKE_GPT_2.format(f" |{IN_THREES}").replace("'s", "'|s"),
    "deepseek-llm": "I|'|M| HTTPServer|'|s| |12345| x|=|½|+[|a|]| |\n|\n|\t |你好|。|е|\u0301|t|/"  # noqa: RUF001
    "|\n|ß|_|b|\u3000 |€",
    "deepseek-coder": "I|'|M| HTTPServer|'|s| |1|2|3|4|5| x|=|½|+|[|a|]| |\n|\n|\t| |你好|。"
    "|е|\u0301|t|/|\n|ß|_|b|\u3000 |€",  # noqa: RUF001
    "deepseek-v3": LLAMA_3.replace("\t| 你好|。е|\u0301t", "\t |你好|。|е\u0301t"),  # noqa: RUF001
    **dict.fromkeys(("gpt-4o", "llama4"), LLAMA_3.replace("I|'", "I'").replace("r|'", "r'")),
    "granite-embed-multi-97m": GRANITE,
    "tekken": QWEN_2,
    "bloom": "I'M| HTTPServer's| 12345| x=½+[a]| \n\n\t| 你好|。|е\u0301t/|\n|ß_b|\u3000| €",  # noqa: RUF001
    "viking": "I'M| HTTPServer's| |1|2|3|4|5| x=|½|+[a]| \n\n\t| 你好|。|е\u0301t/|\n"  # noqa: RUF001
    "|ß_b|\u3000| €",
    "gemma4": "I'M HTTPServer's 12345 x=½+[a] |\n\n|\t 你好。е\u0301t/|\n|ß_b\u3000 €",  # noqa: RUF001
}


def words(pre: str, text: str) -> str:
    cut = splitter(PRE_TOKENIZERS[pre]).pre_tokenize_str(text)
    return "|".join(text[start:end] for _, (start, end) in cut)


@pytest.mark.parametrize("pre", WORDS)
def test_words(pre: str) -> None:
    assert words(pre, TEXT) == WORDS[pre]


def test_the_words_of_every_pre_tokenizer_are_tested() -> None:
    assert {PRE_TOKENIZERS[pre] for pre in WORDS} == set(PRE_TOKENIZERS.values())


@pytest.mark.parametrize("pre", ["gpt-4o", "tekken"])
def test_words_by_case(pre: str) -> None:
    """Letters beyond ASCII can be either; a word ends with the last letter that can be lower."""
    assert words(pre, "camelCase") == "camel|Case"
    assert words(pre, "ABCd ABCé ABCéD") == "ABCd| ABCé| ABCé|D"
    assert words(pre, "aÉb éBC\u0301") == "aÉb| é|BC|\u0301"


@pytest.mark.parametrize("pre", ["llama-bpe", "gpt-4o", "deepseek-llm", "gpt-2"])
@pytest.mark.parametrize("unit", ["a", "A", " ", "\n", "1", "é", " x", "A\u0301"])
def test_long_runs_are_encoded(pre: str, unit: str) -> None:
    """In a moment: what looks at the rest of a run from each of its characters would take long."""
    merges = [f"{'a' * 2**n} {'a' * 2**n}" for n in range(6)]
    tokenizer = build(merges, pre=pre)
    text = unit * (50_000 // len(unit)) + "中"
    ids = tokenizer.encode(text, add_special=False)
    assert len(ids) > 50_000 // 64
    assert tokenizer.decode(ids) == text


def test_a_panic_of_the_library_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    """It panics where an expression tries too long, and that is no Exception."""
    values = metadata()
    vocabulary = build().vocabulary
    merges = values["tokenizer.ggml.merges"]
    assert isinstance(merges, list)
    pairs = BytePairs(vocabulary, merges, PreTokenizer(("(?:a|a|a)+b",)))
    assert len(pairs.encode("ab")) == 2
    with pytest.raises(TokenizerError, match=r"tokenizers gives up: .*retry-limit"):
        pairs.encode("a" * 30 + "cb")
    assert "panicked" in capfd.readouterr().err


# ---- ids -----------------------------------------------------------------------------------------


def naive_ids(tokenizer: Tokenizer, merges: list[str], word: str) -> list[int]:
    """Join the pair that comes first among the merges, the leftmost first, while there is any."""
    ranks = {tuple(merge.split(" ")): rank for rank, merge in reversed(list(enumerate(merges)))}
    symbols = [LETTERS[byte] for byte in word.encode()]
    while known := [pair for pair in pairwise(symbols) if pair in ranks]:
        pair = min(known, key=ranks.__getitem__)
        at = list(pairwise(symbols)).index(pair)
        symbols[at : at + 2] = ["".join(pair)]
    return [tokenizer.vocabulary.ids[symbol] for symbol in symbols]


@QUICK
@given(data=st.data())
def test_ids_equal_those_of_a_naive_encoder(data: st.DataObject) -> None:
    tokens, merges = ["a", "b", "Ã", "©"], []
    for _ in range(data.draw(st.integers(0, 12))):
        pair = data.draw(st.tuples(st.sampled_from(tokens), st.sampled_from(tokens)))
        merges.append(" ".join(pair))
        tokens.append("".join(pair))
    tokenizer = build(merges)
    for word in data.draw(st.lists(st.text("abé", min_size=1, max_size=20), max_size=4)):
        assert tokenizer.encode(word, add_special=False) == naive_ids(tokenizer, merges, word)


def test_words_are_merged_apart() -> None:
    assert pieces(build(), "hello world") == ["hello", "Ġwor", "ld"]
    assert pieces(build(), "hello  world") == ["hello", "Ġ", "Ġwor", "ld"]
    assert pieces(build(), "héllo") == ["h", "Ã©", "ll", "o"]
    assert pieces(build(), "") == []


def test_a_word_that_is_a_token_needs_no_merges_where_the_model_says_so() -> None:
    changes: dict[str, Any] = {"more": ("low",)}
    assert pieces(build(pre="llama-bpe", **changes), "low") == ["low"]
    assert pieces(build(pre="qwen2", **changes), "low") == ["l", "o", "w"]


def test_of_two_equal_merges_the_first_counts() -> None:
    merges = ["a b", "b c", "a b"]
    assert pieces(build(merges), "abc") == ["ab", "c"]


@QUICK
@given(text=st.text(max_size=40))
@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen35", "gpt-4o", "deepseek-llm"])
def test_decoding_gives_the_text_back(pre: str, text: str) -> None:
    tokenizer = TOKENIZERS.setdefault(pre, build(pre=pre))
    ids = tokenizer.encode(text, add_special=False)
    assert tokenizer.decode(ids) == text.encode("utf-16", "surrogatepass").decode(
        "utf-16", "replace"
    )


TOKENIZERS: dict[str, Tokenizer] = {}


@pytest.mark.parametrize(
    ("changes", "around"),
    [
        ({}, (False, False)),
        ({"pre": "llama-bpe"}, (True, False)),
        ({"pre": "llama-bpe", "add_bos_token": False}, (False, False)),
        ({"add_bos_token": True, "add_eos_token": True}, (True, True)),
        ({"add_space_prefix": True}, (False, False)),  # as llama.cpp, which does not look at it
    ],
)
def test_special_tokens_go_around_a_text(
    changes: dict[str, object], around: tuple[bool, bool]
) -> None:
    tokenizer = build(**changes)
    end = tokenizer.vocabulary.ids[END]
    text = tokenizer.encode("hello", add_special=False)
    assert text == [tokenizer.vocabulary.ids["hello"]]
    assert tokenizer.encode("hello") == [end] * around[0] + text + [end] * around[1]


@pytest.mark.parametrize("pre", ["gpt-2", "falcon", "llama-bpe", "glm4"])
def test_there_is_no_bos_or_eos_where_the_file_names_none(pre: str) -> None:
    """Not even where the pre-tokenizer usually comes with bos."""
    tokenizer = build(pre=pre, bos_token_id=None, eos_token_id=None)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (None, None)
    assert 11 not in tokenizer.eog_ids
    assert tokenizer.encode("hello") == tokenizer.encode("hello", add_special=False)


def test_special_tokens_are_found_only_on_request_and_user_defined_ones_always() -> None:
    tokenizer = build(specials={"<|im_start|>": CONTROL, "<tool>": USER_DEFINED})
    text = "hello<|im_start|><tool>"
    start = tokenizer.vocabulary.ids["<|im_start|>"]
    assert start not in tokenizer.encode(text)
    assert pieces(tokenizer, text)[-1] == "<tool>"
    assert pieces(tokenizer, text, parse_special=True) == ["hello", "<|im_start|>", "<tool>"]
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe"])
def test_no_text_becomes_a_control_token(pre: str) -> None:
    """Neither by merging nor as a whole word."""
    tokenizer = build([*MERGES, "a b"], specials={"ab": CONTROL, "low": CONTROL}, pre=pre)
    assert pieces(tokenizer, "ab low") == ["a", "b", "Ġ", "l", "o", "w"]
    assert pieces(tokenizer, "hello") == ["hello"]
    assert pieces(tokenizer, "ab", parse_special=True) == ["ab"]


def test_the_bytes_of_a_token() -> None:
    tokenizer = build(specials={"<é>": USER_DEFINED}, more=("☃",))
    for text, piece in {
        "Ġwor": b" wor", "Ã": b"\xc3", "Ċ": b"\n", "Ġ": b" ", "ÿ": b"\xff", "☃": "☃".encode(),
        "<é>": "<é>".encode(), END: END.encode(),
    }.items():  # fmt: skip
        assert tokenizer.token_bytes(tokenizer.vocabulary.ids[text]) == piece
    values = [tokenizer.token_bytes(tokenizer.vocabulary.ids[letter]) for letter in LETTERS]
    assert values == [bytes([value]) for value in range(256)]


def test_a_byte_without_token_is_left_out_with_a_warning() -> None:
    tokenizer = build(letters=[c for c in LETTERS if c not in "ÃĒ"], merges=["h e"])
    assert tokenizer.decode(tokenizer.encode("he中")) == "he中"
    with pytest.warns(UserWarning, match=r"'é' \(and 2 more\) has no tokens") as caught:
        assert tokenizer.decode(tokenizer.encode("heéhe\x12ñ\x12" + "é" * 9)).startswith("he")
    assert len(caught) == 1
    with pytest.warns(UserWarning, match=r"'\\x12' has no tokens"):
        assert pieces(tokenizer, "he\x12he") == ["he", "he"]


# ---- Gemma 4 -------------------------------------------------------------------------------------

GEMMA: dict[str, Any] = {
    "model": "gemma4",
    "pre": None,
    "letters": [*"abcé▁\n", *(f"<0x{value:02X}>" for value in range(256))],
    "merges": ["a b", "▁ a", "▁ ab", "b ▁", "\n \n"],
}


def gemma(**changes: Any) -> Tokenizer:
    values = metadata(**(GEMMA | changes))
    types: Any = values["tokenizer.ggml.token_type"]
    texts: Any = values["tokenizer.ggml.tokens"]
    for i, text in enumerate(texts):
        if text.startswith("<0x"):
            types[i] = BYTE
    return Tokenizer.from_metadata(values)


def test_gemma_merges_whole_lines_and_writes_spaces_as_tokens_do() -> None:
    assert pieces(gemma(), "ab ab") == ["ab", "▁ab"]
    assert pieces(gemma(), "b a\na") == ["b", "▁a", "\n", "a"]
    assert pieces(gemma(), "é中") == ["é", "<0xE4>", "<0xB8>", "<0xAD>"]
    assert gemma().encode("a")[0] == gemma().bos_id
    assert gemma(add_bos_token=False).encode("a")[0] == gemma().bos_id


def test_gemma_takes_runs_of_line_breaks_that_are_tokens() -> None:
    tokenizer = gemma(more=("\n\n\n",))
    for n, expected in {1: 1, 2: 1, 3: 1, 4: 2, 5: 3}.items():
        assert pieces(tokenizer, "a" + "\n" * n + "b").count("\n\n\n") == (n == 3)
        assert len(pieces(tokenizer, "a" + "\n" * n + "b")) == 2 + expected


@QUICK
@given(text=st.text("abcé▁ \n中🦙", max_size=20))
def test_gemma_gives_the_text_back(text: str) -> None:
    tokenizer = TOKENIZERS.setdefault("gemma4", gemma(more=("\n\n\n",)))
    assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


def test_gemma_without_byte_tokens_leaves_out_what_it_cannot_write() -> None:
    tokenizer = gemma(letters=[*"abcé▁\n"])
    assert pieces(tokenizer, "é a") == ["é", "▁a"]
    with pytest.warns(UserWarning, match="'中' has no tokens"):
        assert pieces(tokenizer, "é中 a") == ["é", "▁a"]


# ---- bad metadata --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre": "nonsense"}, "pre is 'nonsense'; it must be one of 'default', .*'llama-bpe'"),
        ({"pre": 3}, "pre is 3; it must be one of"),
        ({"merges": None}, "merges is missing; it must be an array of strings"),
        ({"merges": "a b"}, "merges is 'a b'; it must be an array of strings"),
        ({"merges": np.arange(3)}, "merges is array.*; it must be an array of strings"),
        ({"tokens": []}, "tokens has 0 entries"),
    ],
)
def test_bad_metadata_is_refused_by_key_value_and_limit(
    changes: dict[str, object], message: str
) -> None:
    values = metadata() | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_metadata(values)


def test_no_merges_at_all_are_fine() -> None:
    assert pieces(build(merges=[]), "he") == ["h", "e"]
    values = metadata(merges=[]) | {"tokenizer.ggml.merges": np.zeros(0, np.int32)}
    assert pieces(Tokenizer.from_metadata(values), "he") == ["h", "e"]


@settings(max_examples=100, deadline=None)
@given(
    merges=st.lists(st.text("ab c", max_size=5), max_size=5),
    tokens=st.lists(st.text("abcĠ", max_size=3), max_size=6),
    pre=st.sampled_from([*PRE_TOKENIZERS]),
    text=st.text(max_size=10),
)
def test_any_metadata_gives_a_tokenizer_or_a_tokenizer_error(
    merges: list[str], tokens: list[str], pre: str, text: str
) -> None:
    values: dict[str, object] = {"model": "gpt2", "pre": pre, "tokens": tokens, "merges": merges}
    with contextlib.suppress(TokenizerError):
        tokenizer = Tokenizer.from_metadata(
            {f"tokenizer.ggml.{key}": value for key, value in values.items()}
            | {"tokenizer.ggml.add_bos_token": False}
        )
        tokenizer.decode(tokenizer.encode(text, parse_special=True))


def test_the_library_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, linnet.engine.text.tokenizer; sys.exit('tokenizers' in sys.modules)"
    root = ROOT
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_the_command_prints_the_ids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bpe.gguf"
    values = metadata()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(values["tokenizer.ggml.tokens"])
    writer.add_token_types([int(i) for i in np.asarray(values["tokenizer.ggml.token_type"])])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(build().vocabulary.ids[END])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    ids = build(pre="llama-bpe").encode("hello world")
    assert main(["tokenize", "-m", str(path), "--ids", "-p", "hello world"]) == 0
    assert capsys.readouterr().out == f"{ids}\n"
