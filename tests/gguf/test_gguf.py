"""What the GGUF reader gives for valid files, next to what the gguf package says of them."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.gguf_builder import (
    BOOL,
    F16,
    F32,
    FLOAT32,
    FLOAT64,
    FORMATS,
    INT8,
    INT32,
    INT64,
    Q4_K,
    STRING,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    GGUFBuilder,
)
from support.systems import needs_proc

from linnet.engine.gguf.reader import GGMLType, GGUFError, GGUFFile
from linnet.engine.gguf.types import GGML_TYPES, REMOVED_TYPES

FIXTURES = os.environ.get("LINNET_FIXTURES")
needs_fixtures = pytest.mark.skipif(
    FIXTURES is None, reason="LINNET_FIXTURES, a folder of real files, is not set"
)


def fixture_files(pattern: str) -> list[Path]:
    return sorted(Path(FIXTURES).glob(pattern)) if FIXTURES else []


def tiny() -> GGUFBuilder:
    return (
        GGUFBuilder()
        .kv("general.architecture", STRING, "llama")
        .kv("llama.block_count", UINT32, 2)
        .array("tokenizer.ggml.tokens", STRING, ["<s>", "", "\u2581the"])
        .array("tokenizer.ggml.scores", FLOAT32, [0.0, -1.5, -3.0])
        .tensor("norm", F32, (3,), np.array([1.0, 2.0, 3.0], np.float32))
        .tensor("weight", F16, (2, 4), np.arange(8, dtype=np.float16))
    )


# ---- tensor types --------------------------------------------------------------------------------


def test_types_are_those_of_ggml() -> None:
    known = {int(type): (type.name, *size) for type, size in gguf.GGML_QUANT_SIZES.items()}
    ours = {id: (type.name, type.block, type.bytes) for id, type in GGML_TYPES.items()}
    newer = {42: ("Q2_0", 64, 18)}
    assert ours == known | newer
    assert not ours.keys() & REMOVED_TYPES.keys()


@pytest.mark.parametrize("type", GGML_TYPES.values(), ids=lambda type: type.name)
def test_every_type_opens(tmp_path: Path, type: GGMLType) -> None:
    path = GGUFBuilder().tensor("w", type.id, (3, type.block)).write(tmp_path / "model.gguf")
    with GGUFFile(path) as file:
        assert file.tensors["w"].type is type
        assert file.tensors["w"].shape == (3, type.block)
        assert file.tensors["w"].data.nbytes == 3 * type.bytes


# ---- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("mmap", [True, False])
def test_reads_metadata_and_tensors(tmp_path: Path, version: int, mmap: bool) -> None:
    builder = tiny()
    builder.version = version
    path = builder.write(tmp_path / "model.gguf")
    with GGUFFile(path, mmap=mmap) as file:
        assert (file.path, file.version, file.alignment) == (path, version, 32)
        assert list(file.metadata) == [
            "general.architecture",
            "llama.block_count",
            "tokenizer.ggml.tokens",
            "tokenizer.ggml.scores",
        ]
        assert file.metadata["general.architecture"] == "llama"
        assert file.metadata["llama.block_count"] == 2
        assert file.metadata["tokenizer.ggml.tokens"] == ["<s>", "", "\u2581the"]
        assert file.metadata["tokenizer.ggml.scores"].tolist() == [0.0, -1.5, -3.0]
        kinds = [file.metadata.kind(key) for key in file.metadata]
        assert kinds == [STRING, UINT32, STRING, FLOAT32]
        assert list(file.tensors) == ["norm", "weight"]
        norm, weight = file.tensors.values()
        assert (norm.name, norm.type.name, norm.shape) == ("norm", "F32", (3,))
        assert norm.data.view(np.float32).tolist() == [1, 2, 3]
        assert weight.shape == (2, 4)
        assert weight.data.view(np.float16).reshape(2, 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.mark.parametrize("mmap", [True, False])
def test_tensor_data_is_a_read_only_view(tmp_path: Path, mmap: bool) -> None:
    with GGUFFile(tiny().write(tmp_path / "model.gguf"), mmap=mmap) as file:
        data = file.tensors["weight"].data
        assert data.dtype == np.uint8
        assert data.ndim == 1
        assert not data.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            data[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            data.flags.writeable = True
        with pytest.raises(TypeError):
            file.tensors["weight"] = None


SCALARS = {
    UINT8: 255,
    INT8: -128,
    UINT16: 65_535,
    3: -32_768,
    UINT32: 2**32 - 1,
    INT32: -(2**31),
    FLOAT32: 0.5,
    BOOL: True,
    STRING: "text",
    UINT64: 2**64 - 1,
    INT64: -(2**63),
    FLOAT64: 1e300,
}


@pytest.mark.parametrize("kind", SCALARS)
def test_every_kind_of_value_and_array(tmp_path: Path, kind: int) -> None:
    value = SCALARS[kind]
    builder = GGUFBuilder().kv("value", kind, value).array("empty", kind)
    path = builder.array("array", kind, [value] * 3).write(tmp_path / "model.gguf")
    with GGUFFile(path) as file:
        assert file.metadata["value"] == value
        assert type(file.metadata["value"]) is type(value)
        assert len(file.metadata["empty"]) == 0
        array = file.metadata["array"]
        if kind == STRING:
            assert array == [value] * 3
        else:
            assert array.dtype == np.dtype(FORMATS[kind])
            assert array.flags.aligned
            assert array.tolist() == [value] * 3


def test_strings_that_are_not_utf8_come_as_bytes(tmp_path: Path) -> None:
    builder = GGUFBuilder().kv("text", STRING, b"\xe2\x96")
    builder.array("tokens", STRING, ["a", b"\xff", "\N{SNOWMAN}"])
    with GGUFFile(builder.write(tmp_path / "model.gguf")) as file:
        assert file.metadata["text"] == b"\xe2\x96"
        assert file.metadata["tokens"] == ["a", b"\xff", "\N{SNOWMAN}"]
        with pytest.raises(GGUFError, match="'text' is of type bytes; it must be str"):
            file.get("text", str)


LENGTHS = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 40, 254, 255, 256, 257, 1000, 40_000])


RUNS = st.lists(st.tuples(LENGTHS, st.integers(1, 3000), st.booleans()), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "model.gguf"


@settings(max_examples=40, deadline=None)
@example(runs=[(3, 3000, False), (257, 1, False), (3, 3000, False)])
@example(runs=[(3, 3000, False), (40, 1, True), (3, 3000, False)])
@given(runs=RUNS)
def test_strings_of_any_length_are_found(scratch: Path, runs: list[tuple[int, int, bool]]) -> None:
    """Runs of strings of one length, text or zeros, found at once or one by one."""
    strings: list[str] = []
    for length, repeat, zeros in runs:
        text = "\0" * length if zeros else "x" * length
        strings += [text] * min(repeat, 1 + 200_000 // (length + 1))
    GGUFBuilder().array("k", STRING, strings).kv("behind", UINT32, 7).write(scratch)
    with GGUFFile(scratch) as file:
        assert file.metadata["k"] == strings
        assert file.metadata["behind"] == 7


def test_arrays_are_decoded_at_each_access(tmp_path: Path) -> None:
    with GGUFFile(tiny().write(tmp_path / "model.gguf")) as file:
        first = file.metadata["tokenizer.ggml.tokens"]
        first.append("mine")
        assert len(file.metadata["tokenizer.ggml.tokens"]) == 3
        file.metadata["tokenizer.ggml.scores"][0] = 9
        assert file.metadata["tokenizer.ggml.scores"][0] == 0


def test_asking_whether_a_key_is_there_decodes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GGUFFile(tiny().write(tmp_path / "model.gguf")) as file:
        metadata = file.metadata
        monkeypatch.setattr(type(metadata), "__getitem__", None)
        assert "tokenizer.ggml.tokens" in metadata
        assert "missing" not in metadata
        assert len(metadata) == 4


# ---- get -----------------------------------------------------------------------------------------


def test_get_returns_values_of_the_type_asked_for(tmp_path: Path) -> None:
    builder = tiny().kv("i", INT8, -1).kv("f", FLOAT32, 0.5).kv("b", BOOL, False)
    with GGUFFile(builder.write(tmp_path / "model.gguf")) as file:
        assert file.get("general.architecture", str) == "llama"
        assert file.get("i", int) == -1
        assert file.get("f", float) == 0.5
        assert file.get("b", bool) is False
        assert file.get("tokenizer.ggml.tokens", list)[0] == "<s>"
        assert file.get("tokenizer.ggml.scores", np.ndarray)[1] == -1.5
        assert file.get("missing", int, 7) == 7
        assert file.get("missing", str, None) is None


@pytest.mark.parametrize(
    ("key", "expected", "found"),
    [
        ("general.architecture", int, "str"),
        ("llama.block_count", str, "int"),
        ("llama.block_count", float, "int"),
        ("llama.block_count", bool, "int"),
        ("flag", int, "bool"),
        ("tokenizer.ggml.tokens", str, "list"),
        ("tokenizer.ggml.scores", list, "ndarray"),
    ],
)
def test_get_refuses_another_type(tmp_path: Path, key: str, expected: type, found: str) -> None:
    with GGUFFile(tiny().kv("flag", BOOL, True).write(tmp_path / "model.gguf")) as file:
        for default in ((), (None,)):
            with pytest.raises(GGUFError) as caught:
                file.get(key, expected, *default)
            assert f"{key!r} is of type {found}; it must be {expected.__name__}" in str(
                caught.value
            )


def test_get_names_a_missing_key(tmp_path: Path) -> None:
    path = tiny().write(tmp_path / "model.gguf")
    with GGUFFile(path) as file:
        with pytest.raises(GGUFError) as caught:
            file.get("llama.rope.freq_base", float)
        assert str(caught.value) == f"{str(path)!r}: metadata key 'llama.rope.freq_base' is missing"
        with pytest.raises(KeyError):
            file.metadata["llama.rope.freq_base"]


# ---- reading into memory -------------------------------------------------------------------------


def test_a_file_that_is_cut_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny().write(tmp_path / "model.gguf")
    size, read = path.stat().st_size, os.read
    monkeypatch.setattr("linnet.engine.gguf.source.PART_BYTES", 64)
    parts = iter([64, 64, 0])
    monkeypatch.setattr(os, "read", lambda fd, n: read(fd, n) if next(parts) else b"")
    with pytest.raises(GGUFError, match=f"cut from {size} bytes to 128 while it was read"):
        GGUFFile(path, mmap=False)


def test_memory_that_the_system_refuses_is_a_memory_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny().write(tmp_path / "model.gguf")

    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("linnet.engine.gguf.source.mmap.mmap", refuse)
    with pytest.raises(MemoryError, match=r"reading .*model\.gguf.*Cannot allocate"):
        GGUFFile(path, mmap=False)


# ---- closing -------------------------------------------------------------------------------------


def n_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_closed_file_is_not_used(tmp_path: Path) -> None:
    file = GGUFFile(tiny().write(tmp_path / "model.gguf"))
    file.close()
    file.close()
    for use in (lambda: file.tensors, lambda: file.metadata, lambda: file.get("k", int, 1)):
        with pytest.raises(GGUFError, match="the file is closed"):
            use()


@needs_proc
def test_arrays_outlive_the_file_and_the_mapping_goes_with_them(tmp_path: Path) -> None:
    path = tiny().write(tmp_path / "model.gguf")
    gc.disable()
    try:
        before = n_descriptors()
        with GGUFFile(path) as file:
            data = file.tensors["norm"].data
        assert n_descriptors() == before + 1
        assert data.view(np.float32).tolist() == [1, 2, 3]
        del data
        assert n_descriptors() == before
    finally:
        gc.enable()


@needs_proc
def test_a_refused_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny().build()[:-40])
    gc.disable()
    try:
        before = n_descriptors()
        with pytest.raises(GGUFError) as caught:
            GGUFFile(path)
        del caught
        assert n_descriptors() == before
    finally:
        gc.enable()


# ---- split files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mmap", [True, False])
def test_a_split_file_is_read_as_one(tmp_path: Path, mmap: bool) -> None:
    """Written by the gguf package, which lays split files out as llama.cpp does."""
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama", split_max_tensors=2)
    writer.add_block_count(3)
    arrays = {f"blk.{i}.weight": np.full((2, 8), i, np.float32) for i in range(5)}
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(tmp_path / "model-00001-of-00003.gguf", mmap=mmap) as file:
        assert file.get("llama.block_count", int) == 3
        assert list(file.tensors) == list(arrays)
        for name, array in arrays.items():
            assert (file.tensors[name].data.view(np.float32).reshape(2, 8) == array).all()
    with pytest.raises(GGUFError, match="opened by its first part"):
        GGUFFile(tmp_path / "model-00002-of-00003.gguf")


# ---- against the gguf package --------------------------------------------------------------------


def check_same_as_oracle(path: Path) -> None:
    reader = gguf.GGUFReader(path)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    with GGUFFile(path) as file:
        assert list(file.metadata) == list(fields)
        for key, field in fields.items():
            value = file.metadata[key]
            value = value.tolist() if isinstance(value, np.ndarray) else value
            assert value == field.contents(), key
            is_array = field.types[0] == gguf.GGUFValueType.ARRAY
            assert isinstance(file.metadata[key], list | np.ndarray) == is_array
        assert list(file.tensors) == [tensor.name for tensor in reader.tensors]
        for theirs, ours in zip(reader.tensors, file.tensors.values(), strict=True):
            assert ours.type.id == theirs.tensor_type
            assert ours.shape == tuple(theirs.shape[::-1].tolist())
            assert ours.data.tobytes() == theirs.data.tobytes()


@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
def test_same_as_the_gguf_package(tmp_path: Path, alignment: int | None) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_block_count(2)
    writer.add_rope_freq_base(1e6)
    writer.add_add_bos_token(True)
    writer.add_token_list(["<unk>", "\N{SNOWMAN}", ""] * 2000)
    writer.add_token_scores([0.5, -1.0, 2.0] * 2000)
    writer.add_token_types([1, 2, 3] * 2000)
    chance = np.random.default_rng(0)
    writer.add_tensor("f32", chance.standard_normal((3, 5)).astype(np.float32))
    writer.add_tensor("f16", chance.standard_normal((2, 3, 4)).astype(np.float16))
    writer.add_tensor("i32", np.arange(7, dtype=np.int32))
    rows = chance.standard_normal((4, 256)).astype(np.float32)
    q8_0 = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8_0", q8_0, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check_same_as_oracle(path)


def test_the_builder_writes_what_the_gguf_package_reads(tmp_path: Path) -> None:
    builder = tiny().tensor("q4_k", Q4_K, (2, 3, 256), bytes(range(144)) * 6)
    check_same_as_oracle(builder.write(tmp_path / "model.gguf"))
    aligned = GGUFBuilder(alignment=128).tensor("a", F32, (3,)).tensor("b", F32, (5,))
    check_same_as_oracle(aligned.write(tmp_path / "aligned.gguf"))


@needs_fixtures
@pytest.mark.parametrize("path", fixture_files("[maq]*/*.gguf"), ids=lambda path: path.name)
def test_real_models_are_read_as_by_the_gguf_package(path: Path) -> None:
    check_same_as_oracle(path)


# ---- speed ---------------------------------------------------------------------------------------


def open_seconds(path: Path) -> float:
    """The processor time that opening takes, the best of five."""
    times = []
    for _ in range(5):
        start = time.process_time()
        GGUFFile(path).close()
        times.append(time.process_time() - start)
    return min(times)


def test_a_large_vocabulary_opens_at_once(tmp_path: Path) -> None:
    """262,144 tokens with scores and types, and 400,000 merges."""
    tokens = [f"\u2581{i:x}" for i in range(262_144)]
    builder = GGUFBuilder().array("tokenizer.ggml.tokens", STRING, tokens)
    builder.array("tokenizer.ggml.scores", FLOAT32, count=262_144, raw=bytes(4 * 262_144))
    builder.array("tokenizer.ggml.token_type", INT32, count=262_144, raw=bytes(4 * 262_144))
    builder.array("tokenizer.ggml.merges", STRING, [f"{i:x} {i:o}" for i in range(400_000)])
    path = builder.write(tmp_path / "vocabulary.gguf")
    assert open_seconds(path) < 0.05


@needs_fixtures
@pytest.mark.parametrize("path", fixture_files("vocabs/*.gguf"), ids=lambda path: path.name)
def test_real_vocabularies_open_at_once(path: Path) -> None:
    assert open_seconds(path) < 0.05
    with GGUFFile(path) as file:
        tokens = file.get("tokenizer.ggml.tokens", list)
        assert len(tokens) == len(file.get("tokenizer.ggml.token_type", np.ndarray)) > 30_000
        assert all(isinstance(token, str) for token in tokens)
