"""Text to ids and back: against llama.cpp's vectors, SentencePiece itself, and a naive encoder."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT

from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.text.tokenizer import Tokenizer, TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
QUICK = settings(max_examples=80, deadline=None)

Table = Mapping[str, tuple[float, int]]  # text -> score, type

BYTE_TABLE: Table = {f"<0x{value:02X}>": (0.0, BYTE) for value in range(256)}
BASE: Table = {"<unk>": (0.0, UNKNOWN), "<s>": (0.0, CONTROL), "</s>": (0.0, CONTROL)} | BYTE_TABLE
WORDS = ["▁", *"abcdefgh", "ab", "▁a", "▁ab", "cd", "▁▁"]
PLAIN: Table = BASE | {text: (-float(i), NORMAL) for i, text in enumerate(WORDS)}


def metadata(table: Table = PLAIN, **changes: object) -> dict[str, object]:
    """The metadata of a vocabulary; a change to None takes that key away."""
    scores, types = zip(*table.values(), strict=True)
    values = {
        "model": "llama",
        "tokens": list(table),
        "scores": np.array(scores, np.float32),
        "token_type": np.array(types, np.int32),
    } | changes
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def build(table: Table = PLAIN, **changes: object) -> Tokenizer:
    return Tokenizer.from_metadata(metadata(table, **changes))


def with_specials(*texts: str, type: int = USER_DEFINED, **changes: object) -> Tokenizer:
    """A tokenizer with more tokens at its end, that cannot come of merging."""
    return build({**PLAIN, **dict.fromkeys(texts, (-1000.0, type))}, **changes)


def pieces(tokenizer: Tokenizer, text: str, *, parse_special: bool = False) -> list[str]:
    """The texts of the tokens of `text`."""
    ids = tokenizer.encode(text, add_special=False, parse_special=parse_special)
    return [tokenizer.vocabulary.texts[i] for i in ids]


# ---- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("name", ["llama-spm", "phi-3", "gpt-2", "llama-bpe", "qwen2"])
def test_ids_equal_those_of_llama_cpp(name: str, prepared: bool) -> None:
    folder = os.environ.get("LINNET_FIXTURES")
    if not folder:
        pytest.skip("LINNET_FIXTURES is not set: no real vocabularies to test with")
    path = Path(folder, "vocabs", f"ggml-vocab-{name}.gguf")
    texts = (
        path.with_suffix(".gguf.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")[:-1]
    )
    lines = path.with_suffix(".gguf.out").read_text().removesuffix("\n").split("\n")
    tokenizer = Tokenizer.from_gguf(path)
    assert len(texts) > 40
    if prepared:
        tokenizer.prepare()
    for text, line in zip(texts, lines, strict=True):
        ids = tokenizer.encode(text, add_special=False)
        assert ids == [int(number) for number in line.split()], repr(text)
        assert tokenizer.decode(ids) == text


def naive_encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Merge the two neighbours whose union has the highest score, the leftmost first, while any
    union is a token that text can become; then write what is no token in bytes."""
    vocabulary = tokenizer.vocabulary
    of_text = NORMAL, USER_DEFINED, UNUSED
    scores = {
        text: score
        for text, score, type in zip(
            vocabulary.texts, vocabulary.scores, vocabulary.types, strict=True
        )
        if type in of_text
    }
    symbols = list((" " + text if text else "").replace(" ", "▁"))
    while True:
        unions = [a + b for a, b in pairwise(symbols)]
        known = [i for i, union in enumerate(unions) if union in scores]
        if not known:
            break
        best = max(known, key=lambda i: (scores[unions[i]], -i))
        symbols[best : best + 2] = [unions[best]]
    texts = [
        text
        for symbol in symbols
        for text in ([symbol] if symbol in scores else [f"<0x{b:02X}>" for b in symbol.encode()])
    ]
    return [vocabulary.ids[text] for text in texts]


@QUICK
@given(
    words=st.dictionaries(
        st.text("ab▁é", min_size=1, max_size=4),
        st.tuples(st.integers(-3, 3), st.sampled_from([NORMAL, NORMAL, NORMAL, UNUSED, CONTROL])),
        max_size=25,
    ),
    texts=st.lists(st.text("ab é\n", max_size=20), min_size=1, max_size=5),
)
def test_ids_equal_those_of_a_naive_encoder(words: Table, texts: list[str]) -> None:
    tokenizer = build(BASE | words)
    for text in texts:
        assert tokenizer.encode(text, add_special=False) == naive_encode(tokenizer, text)
    tokenizer.prepare()
    for text in texts:
        assert tokenizer.encode(text, add_special=False) == naive_encode(tokenizer, text)


PROSE = """The owl and the pussy-cat went to sea in a beautiful pea-green boat,
They took some honey, and plenty of money, wrapped up in a five-pound note.
The owl looked up to the stars above, and sang to a small guitar,
"O let us be married! too long we have tarried: but what shall we do for a ring?"
"""


@pytest.fixture(scope="module")
def trained() -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece model of our own making."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PROSE.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=360,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


@pytest.fixture(scope="module")
def rebuilt(trained: sentencepiece.SentencePieceProcessor) -> Tokenizer:
    """The same model, by way of metadata."""

    def type_of(i: int) -> int:
        kinds = {UNKNOWN: trained.is_unknown, CONTROL: trained.is_control, BYTE: trained.is_byte}
        return next((type for type, is_kind in kinds.items() if is_kind(i)), NORMAL)

    ids = range(trained.get_piece_size())
    return build({trained.id_to_piece(i): (trained.get_score(i), type_of(i)) for i in ids})


TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.lists(st.sampled_from([*PROSE.split(), " ", "\n", "<s>", "🦙"]), max_size=8).map(" ".join),
)


@QUICK
@given(text=TEXT)
def test_ids_equal_those_of_sentencepiece(
    trained: sentencepiece.SentencePieceProcessor, rebuilt: Tokenizer, text: str
) -> None:
    assert rebuilt.encode(text, add_special=False) == trained.encode(text)


@QUICK
@given(text=TEXT)
def test_decoding_gives_the_text_back(rebuilt: Tokenizer, text: str) -> None:
    assert rebuilt.decode(rebuilt.encode(text)) == text.replace("▁", " ")


def test_a_space_is_put_in_front_unless_the_model_says_no() -> None:
    assert pieces(build(), "ab") == ["▁ab"]
    assert pieces(build(add_space_prefix=False), "ab") == ["ab"]
    assert build(add_space_prefix=False).decode(build().encode(" ab")) == "  ab"
    assert build().encode("", add_special=False) == []


@pytest.mark.parametrize(
    ("changes", "around"),
    [
        ({}, ([1], [])),
        ({"add_bos_token": False}, ([], [])),
        ({"add_eos_token": True}, ([1], [2])),
        ({"bos_token_id": 5, "eos_token_id": 6, "add_eos_token": True}, ([5], [6])),
    ],
)
def test_special_tokens_go_around_a_text(
    changes: dict[str, object], around: tuple[list[int], list[int]]
) -> None:
    tokenizer = build(**changes)
    front, end = around
    text = tokenizer.encode("ab", add_special=False)
    assert tokenizer.encode("ab") == [*front, *text, *end]
    assert tokenizer.encode("") == [*front, *end]


def test_a_character_without_token_is_unknown_where_there_are_no_bytes() -> None:
    table = {text: entry for text, entry in PLAIN.items() if text not in BYTE_TABLE}
    assert pieces(build(table, unknown_token_id=0), "aéüa") == ["▁a", "<unk>", "a"]
    with pytest.warns(UserWarning, match=r"'é' \(and 1 more\) has no tokens to be written with"):
        assert pieces(build(table), "aéüa") == ["▁a", "a"]


def test_tokens_can_be_long() -> None:
    runs = {"a" * 2**n: (float(n), NORMAL) for n in range(1, 13)}
    tokenizer = build(PLAIN | runs, add_space_prefix=False)
    assert pieces(tokenizer, "a" * (2**12 + 128)) == ["a" * 2**12, "a" * 128]
    with pytest.raises(TokenizerError, match=r"tokens\[273\] has 8000 bytes; .* at most 7999"):
        build(PLAIN | {"a" * 8000: (0.0, NORMAL)})


def test_half_a_surrogate_pair_is_read_as_a_replacement_character(rebuilt: Tokenizer) -> None:
    assert rebuilt.decode(rebuilt.encode("owl\ud800 \udc00sea")) == "owl\ufffd \ufffdsea"
    assert rebuilt.decode(rebuilt.encode("\ud83e\udd99")) == "🦙"


# ---- special tokens ------------------------------------------------------------------------------


def test_control_tokens_in_a_text_are_text_unless_asked_for() -> None:
    tokenizer = with_specials("<|end|>", type=CONTROL)
    for name in ("<s>", "</s>", "<unk>", "<|end|>"):
        special = tokenizer.vocabulary.ids[name]
        ids = tokenizer.encode(f"ab{name}ab", add_special=False)
        assert special not in ids
        assert tokenizer.decode(ids) == f"ab{name}ab"
        assert pieces(tokenizer, f"ab{name}ab", parse_special=True) == ["▁ab", name, "▁ab"]


LETTERS = dict.fromkeys((*"sunk>", "un", "nk"), (-1.0, NORMAL))


def test_no_merges_lead_to_a_control_token() -> None:
    table = {"<": (-1.0, NORMAL), "/": (-1.0, NORMAL), "s>": (-1.0, NORMAL), "</": (-1.0, NORMAL)}
    tokenizer = build(PLAIN | table | {"<u": (-1.0, NORMAL), "nk>": (-1.0, NORMAL)} | LETTERS)
    assert pieces(tokenizer, "</s>") == ["▁", "</", "s>"]
    assert pieces(tokenizer, "<unk>") == ["▁", "<u", "nk>"]


def test_user_defined_tokens_are_always_found() -> None:
    tokenizer = with_specials("<x>", "\n\n")
    assert pieces(tokenizer, "a<x>b\n\n\n") == ["▁a", "<x>", "▁", "b", "\n\n", "▁", "<0x0A>"]


def test_user_defined_tokens_with_spaces_can_be_merged_to() -> None:
    tokenizer = build(PLAIN | {"▁h": (-99.0, USER_DEFINED), "hc": (-50.0, NORMAL)})
    assert pieces(tokenizer, "hd") == ["▁h", "d"]
    assert pieces(tokenizer, "hc") == ["▁", "hc"]  # by their scores, like any other


@pytest.mark.parametrize(
    ("specials", "text", "expected"),
    [
        (["<a>", "<a><b>"], "<a><b><a>", ["<a><b>", "<a>"]),
        (["xy", "yzz"], "xyzz", ["▁", "<0x78>", "yzz"]),  # the longer, though it begins later
        (["xy", "yx"], "xyx", ["xy", "▁", "<0x78>"]),  # of two as long the lower id
        (["yx", "xy"], "xyx", ["▁", "<0x78>", "yx"]),
        (["xx"], "xxxxx", ["xx", "xx", "▁", "<0x78>"]),
        (["xxx", "xx"], "xxxxxx", ["xxx", "xxx"]),
        (["xyz", "zz"], "xyzzz", ["xyz", "zz"]),
        (["éé", "xxx"], "ééxxx", ["éé", "xxx"]),
        (["éy", "yxx"], "éyxx", ["éy", "▁", "<0x78>", "<0x78>"]),  # lengths are those in bytes
    ],
)
def test_longer_special_tokens_win(specials: list[str], text: str, expected: list[str]) -> None:
    assert pieces(with_specials(*specials), text) == expected


@QUICK
@given(
    specials=st.lists(st.text("xyé", min_size=1, max_size=4), unique=True, max_size=6),
    text=st.text("xyé", max_size=25),
)
def test_special_tokens_are_found_as_by_cutting_again_and_again(
    specials: list[str], text: str
) -> None:
    tokenizer = with_specials(*specials)
    parts: list[str] = [text]
    done: list[bool] = [False]
    for special in sorted(specials, key=lambda special: -len(special.encode())):
        cut = [
            (piece, is_done or i % 2 == 1)
            for part, is_done in zip(parts, done, strict=True)
            for i, piece in enumerate([part] if is_done else cut_at(part, special))
        ]
        parts, done = [piece for piece, _ in cut], [is_done for _, is_done in cut]
    expected = [piece for piece, is_done in zip(parts, done, strict=True) if is_done]
    for many in (0, 64):  # looked up wherever they may begin, or looked for one after another
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("linnet.engine.text.tokenizer._MANY", many)
            assert [p for p in pieces(tokenizer, text) if p in specials] == expected


def cut_at(text: str, special: str) -> list[str]:
    """`text` cut at each `special`, with these at the odd places."""
    between = text.split(special)
    return [piece for part in between for piece in (part, special)][:-1]


@pytest.mark.parametrize("name", ["Phi-3 Mini", "microsoft/phi3"])
def test_phi_3_special_tokens_take_white_space_after_them_along(name: str) -> None:
    specials = {"<|user|>": (-1000.0, CONTROL), "\t" * 9: (-1000.0, USER_DEFINED)}
    values = metadata(PLAIN | specials)
    text = "<|user|> \n ab<s> ab"
    plain = Tokenizer.from_metadata(values | {"general.name": "Philip 3"})
    phi = Tokenizer.from_metadata(values | {"general.name": name})
    assert pieces(plain, text, parse_special=True)[1:4] == ["▁▁", "<0x0A>", "▁ab"]
    assert pieces(phi, text, parse_special=True) == ["<|user|>", "▁ab", "<s>", "▁", "▁ab"]
    assert pieces(phi, "<|user|>  ", parse_special=True) == ["<|user|>"]
    assert pieces(phi, "<|user|> " + "\t" * 9, parse_special=True) == ["<|user|>", "\t" * 9]


@pytest.mark.parametrize(
    ("specials", "changes", "ends"),
    [
        ([], {}, {"</s>"}),
        (["<|im_end|>", "<|eot_id|>"], {}, {"</s>", "<|im_end|>", "<|eot_id|>"}),
        (["<end_of_turn>", "<start_of_turn>"], {}, {"</s>", "<end_of_turn>"}),
        ([], {"eos_token_id": 259}, {"</s>", "▁"}),
        ([], {"eot_token_id": 260, "eom_token_id": 261}, {"</s>", "a", "b"}),
        (["<|return|>", "<|call|>", "<|end|>"], {}, {"</s>", "<|return|>", "<|call|>"}),
        (["<|return|>", "<|end|>"], {}, {"</s>", "<|return|>", "<|end|>"}),
    ],
)
def test_tokens_that_end_a_generation(
    specials: list[str], changes: dict[str, object], ends: set[str]
) -> None:
    tokenizer = with_specials(*specials, **changes)
    assert {tokenizer.vocabulary.texts[i] for i in tokenizer.eog_ids} == ends


def test_control_tokens_that_divide_an_answer_are_shown_but_not_parsed() -> None:
    names = "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>", "<|x|>"
    tokenizer = with_specials(*names, type=CONTROL)
    text = "".join(names)
    ids = tokenizer.encode(text, add_special=False, parse_special=True)
    assert len(ids) <= len(names) + 1  # and the space in front
    assert tokenizer.decode(ids) == "<|start|><|channel|><|message|><|end|>"
    assert len(tokenizer.encode(text, add_special=False)) > len(names) + 1


def test_a_token_that_ends_a_generation_is_a_control_token_whatever_its_type() -> None:
    tokenizer = with_specials("<|im_end|>", type=USER_DEFINED)
    (end,) = tokenizer.encode("<|im_end|>", add_special=False, parse_special=True)
    assert "<|im_end|>" not in pieces(tokenizer, "a<|im_end|>")
    assert tokenizer.decode([end]) == ""


# ---- text ----------------------------------------------------------------------------------------


@QUICK
@given(data=st.data(), skip_special=st.booleans(), continues=st.booleans())
def test_streamed_text_is_that_of_all_bytes_at_once(
    rebuilt: Tokenizer, data: st.DataObject, skip_special: bool, continues: bool
) -> None:
    ids = data.draw(st.lists(st.integers(0, rebuilt.n_vocab - 1), max_size=25))
    shown = [i for i in ids if not (skip_special and i < 3)]
    expected = b"".join(map(rebuilt.token_bytes, shown))
    if not continues and shown and rebuilt.token_bytes(shown[0]).startswith(b" "):
        expected = expected[1:]
    stream = rebuilt.detokenizer(skip_special=skip_special, continues=continues)
    streamed = "".join([stream.push(i) for i in ids] + [stream.finish()])
    assert streamed == expected.decode(errors="replace")
    assert rebuilt.decode(ids, skip_special=skip_special, continues=continues) == streamed


def test_a_character_comes_out_with_its_last_byte() -> None:
    tokenizer = build()
    stream = tokenizer.detokenizer()
    llama = [tokenizer.vocabulary.ids[f"<0x{byte:02X}>"] for byte in "🦙".encode()]
    assert [stream.push(i) for i in llama] == ["", "", "", "🦙"]
    assert [stream.push(i) for i in llama[:3]] == ["", "", ""]
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def test_only_the_space_that_was_put_in_front_is_left_out() -> None:
    tokenizer = build()
    ids = tokenizer.encode("ab", add_special=False)
    assert tokenizer.decode([1, *ids, *ids]) == "ab ab"
    assert tokenizer.decode([1, *ids], skip_special=False) == "<s> ab"
    assert tokenizer.decode(ids, continues=True) == " ab"
    assert tokenizer.decode(tokenizer.encode("  ab")) == "  ab"


def test_the_bytes_of_a_token() -> None:
    tokenizer = with_specials("▁x▁")
    expected = {"▁ab": b" ab", "<0xE2>": b"\xe2", "<s>": b"<s>", "▁x▁": "▁x▁".encode()}
    for text, piece in expected.items():
        assert tokenizer.token_bytes(tokenizer.vocabulary.ids[text]) == piece


@pytest.mark.parametrize("token_id", [-1, len(PLAIN), 2**31])
def test_an_id_out_of_range_is_refused(token_id: int) -> None:
    tokenizer = build()
    for use in (tokenizer.token_bytes, tokenizer.detokenizer().push, tokenizer.is_hidden):
        with pytest.raises(TokenizerError, match=f"token id is {token_id}; .* 0 to 272"):
            use(token_id)
    with pytest.raises(TokenizerError):
        tokenizer.decode([1, token_id])


# ---- bad vocabularies ----------------------------------------------------------------------------

N = len(PLAIN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "model is None; it must be one of 'llama'"),
        ({"model": "test"}, "model is 'test'; it must be one of 'llama'"),
        ({"model": 3}, "model is 3"),
        ({"tokens": None}, "tokens is missing; it must be an array of strings"),
        ({"tokens": 7}, "tokens is 7"),
        ({"tokens": []}, "tokens has 0 entries; at least 1 is needed"),
        ({"tokens": [*list(PLAIN)[:-1], 3]}, "tokens is .*; it must be an array of strings"),
        ({"scores": np.zeros(N - 1, np.float32)}, f"scores has 272 entries; .* has {N}, and each"),
        ({"scores": np.zeros(0, np.float32)}, f"scores has 0 entries; .* has {N}, and each"),
        ({"scores": ["0.0"] * N}, "scores is .*; it must be an array of numbers"),
        ({"token_type": np.ones(N - 1, np.int32)}, f"token_type has 272 entries; .* {N}"),
        ({"token_type": np.ones(N, np.float32)}, "token_type is .*; it must be an array of int"),
        ({"eos_token_id": True}, "eos_token_id is True"),
        ({"eos_token_id": 1.0}, "eos_token_id is 1.0"),
        ({"unknown_token_id": "0"}, "unknown_token_id is '0'"),
        ({"add_bos_token": 1}, "add_bos_token is 1; it must be true or false"),
        ({"add_space_prefix": "no"}, "add_space_prefix is 'no'"),
    ],
)
def test_a_bad_vocabulary_is_refused_by_key_value_and_limit(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TokenizerError, match=message):
        build(**changes)


def test_what_a_vocabulary_can_do_without() -> None:
    words = {text: (score, NORMAL) for score, text in enumerate(["▁", "a", "b", "▁a", "ab"])}
    changes = {"add_bos_token": False, "token_type": None}
    assert pieces(build(words, **changes), "ab") == ["▁", "ab"]
    assert pieces(build(words, **changes, scores=None), "ab") == ["▁a", "b"]  # leftmost first
    assert build(PLAIN | {"": (0.0, NORMAL)}).vocabulary.texts[-1] == f"[EMPTY_{N}]"


KEYS = [
    *("model", "tokens", "scores", "token_type", "add_bos_token", "add_eos_token"),
    *("bos_token_id", "eos_token_id", "eot_token_id", "unknown_token_id", "add_space_prefix"),
]


@settings(max_examples=150, deadline=None)
@given(
    changes=st.dictionaries(
        st.sampled_from(KEYS),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**63), 2**64 - 1),
            st.floats(),
            st.text(max_size=5),
            st.binary(max_size=5),
            st.lists(st.one_of(st.text(max_size=3), st.binary(max_size=2)), max_size=6),
            st.lists(st.integers(-9, 9), max_size=6).map(np.array),
            st.lists(st.floats(width=32), max_size=6).map(np.array),
        ),
        min_size=1,
        max_size=3,
    ),
    text=st.text(max_size=10),
)
def test_any_metadata_gives_a_tokenizer_or_a_tokenizer_error(
    changes: dict[str, object], text: str
) -> None:
    small = {"<unk>": (0.0, UNKNOWN), "a": (0.0, NORMAL)}
    with contextlib.suppress(TokenizerError):
        tokenizer = build(small, **({"add_bos_token": False} | changes))
        tokenizer.decode(tokenizer.encode(text, parse_special=True))


# ---- files, time and memory ----------------------------------------------------------------------


def test_a_tokenizer_is_read_from_a_file_by_path_or_open(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(list(PLAIN))
    writer.add_token_scores([score for score, _ in PLAIN.values()])
    writer.add_token_types([type for _, type in PLAIN.values()])
    writer.add_bos_token_id(5)
    writer.add_add_space_prefix(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with GGUFFile(path) as file:
        for tokenizer in (Tokenizer.from_gguf(path), Tokenizer.from_gguf(file)):
            assert tokenizer.bos_id == 5
            assert pieces(tokenizer, "ab a") == ["ab", "▁a"]


def test_sentencepiece_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, linnet.engine.text.tokenizer; sys.exit('sentencepiece' in sys.modules)"
    root = ROOT
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize("unit", ["a", " ", "<x>", "é", "ab cd\n"])
def test_a_megabyte_is_encoded_in_two_seconds(unit: str) -> None:
    runs = {"a" * n: (-float(n), NORMAL) for n in range(2, 40)}
    tokenizer = build(PLAIN | runs | {"<x>": (0.0, USER_DEFINED), ">" * 9: (0.0, USER_DEFINED)})
    text = unit * (1_000_000 // len(unit.encode()))
    start = time.perf_counter()
    ids = tokenizer.encode(text)
    assert time.perf_counter() - start < 2
    assert len(ids) > 10_000


def test_special_tokens_by_the_thousand_cost_little() -> None:
    tokenizer = with_specials(*(f"<unused{i}>" for i in range(10_000)))
    text = "<a> " * 50_000
    start = time.perf_counter()
    assert "<unused9>" in pieces(tokenizer, "a<unused9>" + text[:40])
    tokenizer.encode(text)
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("unit", ["aaaa", "aaaa1", "aaaa12345", "b"])
@pytest.mark.parametrize("alike", [True, False])
def test_special_tokens_that_are_everywhere_in_a_megabyte_cost_little(
    unit: str, alike: bool
) -> None:
    """Looking for one after another would take a minute."""
    n = 20_000
    tokenizer = with_specials(*(f"aaaa{i}" if alike else f"{chr(0x4E00 + i)}a" for i in range(n)))
    start = time.process_time()
    tokenizer.encode(unit * (1_000_000 // len(unit)))
    assert time.process_time() - start < 5
