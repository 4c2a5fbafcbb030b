"""Which type each tensor of a file gets: what llama.cpp was seen to choose."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
import pytest
from support.gguf_builder import F32
from support.tiny_models import model

from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.quantize.recipes import RECIPES, choose_types, quantizable

FIRST_4 = {"attn_v": ("Q5_K", range(4)), "ffn_down": ("Q5_K", range(4))}
MORE_OF_6 = ("Q6_K", [2, 5])
MORE_OF_8 = ("Q6_K", [0, 3, 6, 7])
MORE_OF_16 = ("Q6_K", [0, 1, 4, 7, 10, 13, 14, 15])
MORE_OF_32 = ("Q6_K", [*range(4), *range(6, 28, 3), *range(28, 32)])
MORE_OF_80 = ("Q6_K", [*range(10), *range(12, 70, 3), *range(70, 80)])
OUTPUT = {"output": "Q6_K"}
EXPERTS_8 = {"attn_v": "Q8_0", "attn_k": "Q8_0"}

# What llama_model_quantize (llama.cpp) made of models like these: the type of most matrices, and
# of the others, in all layers or in those of the list.
CHOICES = [
    ({"layers": 32}, "Q4_K_M", "Q4_K", OUTPUT | {"attn_v": MORE_OF_32, "ffn_down": MORE_OF_32}),
    ({"layers": 32}, "Q5_K_M", "Q5_K", OUTPUT | {"attn_v": MORE_OF_32, "ffn_down": MORE_OF_32}),
    ({"layers": 32}, "Q4_K_S", "Q4_K", OUTPUT | FIRST_4),
    ({"layers": 32}, "Q4_K", "Q4_K", OUTPUT | FIRST_4),
    ({"layers": 32}, "Q5_K_S", "Q5_K", OUTPUT),
    ({"layers": 32}, "Q5_K", "Q5_K", OUTPUT),
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
    # rows that are not a whole number of blocks
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


def test_every_type_that_can_be_written_has_a_name() -> None:
    assert set(quantizable()) <= set(RECIPES)
    for recipe in RECIPES.values():
        found = gguf.LlamaFileType(recipe.file_type).name
        assert found in (f"MOSTLY_{recipe.name}", f"ALL_{recipe.name}")
    assert RECIPES["Q4_K"] == RECIPES["Q4_K_S"]
