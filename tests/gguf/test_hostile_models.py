"""Files that are valid GGUF and no valid model: hyper-parameters, weights, vocabularies, templates.

As in test_gguf_hostile.py, whose numbering of families goes on here, each is loaded in a process of
its own (model_probe.py), which also lets it speak.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_gguf_hostile
from support import ROOT
from support.fuzz_seeds import LLAMA, byte_pairs, llama_tensors, model, sentencepiece
from support.systems import skip_without_proc
from support.tiny_architectures import N_EMBD, N_VOCAB, TINY, NamedTensor, TinyArchitecture
from test_gguf_hostile import MAX_MIB, Report

from linnet.engine.cli.main import main
from linnet.engine.gguf.types import GGML_TYPES
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.models import ARCHITECTURES

MAX_SECONDS = 5.0  # of the processor; those that speak compile their kernels, too


class Child:
    """A process that looks at one file after another; another one follows one that dies."""

    def __init__(self, path: Path) -> None:
        skip_without_proc()
        self._path = path
        self._process: subprocess.Popen[str] | None = None

    def ask(self, file: bytes, text: str | None = None) -> Report:
        """What it makes of a file, or of a text with the file's vocabulary."""
        self._path.write_bytes(file)
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, ROOT / "tests/support/model_probe.py"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=test_gguf_hostile.child_environment(),
            )  # fmt: skip
        assert self._process.stdin
        assert self._process.stdout
        line = str(self._path) if text is None else f"{self._path}\t{json.dumps(text)}"
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if answer:
            return Report(**json.loads(answer))
        _, errors = self._process.communicate()
        status, self._process = self._process.returncode, None
        return Report(f"died ({status}): {errors[-2000:]}")

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    child = Child(tmp_path_factory.mktemp("hostile") / "model.gguf")
    child.ask(model(LLAMA | sentencepiece(), llama_tensors(WEIGHT_TYPES["Q8_0"])))
    yield child
    child.close()


def check_refused(report: Report, error: str, *messages: str) -> None:
    assert report.outcome.startswith(f"{error}: "), report.outcome
    for message in messages:
        assert message in report.outcome
    assert report.outcome.isprintable()
    assert report.seconds < MAX_SECONDS
    assert report.mib < MAX_MIB
    assert report.leaked == 0


# ---- 44: hyper-parameters ------------------------------------------------------------------------

NAN = math.nan
HYPERPARAMETERS: dict[str, tuple[str, Any]] = {
    "no layers": ("block_count", 0),
    "2^32 - 1 layers": ("block_count", 2**32 - 1),
    "1,025 layers": ("block_count", 1025),
    "layers as text": ("block_count", "3"),
    "no heads": ("attention.head_count", 0),
    "-1 heads": ("attention.head_count", -1),
    "1,025 heads": ("attention.head_count", 1025),
    "heads for one layer of several": ("attention.head_count", np.array([4])),
    "heads as a fraction": ("attention.head_count", 4.0),
    "no heads of keys": ("attention.head_count_kv", 0),
    "heads that are no multiple of those of keys": ("attention.head_count_kv", 3),
    "a width of 0": ("embedding_length", 0),
    "a width beyond 2^20": ("embedding_length", 2**20 + 1),
    "a network of width 2^32 - 1": ("feed_forward_length", 2**32 - 1),
    "a negative rope base": ("rope.freq_base", -1.0),
    "a rope base that is no number": ("rope.freq_base", NAN),
    "a negative epsilon": ("EPSILON", -1e-5),
    "an epsilon that is no number": ("EPSILON", NAN),
    "an infinite epsilon": ("EPSILON", math.inf),
    "a context of 0": ("context_length", 0),
    "a context of 2^32": ("context_length", 2**32),
    "a vocabulary of 2^32": ("vocab_size", 2**32),
    "attention to both sides": ("attention.causal", False),
}


def epsilon_key(tiny: TinyArchitecture) -> str:
    return "attention.layer_norm_epsilon" if tiny.layer_norm else (
        "attention.layer_norm_rms_epsilon"
    )  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_44_hyperparameters_out_of_range_are_named(child: Child, name: str) -> None:
    tiny = TINY[name]
    tensors = tiny.tensors("Q8_0")
    for key, value in HYPERPARAMETERS.values():
        key = epsilon_key(tiny) if key == "EPSILON" else key
        file = model(tiny.metadata() | {f"{tiny.name}.{key}": value}, tensors)
        check_refused(child.ask(file), "ModelError", f"{tiny.name}.{key} is ")


@pytest.mark.parametrize("name", TINY)
def test_44_sizes_that_are_not_those_of_the_tensors_are_refused(child: Child, name: str) -> None:
    """Each is in range; a key or the first tensor of another shape is named."""
    tiny = TINY[name]
    tensors = tiny.tensors("Q8_0")
    for key, value in {"embedding_length": N_EMBD + 2, "attention.head_count": 8}.items():
        file = model(tiny.metadata() | {f"{tiny.name}.{key}": value}, tensors)
        report = child.ask(file)
        check_refused(report, "ModelError")
        assert re.match(r"ModelError: '\S+': ([\w.-]+ is |[\w.]+(weight|bias): )", report.outcome)


@pytest.mark.parametrize("name", TINY)
def test_44_tensors_that_are_missing_or_of_another_type_or_shape_are_named(
    child: Child, name: str
) -> None:
    """Of each role one: embeddings, the last norm, the first norm and matrix of the first layer."""
    tiny = TINY[name]
    tensors = tiny.tensors("Q8_0")
    of_layer = [n for n in tensors if n.startswith("blk.0.") and n.endswith(".weight")]
    norm = next(n for n in of_layer if n.endswith(("attn_norm.weight", "attention_norm.weight")))
    matrices = [n for n in of_layer if len(tensors[n].shape) == 2]
    matrix = next(n for n in matrices if "norm" not in n and "qkv" not in n)
    for tensor_name in ("token_embd.weight", f"{tiny.last_norm}.weight", norm, matrix):
        tensor = tensors.pop(tensor_name)
        check_refused(child.ask(model(tiny.metadata(), tensors)), "ModelError", tensor_name)
        longer = (tensor.shape[0] + 32, *tensor.shape[1:])
        for changed in (zeros("I32", tensor.shape), zeros(tensor.type.name, longer)):
            if changed.shape == tensor.shape or tensor_name != "token_embd.weight":  # any number
                report = child.ask(model(tiny.metadata(), tensors | {tensor_name: changed}))
                check_refused(report, "ModelError", tensor_name)
        tensors[tensor_name] = tensor


def zeros(name: str, shape: tuple[int, ...]) -> NamedTensor:
    """A tensor of this type."""
    type = next(type for type in GGML_TYPES.values() if type.name == name)
    n_bytes = math.prod(shape) // type.block * type.bytes
    return NamedTensor(type, shape, np.zeros(n_bytes, np.uint8))


def test_44_norms_in_a_quantised_type_are_refused(child: Child) -> None:
    tensors = llama_tensors(WEIGHT_TYPES["Q4_K"])
    tensors["blk.0.attn_norm.weight"] = zeros("Q4_K", (256,))
    check_refused(child.ask(model(LLAMA, tensors)), "ModelError", "blk.0.attn_norm.weight: Q4_K")


def test_44_matrices_without_rows_or_columns_are_refused(child: Child) -> None:
    """A width of 0 is in range beside experts, which have their own."""
    tensors = llama_tensors(WEIGHT_TYPES["Q8_0"])
    for name, shape in (("gate", (0, 256)), ("up", (0, 256)), ("down", (256, 0))):
        tensors[f"blk.0.ffn_{name}.weight"] = zeros("Q8_0", shape)
    file = model(LLAMA | {"llama.expert_count": 4, "llama.feed_forward_length": 0}, tensors)
    check_refused(child.ask(file), "ModelError", "blk.0.ffn_", "holds no weights")


def test_44_an_output_that_is_tied_needs_the_embeddings(child: Child) -> None:
    tensors = llama_tensors(WEIGHT_TYPES["Q8_0"])
    del tensors["token_embd.weight"]
    check_refused(child.ask(model(LLAMA, tensors)), "ModelError", "token_embd.weight is missing")


def test_44_every_architecture_is_tried() -> None:
    assert {TINY[name].name.replace("-", "_") for name in TINY} == set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", ["", "gptj", "LLAMA", "llama\x1b[2J", 7])
def test_44_an_unknown_architecture_is_refused(child: Child, architecture: object) -> None:
    file = model(LLAMA | {"general.architecture": architecture}, {})
    check_refused(child.ask(file), "ModelError", "general.architecture is ")


def test_44_keys_of_an_earlier_layer_must_have_the_layer_s_own_sizes(child: Child) -> None:
    tiny = TINY["gemma4"]
    key = "gemma4.attention.sliding_window_pattern"
    file = model(tiny.metadata() | {key: np.array([1, 0, 1, 0, 0, 0])}, tiny.tensors("Q8_0"))
    check_refused(child.ask(file), "ModelError", "blk.4")
    heads = {"gemma4.attention.head_count_kv": np.array([2, 1, 2, 1, 1, 1])}
    file = model(tiny.metadata() | heads, tiny.tensors("Q8_0"))
    check_refused(child.ask(file), "ModelError", "blk.4: of the keys of an earlier layer, layer 4")


# ---- 45: weights ---------------------------------------------------------------------------------


def with_scales(type_name: str, number: float) -> bytes:
    """A Llama whose output takes this for every scale, or weight."""
    type = WEIGHT_TYPES[type_name]
    tensors = llama_tensors(type)
    blocks = tensors["blk.0.ffn_down.weight"].data.view(type.dtype)
    for field, (dtype, _) in type.fields.items():
        if dtype in ("<f2", "<f4"):
            blocks[field] = number
        elif type_name == "BF16":
            blocks[field] = np.array([number], "<f4").view("<u2")[1]
    return model(LLAMA | sentencepiece(), tensors)


WITH_SCALES = [  # or weights that may be NaN or infinite
    name
    for name, type in WEIGHT_TYPES.items()
    if name == "BF16" or any("f" in dtype for dtype, _ in type.fields.values())
]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", WITH_SCALES)
def test_45_scales_that_are_not_finite_are_noticed_in_the_logits(
    child: Child, name: str, number: float
) -> None:
    report = child.ask(without_template(with_scales(name, number)))
    check_refused(report, "NonFiniteLogits", "logits are not all finite")


@pytest.mark.parametrize("name", WITH_SCALES)
def test_45_the_largest_scales_are_numbers_like_others(child: Child, name: str) -> None:
    outcome = child.ask(without_template(with_scales(name, 65504.0))).outcome
    assert outcome.startswith(("said [", "NonFiniteLogits: "))


def test_45_factors_that_are_not_numbers_are_loaded_without_a_word(child: Child) -> None:
    """These are divided while the model is made."""
    tiny = TINY["gemma4 with experts"]
    tensors = tiny.tensors("Q8_0")
    signalling = np.full(N_EMBD, 0x7F800001, np.uint32).view(np.uint8)
    tensors["blk.0.ffn_gate_inp.scale"] = NamedTensor(WEIGHT_TYPES["F32"], (N_EMBD,), signalling)
    file = without_template(model(tiny.metadata() | sentencepiece(), tensors))
    check_refused(child.ask(file), "NonFiniteLogits")


def without_template(file: bytes) -> bytes:
    return file.replace(b"tokenizer.chat_template", b"tokenizer.some_template")


# ---- 46: vocabularies ----------------------------------------------------------------------------

TOKENIZERS = {"SentencePiece": sentencepiece(), "BPE": byte_pairs()}
TEXTS = list(sentencepiece()["tokenizer.ggml.tokens"])
Changes = Mapping[str, Any]


def tokens(*changes: tuple[int, str | bytes]) -> dict[str, Any]:
    """The vocabulary of SentencePiece with other tokens at some places."""
    texts = [*TEXTS]
    for at, text in changes:
        texts[at] = text
    return {"tokens": texts}


VOCABULARIES: dict[str, tuple[Changes, str]] = {
    "no vocabulary": ({"tokens": None}, "tokens is missing"),
    "0 tokens": ({"tokens": []}, "tokens has 0 entries"),
    "tokens that are numbers": ({"tokens": np.arange(N_VOCAB)}, "tokens is array("),
    "one token": ({"tokens": "a"}, "tokens is 'a'"),
    "scores too short": ({"scores": [0.0] * 5}, "scores has 5 entries; "),
    "types too short": ({"token_type": np.array([1])}, "token_type has 1 entries"),
    "eos as text": ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
    "an unknown model": ({"model": "bert"}, "model is 'bert'; it must be one of"),
    "a model that is an array": ({"model": np.array([1, 2])}, "model is array([1, 2]"),
}
OF_SENTENCEPIECE: dict[str, tuple[Changes, str]] = {
    "fewer tokens than embeddings": (
        {"tokens": TEXTS[:-1], "scores": [0.0] * (N_VOCAB - 1), "token_type": None},
        f"has {N_VOCAB - 1} tokens, and token_embd.weight {N_VOCAB} rows",
    ),
    "a token of 8,000 bytes": (tokens((9, "a" * 8000)), "tokens[9] has 8000 bytes"),
}
OF_BPE: dict[str, tuple[Changes, str]] = {
    "no merges": ({"merges": None}, "merges is missing"),
    "merges that are numbers": ({"merges": np.array([1])}, "merges is array([1]"),
    "an unknown pre-tokenizer": ({"pre": "lama3"}, "pre is 'lama3'; it must be one of"),
    "a pre-tokenizer that is an array": ({"pre": np.array([1, 2])}, "pre is array([1, 2]"),
}


def with_vocabulary(kind: str, changes: Changes) -> bytes:
    """A Llama with a vocabulary in which some keys have other values, or for None are not there."""
    keys = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    kept = {k: v for k, v in (LLAMA | TOKENIZERS[kind] | keys).items() if v is not None}
    return without_template(model(kept, llama_tensors(WEIGHT_TYPES["Q8_0"])))


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", VOCABULARIES)
def test_46_a_bad_vocabulary_is_refused(child: Child, kind: str, name: str) -> None:
    changes, message = VOCABULARIES[name]
    check_refused(child.ask(with_vocabulary(kind, changes)), "TokenizerError", message)


@pytest.mark.parametrize("name", OF_SENTENCEPIECE)
def test_46_a_bad_vocabulary_of_sentencepiece_is_refused(child: Child, name: str) -> None:
    changes, message = OF_SENTENCEPIECE[name]
    check_refused(child.ask(with_vocabulary("SentencePiece", changes)), "TokenizerError", message)


@pytest.mark.parametrize("name", OF_BPE)
def test_46_a_bad_vocabulary_of_bpe_is_refused(child: Child, name: str) -> None:
    changes, message = OF_BPE[name]
    check_refused(child.ask(with_vocabulary("BPE", changes)), "TokenizerError", message)


BYTE_AT_9 = {"token_type": np.array([1] * 9 + [6] + [1] * (N_VOCAB - 10))}
ODD: dict[str, tuple[str, Changes]] = {
    "a token that is not text": ("", tokens((9, b"\xff"))),
    "tokens that are not text": ("SentencePiece", {"tokens": [b"\xff\xfe"] * N_VOCAB}),
    "a token twice": ("", tokens((9, TEXTS[8]))),
    "one token for all": ("SentencePiece", {"tokens": ["a"] * N_VOCAB}),
    "a score that is no number": ("", {"scores": [math.nan] * N_VOCAB}),
    "types that are none": ("", {"token_type": np.array([7] * N_VOCAB)}),
    "bos -1": ("", {"bos_token_id": -1}),
    "bos one beyond": ("", {"bos_token_id": N_VOCAB}),
    "eos 2^32 - 1": ("", {"eos_token_id": 2**32 - 1}),
    "byte token <0xZZ>": ("SentencePiece", tokens((9, "<0xZZ>")) | BYTE_AT_9),
    "byte token <0x-1>": ("SentencePiece", tokens((9, "<0x-1>")) | BYTE_AT_9),
    "one byte token": ("SentencePiece", tokens((9, "<0x41>")) | BYTE_AT_9),
    "the same byte twice": ("SentencePiece", tokens((8, "<0x41>"), (9, "<0x41>")) | BYTE_AT_9),
    "merges of nothing": ("BPE", {"merges": ["", " ", "an", "a n d", "a \u4e2d", b"\xff \xfe"]}),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", ODD)
def test_46_an_odd_vocabulary_says_something(child: Child, kind: str, name: str) -> None:
    of_kind, changes = ODD[name]
    if of_kind in ("", kind):
        report = child.ask(with_vocabulary(kind, changes))
        assert report.outcome.startswith("said ["), report.outcome
        assert report.seconds < MAX_SECONDS


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_46_a_megabyte_of_one_letter_is_encoded(child: Child, kind: str) -> None:
    """Merging pair by pair along the whole text, each time anew, would take days."""
    doublings = ["a" * 2**n for n in range(1, 9)]
    changes = tokens(*enumerate(doublings, start=N_VOCAB - 8)) | {"merges": None}
    if kind == "BPE":
        texts = list(byte_pairs()["tokenizer.ggml.tokens"])[:-8] + doublings
        halves = [word[: len(word) // 2] for word in doublings]
        changes = {"tokens": texts, "merges": [f"{half} {half}" for half in halves]}
    report = child.ask(with_vocabulary(kind, changes), "a" * 2**20)
    n_tokens = int(report.outcome.removesuffix(" tokens"))
    assert 2**20 // 256 <= n_tokens <= 2**20 // 256 + 2
    assert report.seconds < MAX_SECONDS


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_46_text_that_is_not_well_formed_is_encoded(child: Child, kind: str) -> None:
    changes = {"unknown_token_id": 0} if kind == "SentencePiece" else {}
    for text in ("\ud800", "a\udcffb", "\U0010ffff", "\0"):
        outcome = child.ask(with_vocabulary(kind, changes), text).outcome
        assert outcome.endswith(" tokens") or outcome.startswith("TokenizerError: ")


# ---- 47: chat templates --------------------------------------------------------------------------

TEMPLATES = {
    "mro": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "globals": ("{{ cycler.__init__.__globals__ }}", "SecurityError"),
    "attr filter": ("{{ ('' | attr('__class__')).mro() }}", ""),
    "attr in map": ("{{ [''] | map(attribute='__class__') | list | first | attr('mro') }}", ""),
    "format": ("{{ '{0.__class__.__mro__}'.format(1) }}", "SecurityError"),
    "format_map": ("{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}", "SecurityError"),
    "through a variable": (
        "{% set f = '{0.__class__.__mro__}'.format %}{{ f(1) }}",
        "SecurityError",
    ),
    "globals of ours": ("{{ raise_exception.__globals__.os }}", "SecurityError"),
    "code of ours": ("{{ strftime_now.__code__.co_code }}", "SecurityError"),
    "self": ("{{ self.__init__.__globals__ }}", "SecurityError"),
    "range 10^9": ("{% for i in range(10**9) %}{% endfor %}", "OverflowError"),
    "loops in loops": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "takes longer than 1.0 s",
    ),
    "'a' * 10**9": ("{{ 'a' * 10**9 }}", "more than 512 MiB"),
    "doubled 60 times": (
        "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}",
        "more than 512 MiB",
    ),
    "written without end": (
        "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
        "more than 4194304 characters",
    ),
    "more than 64 KiB": ("a" * 65_537, "has 65537 characters; it must have at most 65536"),
    "include": ("{% include 'x' %}", ""),
    "extends": ("{% extends '/etc/passwd' %}", ""),
    "import": ("{% import 'os' as os %}{{ os }}", ""),
    "macros without end": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    "parentheses": ("{{ " + "(" * 9000 + "1" + ")" * 9000 + " }}", "malformed"),
    "malformed": ("{% for %}", "malformed"),
    "as bytes": (b"\xff\xfe", "must be the text of a template in Jinja"),
    "as a number": (7, "must be the text of a template in Jinja"),
}


def with_template(source: Any) -> bytes:
    keys = LLAMA | sentencepiece() | {"tokenizer.chat_template": source}
    return model(keys, llama_tensors(WEIGHT_TYPES["Q8_0"]))


@pytest.mark.parametrize("name", TEMPLATES)
def test_47_a_template_that_reaches_too_far_is_stopped(child: Child, name: str) -> None:
    source, message = TEMPLATES[name]
    check_refused(child.ask(with_template(source)), "TemplateError", message)


def test_47_messages_are_data(child: Child) -> None:
    """Neither rendered nor read for control tokens, however the template writes them."""
    bos = 1
    for written in ("m.content", "m['content'] | trim", "m.content | tojson", "messages"):
        source = f"{{{{ bos_token }}}}{{% for m in messages %}}{{{{ {written} }}}}{{% endfor %}}"
        outcome = child.ask(with_template(source)).outcome
        assert "an <s> and {{ 7 * 7 }}" in outcome
        ids = json.loads(outcome.partition("ids ")[2])
        assert ids[0] == bos
        assert bos not in ids[1:]


# ---- what fuzzing has found ----------------------------------------------------------------------

FOUND = sorted((ROOT / "tests/data/bad").glob("*.gguf"))


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_what_fuzzing_has_found_is_refused(child: Child, path: Path) -> None:
    """The name begins with the error that it ends in now."""
    check_refused(child.ask(path.read_bytes()), path.stem.partition("-")[0])


def test_finds_are_kept_small() -> None:
    assert FOUND
    assert all(path.stat().st_size < 2048 for path in FOUND)


# ---- the commands --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", test_gguf_hostile.REFUSED)
def test_commands_end_with_status_2_and_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, message = test_gguf_hostile.REFUSED[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    for arguments in (["inspect", path], ["generate", path, "x"], ["tokenize", path, "x"]):
        check_command(capsys, arguments, message)


MODELS = {
    "no layers": (LLAMA | sentencepiece() | {"llama.block_count": 0}, "block_count is '0'"),
    "no architecture": (sentencepiece(), "general.architecture is 'None'"),
    "no vocabulary": (LLAMA, "tokenizer.ggml.model is None"),
    "bos as text": (LLAMA | sentencepiece() | {"tokenizer.ggml.bos_token_id": "1"}, "bos_token_id"),
}


@pytest.mark.parametrize("name", MODELS)
def test_generate_ends_with_status_2_and_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata, message = MODELS[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(model(metadata, llama_tensors(WEIGHT_TYPES["Q8_0"])))
    check_command(capsys, ["generate", "-m", path, "x"], message)


def test_generate_ends_with_status_2_where_logits_are_not_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(with_scales("Q8_0", math.nan))
    arguments = ["generate", "-m", path, "--raw", "x"]
    check_command(capsys, arguments, "logits are not all finite", out="x")


def check_command(
    capsys: pytest.CaptureFixture[str], arguments: list[Any], message: str, out: str = ""
) -> None:
    status = main(list(map(str, arguments)))
    written = capsys.readouterr()
    assert status == 2
    assert written.out == out
    assert written.err.startswith("linnet: ")
    assert message in written.err
    assert written.err.count("\n") == 1
    assert written.err[:-1].isprintable()


# ---- all of them ---------------------------------------------------------------------------------


def test_all_48_families_are_here() -> None:
    names = [*test_gguf_hostile.REFUSED, *test_gguf_hostile.ACCEPTED]
    names += [name.removeprefix("test_") for name in (*vars(test_gguf_hostile), *globals())]
    numbers = {int(name[:2]) for name in names if re.match(r"\d\d[ _]", name)}
    assert numbers == set(range(1, 49))
