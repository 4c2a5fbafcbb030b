"""Which type each tensor of a file gets when the file is quantised: the choices of llama.cpp.

They are those of llama-quantize without an importance matrix (src/llama-quant.cpp):

- Matrices whose name ends in `weight` are quantised, except for some that are small or delicate.
- The output matrix gets Q6_K, or Q8_0 in a Q8_0 file. Where there is none, the token embedding is
  the output matrix too, and gets that.
- The recipes Q4_K_M and Q5_K_M give Q6_K to attn_v and ffn_down in the first and the last eighth of
  the layers, and in every third layer between. Q4_K_S gives Q5_K to both in the first few layers.
- With 8 experts, attention is a small part of the model, and gets more bits. So does attn_v in the
  models of 70B that share it among heads.
- Rows that are not a whole number of blocks get a type of smaller blocks, or else F16.

Recipes have llama.cpp's names; Q4_K and Q5_K are short for Q4_K_S and Q5_K_S. The rules that only
Falcon has are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from linnet.engine.gguf.file_types import FILE_TYPES
from linnet.engine.gguf.reader import GGUFFile, Tensor
from linnet.kernels.quants import WEIGHT_TYPES, FloatType

OUTPUT: Final = "output.weight"
EMBEDDINGS: Final = ("token_embd.weight", "per_layer_token_embd.weight")
ATTENTION_V: Final = re.compile(r"attn_(v|qkv|kv_b)\.weight")
UNTOUCHED: Final = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|attn_rel_b\.weight"
    r"|altup|laurel|per_layer_model_proj|ssm_conv1d|shortconv\.conv\.weight"
    r"|^position_embd\.weight|^token_types\.weight|indexer\.[kq]_proj\.weight"
    r"|time_mix_(first|[wva][012]|g[12]|decay_w[12]|lerp_fused)\.weight"
    r"|\.position_embd|sam\.(pos_embd|neck\.|net_)|\.rel_pos|\.patch_embd|\.patch_merger"
    r"|a\.rvq\.codebook|mm\.a\.code_embd"
)
FALLBACKS: Final = MappingProxyType({"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """`base`: the type of most matrices; `file_type`: the value of general.file_type."""

    name: str
    base: str
    file_type: int

    @property
    def is_medium(self) -> bool:
        return self.name.endswith("_M")


def quantizable() -> list[str]:
    """The names of the types that linnet can quantise to."""
    return [name for name, type in WEIGHT_TYPES.items() if type.can_quantize]


def _recipes() -> dict[str, Recipe]:
    """All of llama.cpp's file types, such as Q4_K_M, whose base type can be quantised to."""
    recipes = {}
    for number, name in FILE_TYPES.items():
        base = re.sub("_[SM]$", "", name)
        if base in quantizable():
            recipes[name] = Recipe(name, base, number)
    return recipes | {short: recipes[f"{short}_S"] for short in ("Q4_K", "Q5_K")}


RECIPES: Final = MappingProxyType(_recipes())


def choose_types(file: GGUFFile, recipe: Recipe) -> dict[str, str]:
    """The type of each tensor, by name; those that are not quantised keep theirs."""
    types = {name: tensor.type.name for name, tensor in file.tensors.items()}
    matrices = {name: tensor for name, tensor in file.tensors.items() if _is_quantised(tensor)}
    model = _Model(file, list(matrices))
    for name, tensor in matrices.items():
        types[name] = _fitting(model.choose(name, recipe), n_columns=tensor.shape[-1])
    return types


def _is_quantised(tensor: Tensor) -> bool:
    is_matrix = any(dim > 1 for dim in tensor.shape[:-1]) and tensor.data.size > 0
    return is_matrix and tensor.name.endswith("weight") and not UNTOUCHED.search(tensor.name)


def _fitting(type_name: str, *, n_columns: int) -> str:
    """The type, or what stands in for it where a row is not a whole number of blocks."""
    for name in (type_name, FALLBACKS.get(type_name, type_name)):
        if n_columns % WEIGHT_TYPES[name].block == 0:
            return name
    return "F16"


class _Model:
    """What the types of a model's matrices depend on."""

    def __init__(self, file: GGUFFile, matrices: list[str]) -> None:
        arch = file.get("general.architecture", str, "")
        self.outputs = {OUTPUT} if OUTPUT in file.tensors else EMBEDDINGS
        self.attention_v = _in_layer_order(name for name in matrices if ATTENTION_V.search(name))
        self.ffn_down = _in_layer_order(name for name in matrices if "ffn_down" in name)
        self.n_layers = file.get(f"{arch}.block_count", int, len(self.ffn_down))
        self.n_experts = file.get(f"{arch}.expert_count", int, 0)
        heads, groups = (
            file.metadata.get(f"{arch}.attention.{key}") for key in ("head_count", "head_count_kv")
        )
        shares_v = arch == "qwen2" or (arch == "llama" and groups not in (None, heads))
        self.is_70b = self.n_layers == 80 and shares_v

    def choose(self, name: str, recipe: Recipe) -> str:
        """The type of a matrix, if its rows fit."""
        base = recipe.base
        if isinstance(WEIGHT_TYPES[base], FloatType):
            return base
        if name in self.outputs:
            return base if base == "Q8_0" else "Q6_K"
        if name in self.attention_v:
            return self._choose_attention_v(self.attention_v.index(name), recipe)
        if "ffn_down" in name:
            layer = _layer(name) if self.n_experts > 1 else self.ffn_down.index(name)
            return self._choose_ffn_down(layer, recipe)
        if self.n_experts == 8 and "attn_k.weight" in name:
            return "Q8_0"
        if self.n_experts == 8 and "attn_output.weight" in name and base == "Q4_K":
            return "Q5_K"
        return base

    def _choose_attention_v(self, layer: int, recipe: Recipe) -> str:
        if self.n_experts == 8:
            return "Q8_0"
        if recipe.is_medium and _gets_more_bits(layer, len(self.attention_v)):
            return "Q6_K"
        if recipe.base == "Q4_K" and (self.is_70b or (not recipe.is_medium and layer < 4)):
            return "Q5_K"
        return recipe.base

    def _choose_ffn_down(self, layer: int, recipe: Recipe) -> str:
        if recipe.is_medium and _gets_more_bits(layer, self.n_layers):
            return "Q6_K"
        if recipe.base == "Q4_K" and not recipe.is_medium and layer < self.n_layers // 8:
            return "Q5_K"
        return recipe.base


def _gets_more_bits(layer: int, n_layers: int) -> bool:
    eighth = n_layers // 8
    return layer < eighth or layer >= 7 * n_layers // 8 or (layer - eighth) % 3 == 2


def _in_layer_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (_layer(name), name))


def _layer(name: str) -> int:
    """N of blk.N., or -1."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1
