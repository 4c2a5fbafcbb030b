"""What may be asked of `linnet quantize` beside the type, in llama-quantize's words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.gguf_builder import F32, STRING, UINT16, GGUFBuilder
from support.tiny_models import model

from linnet.engine.cli.main import main
from linnet.engine.cli.quantize import _placed
from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.quantize.quantize import Overrides, QuantizeError, quantize_file
from linnet.kernels.quants import WEIGHT_TYPES

Q8_0 = 8


def types_of(path: Path) -> dict[str, str]:
    with GGUFFile(path) as file:
        return {name: tensor.type.name for name, tensor in file.tensors.items()}


# ---- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "flag", "found"),
    [
        ("in out q4_k_m", None, ("in", "out", "Q4_K_M", None)),
        ("in out 15 8", None, ("in", "out", "Q4_K_M", 8)),
        ("in Q4_K 8", None, ("in", None, "Q4_K", 8)),
        ("in copy", None, ("in", None, "COPY", None)),
        ("in 0", None, ("in", None, "F32", None)),
        ("out Q8_0", "in", ("in", "out", "Q8_0", None)),
        ("mxfp4_moe 3", "in", ("in", None, "MXFP4_MOE", 3)),
    ],
)
def test_words_are_placed_as_llama_quantize_places_them(
    line: str, flag: str | None, found: tuple
) -> None:
    assert _placed([*line.split(), None], flag) == found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "a TYPE is wanted, one of F32, F16"),
        ("{in}", "a TYPE is wanted"),
        ("{in} {out}", "out.gguf' is no type, and a TYPE is wanted"),
        ("{in} {out} Q9", "type 'Q9' is unknown; it must be one of"),
        ("{in} {out} IQ2_XS", "type 'IQ2_XS' is unknown"),
        ("{in} Q8_0 2 3", "there is no place for '3'"),
        ("{in} Q8_0 two", "'two' is not a whole number from 1 to"),
        ("{in} Q8_0 2 --threads 2", "threads are given twice"),
        ("{in} {out} Q8_0 --output-tensor-type Q4_K_M", "'Q4_K_M' must be one of F32"),
        ("{in} {out} Q8_0 --tensor-type Q4_K", "must be NAME=TYPE, as attn_v=Q8_0"),
        ("{in} {out} Q8_0 --tensor-type =Q4_K", "must be NAME=TYPE"),
        ("{in} {out} Q8_0 --tensor-type (=Q4_K", "is no regular expression"),
        ("{in} {out} Q8_0 --tensor-type-file {in}", "in.gguf'"),
        ("{in} {out} Q8_0 --prune-layers 1", "a model keeps its layers"),
        ("{in} {out} COPY --pure", "COPY leaves all as it is"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    source = model().write(tmp_path / "in.gguf")
    words = line.replace("{in}", str(source)).replace("{out}", str(tmp_path / "out.gguf"))
    assert main(["quantize", *words.split()]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [source]


def test_a_file_without_a_name_lies_beside_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = model().write(tmp_path / "in.gguf")
    for word, name in (("Q4_K", "Q4_K"), ("15", "Q4_K_M"), ("iq4_xs", "IQ4_XS")):
        assert main(["quantize", str(source), word, "2"]) == 0
        target = tmp_path / f"ggml-model-{name}.gguf"
        assert capsys.readouterr().err.startswith(f"{target}: ")
        assert types_of(target)["blk.0.attn_q.weight"] == name.removesuffix("_M")


# ---- types ---------------------------------------------------------------------------------------


def test_flags_give_types(tmp_path: Path) -> None:
    source, target = model(4).write(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    flags = (
        r"--output-tensor-type q5_1 --token-embedding-type iq4_nl --tensor-type attn_[qk]=q8_0 "
        r"--tensor-type blk\.[01].attn=q2_k --tensor-type attn_[qk]=F16"
    )
    assert main(["quantize", *flags.split(), str(source), str(target), "Q4_0"]) == 0
    expected = {
        "output.weight": "Q5_1",
        "token_embd.weight": "IQ4_NL",
        "blk.1.attn_q.weight": "Q8_0",
        "blk.1.attn_v.weight": "Q2_K",
        "blk.2.attn_v.weight": "Q4_0",
        "blk.1.attn_norm.weight": "F32",
    }
    assert expected.items() <= types_of(target).items()
    assert main(["quantize", "--leave-output-tensor", "--pure", str(source), "Q4_K_M"]) == 0
    types = types_of(tmp_path / "ggml-model-Q4_K_M.gguf")
    assert types.pop("output.weight") == "F16"
    assert set(types.values()) == {"Q4_K", "F32"}


def test_types_may_stand_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, listed = model().write(tmp_path / "in.gguf"), tmp_path / "types"
    listed.write_text("attn_q=q8_0 attn_k=Q5_1\n\nffn=Q2_K\n")
    flags = ["--tensor-type", "attn_k=F16", "--tensor-type-file", str(listed)]
    assert main(["quantize", *flags, str(source), "Q4_0"]) == 0
    types = types_of(tmp_path / "ggml-model-Q4_0.gguf")
    found = {name: types[f"blk.1.{name}.weight"] for name in ("attn_q", "attn_k", "ffn_up")}
    assert found == {"attn_q": "Q8_0", "attn_k": "F16", "ffn_up": "Q2_K"}
    listed.write_text("attn_q=q8_0 attn_k")
    assert main(["quantize", *flags, str(source), "Q4_0"]) == 2
    assert "types': 'attn_k' must be NAME=TYPE" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    source = model(8, ffn=352).write(tmp_path / "in.gguf")
    assert main(["quantize", "--dry-run", "--tensor-type", "attn_k=Q8_0", str(source), "Q3_K"]) == 0
    out, err = capsys.readouterr()
    assert list(tmp_path.iterdir()) == [source]
    assert err.startswith("nothing is written: ")
    overrides = Overrides(tensors={"attn_k": "Q8_0"})
    done = quantize_file(source, tmp_path / "out.gguf", "Q3_K", overrides=overrides)
    rows = [re.split(r"\s{2,}", line) for line in out.splitlines()[2:]]
    assert rows == [
        [t.name, " x ".join(map(str, t.shape)), t.source_type, t.target_type,
         f"{t.source_bytes:,}", f"{t.target_bytes:,}"]
        for t in done.tensors
    ]  # fmt: skip
    with GGUFFile(tmp_path / "out.gguf") as file:
        sizes = {name: tensor.data.size for name, tensor in file.tensors.items()}
    assert {t.name: t.target_bytes for t in done.tensors} == sizes
    assert {t.name: t.target_type for t in done.tensors} == types_of(tmp_path / "out.gguf")


# ---- a second time -------------------------------------------------------------------------------


def test_a_second_time_is_refused_or_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    packed = WEIGHT_TYPES["Q8_0"].quantize(weights)
    builder = model().tensor("blk.9.attn_q.weight", Q8_0, weights.shape, packed)
    source, target = builder.write(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    assert main(["quantize", str(source), str(target), "Q4_K_S"]) == 2
    said = "'blk.9.attn_q.weight' is Q8_0 already; only F32, F16 and BF16 are quantised: begin with"
    err = capsys.readouterr().err
    assert said in err
    assert "or take the loss (--allow-requantize)" in err
    with pytest.warns(UserWarning, match=r"a second time \(1 Q8_0\).*: this is worse than"):
        assert main(["quantize", "--allow-requantize", str(source), str(target), "Q4_K_S"]) == 0
    with GGUFFile(target) as file:
        found = file.tensors["blk.9.attn_q.weight"]
        assert found.type.name == "Q4_K"
        again = WEIGHT_TYPES["Q4_K"].quantize(WEIGHT_TYPES["Q8_0"].dequantize(packed))
        assert found.data.tobytes() == again.tobytes()


# ---- split files, and copies ---------------------------------------------------------------------


def split_model(folder: Path, *, alignment: int = 64) -> Path:
    rng = np.random.default_rng(0)
    for part in range(2):
        builder = GGUFBuilder(alignment=alignment).kv("split.no", UINT16, part)
        builder.kv("split.count", UINT16, 2).kv("split.tensors.count", 5, 4)
        if not part:
            builder.kv("general.architecture", STRING, "llama").array("k", STRING, ["a", "b"])
        for name in "ab":
            weights = rng.standard_normal((3, 32)).astype(np.float32)
            builder.tensor(f"{part}.{name}.weight", F32, (3, 32), weights)
        builder.write(folder / f"in-{part + 1:05}-of-00002.gguf")
    return folder / "in-00001-of-00002.gguf"


@pytest.mark.parametrize("type_name", ["Q8_0", "COPY"])
def test_a_split_may_be_kept(tmp_path: Path, type_name: str) -> None:
    source, whole = split_model(tmp_path), tmp_path / "whole.gguf"
    quantize_file(source, whole, type_name)
    assert main(["quantize", "--keep-split", str(source), str(tmp_path / "o.gguf"), type_name]) == 0
    parts = sorted(tmp_path.glob("o*"))
    assert [path.name for path in parts] == ["o-00001-of-00002.gguf", "o-00002-of-00002.gguf"]
    with GGUFFile(parts[0]) as split, GGUFFile(whole) as one:
        assert [list(tensors) for _, tensors in split.parts] == [
            ["0.a.weight", "0.b.weight"], ["1.a.weight", "1.b.weight"],
        ]  # fmt: skip
        for name, tensor in one.tensors.items():
            assert split.tensors[name].data.tobytes() == tensor.data.tobytes()
        kept = {key: split.metadata[key] for key in split.metadata if "split" not in key}
        assert kept == dict(one.metadata)
    before = [path.read_bytes() for path in parts]
    with pytest.raises(QuantizeError, match=r"o-00001-of-00002\.gguf' is there already"):
        quantize_file(source, tmp_path / "o.gguf", type_name, keep_split=True)
    with pytest.raises(QuantizeError, match="is the file to be quantised"):
        quantize_file(source, tmp_path / "in.gguf", type_name, keep_split=True, force=True)
    assert [path.read_bytes() for path in parts] == before


def test_no_part_takes_its_name_before_all_are_whole(tmp_path: Path) -> None:
    source = split_model(tmp_path)
    path = tmp_path / "in-00002-of-00002.gguf"
    data = bytearray(path.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(data)
    with pytest.raises(QuantizeError, match=r"'1\.b\.weight': Q8_0: the weights hold NaN"):
        quantize_file(source, tmp_path / "o.gguf", "Q8_0", keep_split=True)
    assert len([*tmp_path.iterdir()]) == 2


def test_a_copy_is_what_it_was(tmp_path: Path) -> None:
    source = model(type=Q8_0).kv("general.file_type", 4, 7).write(tmp_path / "in.gguf")
    quantize_file(source, tmp_path / "out.gguf", "COPY")
    with GGUFFile(source) as before, GGUFFile(tmp_path / "out.gguf") as after:
        assert dict(before.metadata) == dict(after.metadata)
        assert list(before.tensors) == list(after.tensors)
        for name, tensor in before.tensors.items():
            found = after.tensors[name]
            assert (found.type, found.shape) == (tensor.type, tensor.shape)
            assert found.data.tobytes() == tensor.data.tobytes()


# ---- inspect -------------------------------------------------------------------------------------


def inspected(capsys: pytest.CaptureFixture[str], *argv: str) -> dict:
    assert main(["inspect", *argv]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_inspect_says_as_json_what_lies_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = split_model(tmp_path)
    found = inspected(capsys, str(source), "--json")
    assert found == inspected(capsys, str(source), "-o", "json")
    assert (found["n_tensors"], found["n_weights"], found["bytes"]) == (4, 384, 1536)
    assert found["bits_per_weight"] == 32
    for tensor in found["tensors"]:
        data = (tmp_path / tensor["file"]).read_bytes()[tensor["offset"] :][: tensor["bytes"]]
        with GGUFFile(source) as file:
            assert data == file.tensors[tensor["name"]].data.tobytes()
        assert tensor | {"type": "F32", "shape": [3, 32], "bits_per_weight": 32} == tensor
    whole = tmp_path / "whole.gguf"
    quantize_file(source, whole, "Q8_0")
    found = inspected(capsys, str(whole), "--json")
    assert {t["bits_per_weight"] for t in found["tensors"]} == {8.5}
    assert "file" not in found["tensors"][0]
    assert "tensors" not in inspected(capsys, str(whole), "--json", "--no-tensors")


def test_inspect_shortens_long_values_unless_asked_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    builder = GGUFBuilder().array("texts", STRING, [f"t{i}" for i in range(1000)])
    builder.array("numbers", 4, range(17)).array("few", 4, range(16)).kv("nan", 6, float("nan"))
    builder.kv("raw", STRING, b"\xff\x00").kv("text", STRING, "x" * 500)
    path = str(builder.write(tmp_path / "in.gguf"))
    short = inspected(capsys, path, "--json")["metadata"]
    assert short["texts"] == {"length": 1000, "first": [f"t{i}" for i in range(16)]}
    assert short["numbers"] == {"length": 17, "first": [*range(16)]}
    assert short["few"] == [*range(16)]
    assert (short["nan"], short["raw"], short["text"]) == ("nan", "\\xff\x00", "x" * 500)
    full = inspected(capsys, path, "--json", "--full")["metadata"]
    assert full["texts"] == [f"t{i}" for i in range(1000)]
    assert full["numbers"] == [*range(17)]
    assert main(["inspect", path]) == main(["inspect", path, "--full"]) == 0
    out = capsys.readouterr().out
    assert out.count("'t999'") == 1
    assert out.count("... (502 characters)") == 1


def test_inspect_says_in_json_what_is_not_finite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = np.ones((2, 32), np.float32)
    weights[1, 2:5] = np.inf
    builder = GGUFBuilder().tensor("a", F32, (2, 32), weights).tensor("b", F32, (2, 32))
    path = str(builder.write(tmp_path / "in.gguf"))
    assert main(["inspect", "--json", "--check", path]) == 1
    assert json.loads(capsys.readouterr().out)["not_finite"] == {"a": 3}
