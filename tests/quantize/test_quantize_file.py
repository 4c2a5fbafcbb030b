"""Quantising files: tensors come back close, all else stays as it was, bad input is refused."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

import gguf
import numpy as np
import pytest
from support.gguf_builder import (
    BF16,
    BOOL,
    F16,
    F32,
    FLOAT32,
    FORMATS,
    Q8_0,
    STRING,
    UINT16,
    UINT32,
    GGUFBuilder,
)
from support.systems import needs_links
from support.tiny_models import model

import linnet.engine.quantize.quantize
from linnet.engine.cli.main import main
from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.quantize.quantize import QuantizeError, quantize_file
from linnet.engine.quantize.recipes import RECIPES

I32 = 26
OF_BASES = {r.base: name for name, r in RECIPES.items() if not r.needs_importance}


# ---- the file ------------------------------------------------------------------------------------


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def test_tensors_are_quantised_and_read_back(tmp_path: Path) -> None:
    """By the gguf package; experts and odd sizes, from all the types that may be quantised."""
    arrays = {
        "token_embd.weight": weights(7, 256).astype(np.float16),
        "output_norm.weight": weights(256),
        "blk.0.ffn_down_exps.weight": weights(3, 5, 96),
        "blk.0.attn_v.weight": weights(2500, 512),
        "blk.0.attn_k.weight": (weights(1, 3, 256).view(np.uint32) >> 16).astype(np.uint16),
        "output.weight": weights(3, 512),
    }
    builder = GGUFBuilder().kv("general.architecture", STRING, "llama")
    for name, array in arrays.items():
        kind = {np.dtype("f4"): F32, np.dtype("f2"): F16, np.dtype("u2"): BF16}[array.dtype]
        builder.tensor(name, kind, array.shape, array)
    source, target = builder.write(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    report = quantize_file(source, target, "Q4_K_S", threads=2)

    found = {tensor.name: tensor for tensor in gguf.GGUFReader(target).tensors}
    assert list(found) == list(arrays)
    types = {name: tensor.tensor_type.name for name, tensor in found.items()}
    assert list(types.values()) == ["Q4_K", "F32", "Q5_0", "Q5_K", "Q4_K", "Q6_K"]
    for name, array in arrays.items():
        if array.dtype == np.uint16:
            array = (array.astype(np.uint32) << 16).view(np.float32)
        assert tuple(found[name].shape[::-1]) == array.shape
        read = gguf.quants.dequantize(found[name].data, found[name].tensor_type)
        error = np.sqrt(np.mean((read - array) ** 2) / np.mean(array.astype(np.float64) ** 2))
        assert error < 0.08
    assert report.n_tensors == Counter(types.values())
    assert report.n_weights == sum(array.size for array in arrays.values())
    assert report.source_bytes == sum(array.nbytes for array in arrays.values())
    assert report.target_bytes == sum(tensor.n_bytes for tensor in found.values())


@pytest.mark.parametrize("type_name", OF_BASES.values())
def test_the_file_is_the_same_for_any_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type_name: str
) -> None:
    monkeypatch.setattr(linnet.engine.quantize.quantize, "BATCH", 5 * 256)
    builder = GGUFBuilder().tensor("blk.0.attn_q.weight", F32, (999, 256), weights(999, 256))
    source = builder.write(tmp_path / "in.gguf")
    files = [tmp_path / f"{threads}.gguf" for threads in (1, 2, 7)]
    for threads, target in zip((1, 2, 7), files, strict=True):
        quantize_file(source, target, type_name, threads=threads)
    assert len({file.read_bytes() for file in files}) == 1


def all_kinds() -> GGUFBuilder:
    """A key of each type of value, and of each type of array, one empty."""
    builder = GGUFBuilder(alignment=64).kv("general.architecture", STRING, "llama")
    for kind in FORMATS:
        value = True if kind == BOOL else 0.1 if kind in (FLOAT32, 12) else 7
        builder.kv(f"a.{kind}", kind, value).array(f"arrays.{kind}", kind, [value, value])
    builder.kv("text", STRING, "Grüße").kv("nothing", STRING, "").kv("raw", STRING, b"\xff")
    builder.array("texts", STRING, ["a", "", b"\xff", "ü"]).array("none", STRING)
    return builder.kv("general.file_type", UINT32, 1).tensor("x.weight", F32, (2, 256))


def test_metadata_stays_as_it_was(tmp_path: Path) -> None:
    source, target = all_kinds().write(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    quantize_file(source, target, "Q5_K_M")
    expected = all_kinds()
    expected.metadata.pop()
    expected.kv("general.file_type", UINT32, 17).kv("general.quantization_version", UINT32, 2)
    with GGUFFile(target) as file:
        packed = file.tensors["x.weight"].data.tobytes()
    expected.table.clear()
    expected.data = b""
    assert target.read_bytes() == expected.tensor("x.weight", 13, (2, 256), packed).build()


def test_a_split_file_becomes_one(tmp_path: Path) -> None:
    for part in range(2):
        builder = GGUFBuilder().kv("split.no", UINT16, part).kv("split.count", UINT16, 2)
        builder.kv("split.tensors.count", 5, 2).tensor(f"{part}.weight", F32, (2, 256))
        builder.write(tmp_path / f"in-{part + 1:05}-of-00002.gguf")
    source = tmp_path / "in-00001-of-00002.gguf"
    quantize_file(source, tmp_path / "out.gguf", "Q8_0")
    with GGUFFile(tmp_path / "out.gguf") as file:
        assert list(file.tensors) == ["0.weight", "1.weight"]
        assert not any(key.startswith("split.") for key in file.metadata)
    for part in tmp_path.glob("in-*"):
        with pytest.raises(QuantizeError, match="is the file to be quantised"):
            quantize_file(source, part, "Q8_0", force=True)


# ---- what is refused -----------------------------------------------------------------------------


def refused(source: Path, target: Path, type_name: str = "Q4_K", **options: bool) -> str:
    """The error's message; nothing is left behind, and nothing there is touched."""
    before = {path: path.read_bytes() for path in source.parent.iterdir() if path.is_file()}
    with pytest.raises(QuantizeError) as caught:
        quantize_file(source, target, type_name, **options)
    after = {path: path.read_bytes() for path in source.parent.iterdir() if path.is_file()}
    assert before == after
    return str(caught.value)


@needs_links
def test_the_source_is_never_written_to(tmp_path: Path) -> None:
    source = model().write(tmp_path / "in.gguf")
    os.link(source, tmp_path / "hard.gguf")
    (tmp_path / "soft.gguf").symlink_to(source)
    for name in ("in.gguf", "hard.gguf", "soft.gguf"):
        assert "is the file to be quantised" in refused(source, tmp_path / name, force=True)


def test_a_target_that_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    source, target = model().write(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    target.write_bytes(b"precious")
    assert "is there already; --force replaces it" in refused(source, target)
    quantize_file(source, target, "Q4_K", force=True)
    with GGUFFile(target) as file:
        assert file.get("general.file_type", int) == 15
    (tmp_path / "folder").mkdir()
    assert "not a regular file" in refused(source, tmp_path / "folder", force=True)


def test_an_unknown_type_is_named_with_those_there_are(tmp_path: Path) -> None:
    source = model().write(tmp_path / "in.gguf")
    message = refused(source, tmp_path / "out.gguf", "IQ1_S")
    assert message.startswith("type 'IQ1_S' is unknown; it must be one of ")
    assert "Q4_K_M" in message


def test_quantised_files_are_not_quantised_again(tmp_path: Path) -> None:
    source = model(type=Q8_0).write(tmp_path / "in.gguf")
    message = refused(source, tmp_path / "out.gguf")
    assert "'token_embd.weight' is Q8_0 already; only F32, F16 and BF16 are quantised" in message
    quantize_file(source, tmp_path / "same.gguf", "Q8_0")  # as llama.cpp: nothing to be done


def test_tensors_of_no_kernel_may_stay(tmp_path: Path) -> None:
    source = model().tensor("tid2eid", I32, (2, 3)).write(tmp_path / "in.gguf")
    quantize_file(source, tmp_path / "out.gguf", "Q8_0")
    with GGUFFile(tmp_path / "out.gguf") as file:
        assert file.tensors["tid2eid"].type.name == "I32"
    matrix = model().tensor("x.weight", I32, (2, 256)).write(tmp_path / "in.gguf")
    assert "'x.weight' is I32" in refused(matrix, tmp_path / "new.gguf")


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e30])
def test_bad_weights_are_refused_by_the_tensors_name(tmp_path: Path, bad: float) -> None:
    array = weights(9, 256)
    array[8, 8] = bad
    builder = model().tensor("blk.7.attn_q.weight", F32, array.shape, array)
    source = builder.write(tmp_path / "in.gguf")
    message = refused(source, tmp_path / "out.gguf")
    what = "a weight is 1e+30 in size" if np.isfinite(bad) else "the weights hold NaN or infinity"
    assert message.startswith(f"'blk.7.attn_q.weight': Q4_K: {what}")


def test_nothing_is_left_behind_by_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(linnet.engine.quantize.quantize, "padding", interrupt)
    source = model().write(tmp_path / "in.gguf")
    with pytest.raises(KeyboardInterrupt):
        quantize_file(source, tmp_path / "out.gguf", "Q4_K")
    assert list(tmp_path.iterdir()) == [source]


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = model().write(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    assert main(["quantize", str(source), str(target), "q4_k_m", "--threads", "2"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    pattern = r"\S+out.gguf: 0.0 MB -> 0.0 MB, \d+.\d\d -> \d.\d\d bits per weight, \d+.\d s; "
    assert re.fullmatch(pattern + r"13 Q4_K, 3 F32, 3 Q6_K\n", err), err


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = model().write(tmp_path / "in.gguf")
    assert main(["quantize", str(source), str(source), "Q4_K"]) == 2
    assert capsys.readouterr().err == f"linnet: {str(source)!r} is the file to be quantised\n"
