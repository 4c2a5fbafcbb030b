"""Which type each tensor of a file gets: what llama.cpp was seen to choose."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import pytest
from support.gguf_builder import F32, GGUFBuilder
from support.tiny_models import model

from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.quantize.mixes import MIXES
from linnet.engine.quantize.recipes import (
    FALLBACKS,
    RECIPES,
    Overrides,
    choose_types,
    quantizable,
    recipe_name,
)
from linnet.kernels.quants import WEIGHT_TYPES

FIRST_4 = {"attn_v": ("Q5_K", range(4)), "ffn_down": ("Q5_K", range(4))}
MORE_OF_6 = ("Q6_K", [2, 5])
MORE_OF_8 = ("Q6_K", [0, 3, 6, 7])
MORE_OF_16 = ("Q6_K", [0, 1, 4, 7, 10, 13, 14, 15])
MORE_OF_32 = ("Q6_K", [*range(4), *range(6, 28, 3), *range(28, 32)])
MORE_OF_80 = ("Q6_K", [*range(10), *range(12, 70, 3), *range(70, 80)])
OUTPUT = {"output": "Q6_K"}
SENSITIVE = ("attn_v", "attn_output", "ffn_down")
Q3_K_M = {
    "attn_v": ("Q5_K", range(2), "Q4_K"),
    "attn_output": "Q4_K",
    "ffn_down": ("Q5_K", range(2), "Q4_K"),
}
EXPERTS_8 = {"attn_v": "Q8_0", "attn_k": "Q8_0"}

WEIGHTED = [
    ("Q4_0", "Q4_0", {"ffn_down": ("Q4_1", [0])}),
    ("Q5_0", "Q5_0", {"ffn_down": ("Q5_1", [0])}),
    ("Q8_0", "Q8_0", {"output": "Q8_0"}),
    ("IQ4_NL", "IQ4_NL", {}),
    ("IQ4_XS", "IQ4_XS", {}),
    ("Q2_K_S", "Q2_K", {"ffn_down": ("Q4_K", [0])}),
]

# What llama_model_quantize (llama.cpp) made of models like these: the type of most matrices, and
# of the others, in all layers or in those of the list.
CHOICES = [
    ({"layers": 32}, "Q4_K_M", "Q4_K", OUTPUT | {"attn_v": MORE_OF_32, "ffn_down": MORE_OF_32}),
    ({"layers": 32}, "Q5_K_M", "Q5_K", OUTPUT | {"attn_v": MORE_OF_32, "ffn_down": MORE_OF_32}),
    ({"layers": 32}, "Q4_K_S", "Q4_K", OUTPUT | FIRST_4),
    ({"layers": 32}, "Q4_K", "Q4_K", OUTPUT | {"attn_v": MORE_OF_32, "ffn_down": MORE_OF_32}),
    ({"layers": 32}, "Q5_K_S", "Q5_K", OUTPUT),
    ({"layers": 32}, "Q5_K", "Q5_K", OUTPUT | {"attn_v": MORE_OF_32, "ffn_down": MORE_OF_32}),
    ({"layers": 32}, "Q2_K", "Q2_K", OUTPUT | dict.fromkeys(SENSITIVE, "Q3_K")),
    ({"layers": 32}, "Q2_K_S", "Q2_K", OUTPUT | {"ffn_down": ("Q4_K", range(4))}),
    ({"layers": 32}, "Q3_K_S", "Q3_K", OUTPUT),
    ({"layers": 32}, "Q3_K_M", "Q3_K", OUTPUT | Q3_K_M),
    ({"layers": 32}, "Q3_K", "Q3_K", OUTPUT | Q3_K_M),
    ({"layers": 32}, "Q3_K_L", "Q3_K", OUTPUT | dict.fromkeys(SENSITIVE, "Q5_K")),
    ({"layers": 32}, "IQ4_NL", "IQ4_NL", OUTPUT | {"ffn_down": ("Q5_K", range(4))}),
    ({"layers": 32}, "IQ4_XS", "IQ4_XS", OUTPUT | {"ffn_down": ("Q5_K", range(4))}),
    ({"layers": 32}, "MXFP4_MOE", "Q8_0", {}),
    ({"layers": 32}, "F32", "F32", {}),
    # keys and values of one head for four
    (
        {"layers": 32, "kv_heads": 1},
        "Q2_K",
        "Q2_K",
        OUTPUT | {"attn_v": "Q4_K", "attn_output": "Q3_K", "ffn_down": "Q3_K"},
    ),
    (
        {"layers": 32, "kv_heads": 1},
        "Q2_K_S",
        "Q2_K",
        OUTPUT | {"attn_v": "Q4_K", "ffn_down": ("Q4_K", range(4))},
    ),
    ({"layers": 32, "kv_heads": 1}, "Q3_K_M", "Q3_K", OUTPUT | Q3_K_M),
    (
        {"layers": 32, "kv_heads": 1},
        "IQ4_XS",
        "IQ4_XS",
        OUTPUT | {"attn_v": "Q5_K", "ffn_down": ("Q5_K", range(4))},
    ),
    ({"layers": 32}, "Q6_K", "Q6_K", {}),
    ({"layers": 32}, "Q8_0", "Q8_0", {}),
    ({"layers": 32}, "Q4_0", "Q4_0", OUTPUT),
    ({"layers": 32}, "BF16", "BF16", {}),
    # no output matrix
    (
        {"layers": 6, "tied": True},
        "Q4_K_M",
        "Q4_K",
        {"token_embd": "Q6_K", "attn_v": MORE_OF_6, "ffn_down": MORE_OF_6},
    ),
    ({"layers": 6, "tied": True}, "Q8_0", "Q8_0", {}),
    # experts
    (
        {"layers": 16, "experts": 8},
        "Q4_K_M",
        "Q4_K",
        OUTPUT | EXPERTS_8 | {"attn_output": "Q5_K", "ffn_down_exps": MORE_OF_16},
    ),
    (
        {"layers": 16, "experts": 8},
        "Q5_K_M",
        "Q5_K",
        OUTPUT | EXPERTS_8 | {"ffn_down_exps": MORE_OF_16},
    ),
    (
        {"layers": 16, "experts": 8},
        "Q4_K_S",
        "Q4_K",
        OUTPUT | EXPERTS_8 | {"attn_output": "Q5_K", "ffn_down_exps": ("Q5_K", [0, 1])},
    ),
    ({"layers": 16, "experts": 8}, "Q6_K", "Q6_K", EXPERTS_8),
    (
        {"layers": 16, "experts": 8},
        "Q2_K",
        "Q2_K",
        OUTPUT | EXPERTS_8 | {"attn_output": "Q5_K", "ffn_down_exps": "Q3_K"},
    ),
    ({"layers": 16, "experts": 8}, "Q3_K_S", "Q3_K", OUTPUT | EXPERTS_8 | {"attn_output": "Q5_K"}),
    (
        {"layers": 16, "experts": 8},
        "Q3_K_L",
        "Q3_K",
        OUTPUT | EXPERTS_8 | {"ffn_down_exps": "Q5_K"},
    ),
    (
        {"layers": 16, "experts": 8},
        "IQ4_NL",
        "IQ4_NL",
        OUTPUT | EXPERTS_8 | {"attn_output": "Q5_K", "ffn_down_exps": ("Q5_K", [0, 1])},
    ),
    (
        {"layers": 16, "experts": 8},
        "MXFP4_MOE",
        "Q8_0",
        dict.fromkeys(("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"), "MXFP4"),
    ),
    (
        {"layers": 16, "experts": 4},
        "Q4_K_M",
        "Q4_K",
        OUTPUT | {"attn_v": MORE_OF_16, "ffn_down_exps": MORE_OF_16},
    ),
    # 70B
    (
        {"layers": 80},
        "Q4_K_M",
        "Q4_K",
        OUTPUT | {"attn_v": (*MORE_OF_80, "Q5_K"), "ffn_down": MORE_OF_80},
    ),
    ({"layers": 80}, "Q5_K_M", "Q5_K", OUTPUT | {"attn_v": MORE_OF_80, "ffn_down": MORE_OF_80}),
    (
        {"layers": 80},
        "Q4_K_S",
        "Q4_K",
        OUTPUT | {"attn_v": "Q5_K", "ffn_down": ("Q5_K", range(10))},
    ),
    (
        {"layers": 80, "kv_heads": 4},
        "Q4_K_M",
        "Q4_K",
        OUTPUT | {"attn_v": MORE_OF_80, "ffn_down": MORE_OF_80},
    ),
    (
        {"layers": 80, "arch": "qwen3"},
        "Q4_K_M",
        "Q4_K",
        OUTPUT | {"attn_v": MORE_OF_80, "ffn_down": MORE_OF_80},
    ),
    (
        {"layers": 80},
        "Q3_K_M",
        "Q3_K",
        OUTPUT | {"attn_v": "Q5_K", "attn_output": "Q4_K", "ffn_down": ("Q5_K", range(5), "Q4_K")},
    ),
    # rows that are not a whole number of blocks
    (
        {"layers": 8, "ffn": 352},
        "Q2_K",
        "Q2_K",
        OUTPUT | {"attn_v": "Q3_K", "attn_output": "Q3_K", "ffn_down": "Q4_0"},
    ),
    ({"layers": 8, "ffn": 352}, "Q3_K_S", "Q3_K", OUTPUT | {"ffn_down": "Q4_0"}),
    ({"layers": 8, "ffn": 352}, "IQ4_XS", "IQ4_XS", OUTPUT | {"ffn_down": ("Q5_1", [0], "IQ4_NL")}),
    ({"layers": 4, "ffn": 172}, "MXFP4_MOE", "Q8_0", {"ffn_down": "F16"}),
    (
        {"layers": 8, "ffn": 352},
        "Q4_K_M",
        "Q4_K",
        OUTPUT | {"attn_v": MORE_OF_8, "ffn_down": ("Q8_0", MORE_OF_8[1], "Q5_0")},
    ),
    (
        {"layers": 8, "ffn": 352},
        "Q5_K_M",
        "Q5_K",
        OUTPUT | {"attn_v": MORE_OF_8, "ffn_down": ("Q8_0", MORE_OF_8[1], "Q5_1")},
    ),
    ({"layers": 8, "ffn": 352}, "Q6_K", "Q6_K", {"ffn_down": "Q8_0"}),
    ({"layers": 8, "ffn": 352}, "Q4_0", "Q4_0", OUTPUT),
    ({"layers": 4, "ffn": 172}, "Q6_K", "Q6_K", {"ffn_down": "F16"}),
    ({"layers": 4, "ffn": 172}, "Q8_0", "Q8_0", {"ffn_down": "F16"}),
    (
        {"layers": 8, "columns": 128, "ffn": 352, "tied": True},
        "Q4_K_M",
        "Q5_0",
        {"token_embd": "Q8_0"} | dict.fromkeys(("attn_v", "ffn_down"), ("Q8_0", MORE_OF_8[1])),
    ),
    ({"columns": 128, "ffn": 352, "tied": True}, "Q6_K", "Q8_0", {}),
]


@pytest.mark.parametrize(("options", "type_name", "most", "others"), CHOICES)
def test_types_are_chosen_as_llama_cpp_does(
    tmp_path: Path, options: dict, type_name: str, most: str, others: dict
) -> None:
    path = model(**options).write(tmp_path / "model.gguf")
    with GGUFFile(path) as file:
        chosen = choose_types(file, RECIPES[type_name])
    check(chosen, most, others)


@pytest.mark.parametrize(("type_name", "most", "others"), WEIGHTED)
def test_an_importance_matrix_changes_some_choices(
    tmp_path: Path, type_name: str, most: str, others: dict
) -> None:
    path = model(8).write(tmp_path / "model.gguf")
    with GGUFFile(path) as file:
        chosen = choose_types(file, RECIPES[type_name], has_importance=True)
    check(chosen, most, OUTPUT | others)


def check(chosen: dict[str, str], most: str, others: dict) -> None:
    for name, found in chosen.items():
        layer, role = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name).groups()
        other = others.get(role, most)
        special, layers, rest = (*other, most)[:3] if isinstance(other, tuple) else (other, None, 0)
        expected = special if layers is None or int(layer) in layers else rest
        assert found == ("F32" if "norm" in role or role == "ffn_gate_inp" else expected), name


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("rope_freqs.weight", (256,)),
        ("blk.0.attn_q.bias", (2, 256)),
        ("blk.0.attn_q_norm.weight", (4, 256)),
        ("blk.0.row.weight", (1, 256)),
        ("blk.0.ssm_conv1d.weight", (2, 256)),
        ("blk.0.shortconv.conv.weight", (2, 256)),
        ("per_layer_model_proj.weight", (2, 256)),
        ("blk.0.no_rows.weight", (2, 0, 256)),
    ],
)
def test_some_tensors_stay_as_they_are(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    path = model().tensor(name, F32, shape).write(tmp_path / "model.gguf")
    with GGUFFile(path) as file:
        assert choose_types(file, RECIPES["Q4_K_M"])[name] == "F32"


# ---- what somebody wants otherwise ---------------------------------------------------------------


def chosen_types(builder: GGUFBuilder, folder: Path, recipe: str, **wanted: Any) -> dict[str, str]:
    with GGUFFile(builder.write(folder / "model.gguf")) as file:
        types = choose_types(file, RECIPES[recipe], Overrides(**wanted))
    return {name.removesuffix(".weight"): type for name, type in types.items()}


def test_pure_means_one_type(tmp_path: Path) -> None:
    for recipe, base in (("Q3_K_M", "Q3_K"), ("MXFP4_MOE", "MXFP4"), ("IQ4_XS", "IQ4_XS")):
        types = chosen_types(model(8), tmp_path, recipe, pure=True)
        assert {type for name, type in types.items() if "norm" not in name} == {base}


def test_the_output_matrix_may_stay_or_get_a_type_of_its_own(tmp_path: Path) -> None:
    plain = chosen_types(model(8), tmp_path, "Q4_K_M")
    for wanted, expected in (({"leave_output": True}, "F16"), ({"output": "Q5_1"}, "Q5_1")):
        found = chosen_types(model(8), tmp_path, "Q4_K_M", **wanted)
        assert found == plain | {"output": expected}
        assert chosen_types(model(8), tmp_path, "F16", **wanted)["output"] == expected


def test_an_embedding_that_is_the_output_matrix_gets_its_type(tmp_path: Path) -> None:
    tied = model(8, tied=True)
    assert chosen_types(tied, tmp_path, "Q4_K_M", output="Q5_1")["token_embd"] == "Q5_1"
    wanted = {"output": "Q5_1", "embeddings": "IQ4_NL"}
    assert chosen_types(tied, tmp_path, "Q4_K_M", **wanted)["token_embd"] == "IQ4_NL"
    assert chosen_types(tied, tmp_path, "Q4_K_M", leave_output=True)["token_embd"] == "Q6_K"


def test_types_go_by_the_first_pattern_that_is_found(tmp_path: Path) -> None:
    per_layer = "per_layer_token_embd"
    builder = model(8).tensor(f"{per_layer}.weight", F32, (2, 256))
    patterns = {"attn_[qk]": "Q8_0", r"blk\.[0-3]\.attn": "Q2_K", "token_embd": "Q5_0"}
    plain = chosen_types(builder, tmp_path, "Q4_K_S")
    found = chosen_types(builder, tmp_path, "Q4_K_S", tensors=patterns, embeddings="Q3_K")
    for name, type in found.items():
        expected = (
            plain[name] if "norm" in name
            else "Q8_0" if "attn_q" in name or "attn_k" in name
            else "Q2_K" if re.match(r"blk\.[0-3]\.attn", name)
            else {"token_embd": "Q3_K", per_layer: "Q5_0"}.get(name, plain[name])
        )  # fmt: skip
        assert type == expected, name


def test_overrides_without_use_and_rows_that_do_not_fit_are_told(tmp_path: Path) -> None:
    builder = model(2, ffn=352)
    with pytest.warns(UserWarning, match="no matrix to be quantised has 'attn_z' in its name"):
        chosen_types(builder, tmp_path, "Q8_0", tensors={"attn_z": "Q8_0"})
    wanted = "'blk.1.ffn_down.weight' gets Q4_0: rows of 352 are not whole blocks of Q3_K"
    with pytest.warns(UserWarning, match=wanted):
        found = chosen_types(builder, tmp_path, "Q8_0", tensors={"1.ffn_down": "Q3_K"})
    assert found["blk.1.ffn_down"] == "Q4_0"


def test_bad_overrides_are_refused() -> None:
    for wanted in ({"output": "NVFP4"}, {"embeddings": "q8_0"}, {"tensors": {"a": "Q4_K_M"}}):
        with pytest.raises(ValueError, match="must be one of F32, F16, BF16, Q8_0"):
            Overrides(**wanted)
    with pytest.raises(ValueError, match=r"'\(' is no regular expression"):
        Overrides(tensors={"(": "Q8_0"})


# ---- names ---------------------------------------------------------------------------------------


def test_every_type_that_can_be_written_has_a_name() -> None:
    assert set(quantizable()) <= {recipe.base for recipe in RECIPES.values()}
    for recipe in RECIPES.values():
        found = gguf.LlamaFileType(recipe.file_type).name
        assert found in (f"MOSTLY_{recipe.name}", f"ALL_{recipe.name}")
        assert recipe_name(str(recipe.file_type)) == recipe.name
        assert recipe_name(recipe.name.lower()) == recipe.name
    for name in ("Q3_K", "Q4_K", "Q5_K"):
        assert RECIPES[name] == RECIPES[f"{name}_M"]
    assert recipe_name("copy") == "COPY"
    for unknown in ("Q9_0", "99", "-1", "", "GUESSED", "1024", "IQ1_S", "24", "\u0661"):
        assert recipe_name(unknown) is None


def test_mixes_are_those_of_recipes_and_of_types_that_can_be_written() -> None:
    assert set(MIXES) <= set(RECIPES)
    types = {type for roles in MIXES.values() for rules in roles.values() for _, type in rules}
    assert types <= set(quantizable())
    bases = {recipe.base for recipe in RECIPES.values()}
    assert {name for name in bases | types if WEIGHT_TYPES[name].block == 256} == set(FALLBACKS)
