"""Importance matrices: what is read of files of both forms, and what it changes in a model's."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from support.gguf_builder import F16, F32, STRING, UINT32, GGUFBuilder
from support.tiny_models import model

from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.quantize.importance import LEAST, ImportanceError, read_importance
from linnet.engine.quantize.quantize import QuantizeError, quantize_file
from linnet.kernels.quants import WEIGHT_TYPES

Array = np.ndarray
V, EXPERTS = "blk.0.attn_v.weight", "blk.0.ffn_down_exps.weight"


def means(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).exponential(1, shape).astype(np.float32)


def gguf_file(path: Path, entries: dict[str, Array], count: int = 7) -> Path:
    """What llama-imatrix writes: sums of squares, and of how many tokens, expert by expert."""
    builder = GGUFBuilder().kv("general.type", STRING, "imatrix")
    builder.array("imatrix.datasets", STRING, ["wiki.txt", "other.txt"])
    builder.kv("imatrix.chunk_count", UINT32, 3).kv("imatrix.chunk_size", UINT32, 512)
    for name, each in entries.items():
        each = np.atleast_2d(each)
        builder.tensor(f"{name}.in_sum2", F32, each.shape, each * np.float32(count))
        counts = np.full((len(each), 1), count, np.float32)
        builder.tensor(f"{name}.counts", F32, counts.shape, counts)
    return builder.write(path)


def dat_file(path: Path, entries: dict[str, Array], calls: int = 5) -> Path:
    parts = [struct.pack("<i", len(entries))]
    for name, each in entries.items():
        parts += [struct.pack("<i", len(name)), name.encode(), struct.pack("<ii", calls, each.size)]
        parts.append((each * np.float32(calls)).astype("<f4").tobytes())
    parts += [struct.pack("<ii", 3, len("wiki.txt")), b"wiki.txt"]
    path.write_bytes(b"".join(parts))
    return path


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [gguf_file, dat_file])
def test_both_forms_say_the_same(tmp_path: Path, write) -> None:
    entries = {V: means(256), EXPERTS: means(3, 64, seed=1)}
    found = read_importance(write(tmp_path / "imatrix", entries))
    assert (found.dataset, found.n_chunks, len(found.means)) == ("wiki.txt", 3, 2)
    for name, shape in ((V, (9, 256)), (EXPERTS, (3, 5, 64))):
        rows = entries[name].reshape(-1, shape[-1])
        expected = np.maximum(rows / rows.mean(axis=1, keepdims=True), LEAST)
        np.testing.assert_allclose(found.of(name, shape), expected, rtol=1e-5)
    assert found.of("blk.1.attn_v.weight", (9, 256)) is None


def test_an_expert_that_was_never_asked_counts_as_any_does(tmp_path: Path) -> None:
    builder = GGUFBuilder().tensor(f"{EXPERTS}.in_sum2", F32, (2, 32), means(2, 32))
    counts = np.array([[4], [0]], np.float32)
    path = builder.tensor(f"{EXPERTS}.counts", F32, (2, 1), counts).write(tmp_path / "imatrix")
    found = read_importance(path).of(EXPERTS, (2, 5, 32))
    assert (found[1] == 1).all()
    assert found[0].std() > 0.1
    zeros = read_importance(dat_file(tmp_path / "a", {V: np.zeros(256, np.float32)}))
    assert (zeros.of(V, (9, 256)) == 1).all()


def test_a_name_without_its_trailing_parts_is_read(tmp_path: Path) -> None:
    """Old files end behind the entries, or behind the number of chunks."""
    whole = dat_file(tmp_path / "a", {V: means(256)}).read_bytes()
    for cut, n_chunks in ((16, 0), (12, 3)):
        (tmp_path / "b").write_bytes(whole[:-cut])
        found = read_importance(tmp_path / "b")
        assert (found.dataset, found.n_chunks) == ("", n_chunks)
        assert found.means[V].size == 256


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "entries: 4 bytes are said to come, and there are 0"),
        (b"some text, which is no such file", "bytes are said to come, and there are"),
        (struct.pack("<i", -1), "-1 entries"),
        (struct.pack("<ii", 1, -5), "-5 bytes of a name"),
        (struct.pack("<i", 0), "has no importance matrix in it"),
        (struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 1 << 30), "4294967296 bytes are"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ImportanceError, match=said):
        read_importance(tmp_path / "a")


@pytest.mark.parametrize("cut", range(1, 60))
def test_every_cut_is_found(tmp_path: Path, cut: int) -> None:
    whole = dat_file(tmp_path / "a", {"a": means(2), "b": means(3)}).read_bytes()
    if len(whole) - cut in (len(whole) - 16, len(whole) - 12):
        return  # old files end there
    (tmp_path / "b").write_bytes(whole[:-cut])
    with pytest.raises(ImportanceError):
        read_importance(tmp_path / "b")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1])
def test_numbers_that_are_no_means_are_refused(tmp_path: Path, bad: float) -> None:
    values = means(256)
    values[77] = bad
    for write in (gguf_file, dat_file):
        with pytest.raises(ImportanceError, match="has numbers that cannot be means"):
            read_importance(write(tmp_path / "a", {V: values}))


@pytest.mark.parametrize(
    ("type", "shape", "said"),
    [
        (F16, (1, 1), f"'{V}.counts' is F16; it must be F32"),
        (F32, (7, 1), f"'{V}.counts' has 7 numbers; '{V}.in_sum2' has 256"),
        (F32, (0, 1), f"'{V}.counts' has 0 numbers"),
    ],
)
def test_counts_that_do_not_fit_are_refused(
    tmp_path: Path, type: int, shape: tuple[int, int], said: str
) -> None:
    builder = GGUFBuilder().tensor(f"{V}.in_sum2", F32, (1, 256), means(1, 256))
    path = builder.tensor(f"{V}.counts", type, shape).write(tmp_path / "a")
    with pytest.raises(ImportanceError, match=said):
        read_importance(path)


def test_a_model_is_not_an_importance_matrix(tmp_path: Path) -> None:
    with pytest.raises(ImportanceError, match="has no importance matrix in it"):
        read_importance(model().write(tmp_path / "a"))


# ---- models --------------------------------------------------------------------------------------


def weights(*shape: int) -> Array:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def source_of(folder: Path, arrays: dict[str, Array]) -> Path:
    builder = GGUFBuilder().kv("general.architecture", STRING, "llama")
    for name, array in arrays.items():
        builder.tensor(name, F32, array.shape, array)
    return builder.write(folder / "in.gguf")


def quantised(path: Path, name: str) -> Array:
    with GGUFFile(path) as file:
        tensor = file.tensors[name]
        type = WEIGHT_TYPES[tensor.type.name]
        rows = tensor.data.reshape(-1, type.row_bytes(tensor.shape[-1]))
        return type.dequantize(rows).reshape(tensor.shape)


def test_rows_are_quantised_by_what_their_columns_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an expert by its own, wherever a thread begins; and files say what they were made
    with."""
    monkeypatch.setattr("linnet.engine.quantize.quantize.BATCH", 7 * 256)
    arrays = {V: weights(40, 256), EXPERTS: weights(3, 40, 256)}
    entries = {V: means(256), EXPERTS: means(3, 256, seed=1)}
    source, plain = source_of(tmp_path, arrays), tmp_path / "plain.gguf"
    quantize_file(source, plain, "Q3_K_S")
    files = []
    for write in (gguf_file, dat_file):
        imatrix, target = write(tmp_path / "imatrix", entries), tmp_path / f"{len(files)}.gguf"
        quantize_file(source, target, "Q3_K_S", imatrix=imatrix, threads=2)
        files.append(target)
        for name, array in arrays.items():
            counts = np.atleast_2d(entries[name])[:, np.newaxis]
            errors = [
                (counts * (quantised(path, name) - array) ** 2).mean(axis=(-1, -2))
                for path in (target, plain)
            ]
            assert (errors[0] < 0.95 * errors[1]).all()
    with GGUFFile(files[0]) as file:
        found = {key: file.metadata[key] for key in file.metadata if "imatrix" in key}
    assert found == {
        "quantize.imatrix.file": str(tmp_path / "imatrix"),
        "quantize.imatrix.dataset": "wiki.txt",
        "quantize.imatrix.entries_count": 2,
        "quantize.imatrix.chunks_count": 3,
    }


def test_what_a_file_does_not_know_is_told(tmp_path: Path) -> None:
    source = source_of(tmp_path, {V: weights(4, 256), "blk.0.attn_q.weight": weights(4, 256)})
    imatrix = gguf_file(tmp_path / "imatrix", {V: means(256)})
    with pytest.warns(UserWarning, match=r"nothing on 1 of 2 matrices.*: blk\.0\.attn_q\.weight"):
        quantize_file(source, tmp_path / "out.gguf", "Q4_K_S", imatrix=imatrix)


def test_that_of_another_model_is_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path, {V: weights(4, 256), EXPERTS: weights(3, 4, 256)})
    wrong = {V: (512, "has 256 columns"), EXPERTS: (256, "has 3 times 256 columns")}
    for name, (n, said) in wrong.items():
        entries = {name: means(n)}
        imatrix = dat_file(tmp_path / "imatrix", entries)
        with pytest.raises(ImportanceError, match=said):
            quantize_file(source, tmp_path / "out.gguf", "Q4_K_S", imatrix=imatrix)
    assert not (tmp_path / "out.gguf").exists()


def test_q2_k_s_wants_one(tmp_path: Path) -> None:
    source, target = source_of(tmp_path, {V: weights(4, 256)}), tmp_path / "out.gguf"
    with pytest.raises(QuantizeError, match=r"Q2_K_S wants an importance matrix \(--imatrix\)"):
        quantize_file(source, target, "Q2_K_S")
    assert quantize_file(source, None, "Q2_K_S").n_tensors == {"Q2_K": 1}
    imatrix = gguf_file(tmp_path / "imatrix", {V: means(256)})
    quantize_file(source, target, "Q2_K_S", imatrix=imatrix)
    with pytest.raises(QuantizeError, match="COPY leaves all as it is"):
        quantize_file(source, target, "COPY", imatrix=imatrix, force=True)
