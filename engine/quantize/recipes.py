"""Which type each tensor of a file gets when the file is quantised: the choices of llama.cpp.

They are those of llama-quantize (src/llama-quant.cpp):

- Matrices whose name ends in `weight` are quantised, except for some that are small or delicate.
- The output matrix gets Q6_K, or Q8_0 in a Q8_0 file. Where there is none, the token embedding is
  the output matrix too, and gets that.
- `mixes` says which recipes give more bits to some roles, and in which layers.
- With 8 experts, attention is a small part of the model, and gets more bits. So does attn_v in the
  models of 70B that share it among heads.
- MXFP4_MOE has experts in MXFP4, and all else in Q8_0.
- Rows that are not a whole number of blocks get a type of smaller blocks, or else F16.

Recipes have llama.cpp's names; Q3_K, Q4_K and Q5_K are short for those that end in _M. The rules
that only Falcon, GLM 5 and Bailing have are left out.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np

from linnet.engine.gguf.file_types import FILE_TYPES
from linnet.engine.gguf.reader import GGUFFile, Tensor
from linnet.engine.quantize.mixes import MIXES, Place
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
FALLBACKS: Final = MappingProxyType(
    {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
     "IQ4_XS": "IQ4_NL"}
)  # fmt: skip
COPY: Final = "COPY"  # in place of a recipe: nothing is quantised


# ---- recipes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recipe:
    """`base`: the type of most matrices; `file_type`: the value of general.file_type."""

    name: str
    base: str
    file_type: int

    @property
    def needs_importance(self) -> bool:
        """Whether files would be of no use without an importance matrix."""
        return self.name == "Q2_K_S"


def quantizable() -> list[str]:
    """The names of the types that linnet can quantise to."""
    return [name for name, type in WEIGHT_TYPES.items() if type.can_quantize]


def _recipes() -> dict[str, Recipe]:
    """All of llama.cpp's file types, such as Q4_K_M, whose base type can be quantised to."""
    recipes = {}
    for number, name in FILE_TYPES.items():
        base = re.sub("_([SML]|MOE)$", "", name)
        if base in quantizable():
            recipes[name] = Recipe(name, base, number)
    return recipes | {short: recipes[f"{short}_M"] for short in ("Q3_K", "Q4_K", "Q5_K")}


RECIPES: Final = MappingProxyType(_recipes())


def recipe_name(text: str) -> str | None:
    """A key of `RECIPES`, or COPY, by its name in small letters or large, or by the number of its
    file type; None if it is neither."""
    names = (*RECIPES, COPY)
    if text.isascii() and text.isdecimal():
        text = FILE_TYPES.get(int(text), "")
    return text.upper() if text.upper() in names else None


# ---- what somebody wants otherwise ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Overrides:
    """What holds in place of a recipe's choices. Types are names of `quantizable()`.

    `pure`: all matrices get the recipe's base type. `leave_output`: the output matrix stays as it
    is. `output`: the type of the output matrix. `embeddings`: the type of the token embedding.
    `tensors`: types by regular expressions, of which the first that is found in a name holds.

    Raises ValueError for a type that cannot be quantised to, and for no regular expression.
    """

    pure: bool = False
    leave_output: bool = False
    output: str | None = None
    embeddings: str | None = None
    tensors: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.output, self.embeddings, *self.tensors.values()):
            if name is not None and name not in quantizable():
                raise ValueError(f"type {name!r} must be one of {', '.join(quantizable())}")
        for pattern in self.tensors:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error

    def of(self, name: str) -> str | None:
        """The type that a matrix is to have, if it is not left to the recipe."""
        found = next((t for pattern, t in self.tensors.items() if re.search(pattern, name)), None)
        if name in EMBEDDINGS and self.embeddings and not (found and name != EMBEDDINGS[0]):
            return self.embeddings
        return self.output if name == OUTPUT and self.output else found


# ---- the choice ----------------------------------------------------------------------------------


def choose_types(
    file: GGUFFile, recipe: Recipe | None, overrides: Overrides | None = None, *,
    has_importance: bool = False,
) -> dict[str, str]:  # fmt: skip
    """The type of each tensor, by name; those that are not quantised keep theirs: all, without a
    recipe.

    Warns of overrides that no matrix has use for, and of types that do not fit a matrix's rows.
    """
    types = {name: tensor.type.name for name, tensor in file.tensors.items()}
    if recipe is None:
        return types
    overrides = overrides or Overrides()
    matrices = {name: tensor for name, tensor in file.tensors.items() if _is_quantised(tensor)}
    if overrides.leave_output:
        matrices.pop(OUTPUT, None)
    model = _Model(file, list(matrices), overrides, has_importance=has_importance)
    for name, tensor in matrices.items():
        wanted = overrides.of(name)
        types[name] = _fitting(wanted or model.choose(name, recipe), tensor.shape[-1])
        if wanted and types[name] != wanted:
            what = f"rows of {tensor.shape[-1]} are not whole blocks of {wanted}"
            warnings.warn(f"{name!r} gets {types[name]}: {what}", stacklevel=2)
    for pattern in overrides.tensors:
        if not any(re.search(pattern, name) for name in matrices):
            warnings.warn(f"no matrix to be quantised has {pattern!r} in its name", stacklevel=2)
    return types


def _is_quantised(tensor: Tensor) -> bool:
    is_matrix = any(dim > 1 for dim in tensor.shape[:-1]) and tensor.data.size > 0
    return is_matrix and tensor.name.endswith("weight") and not UNTOUCHED.search(tensor.name)


def _fitting(type_name: str, n_columns: int) -> str:
    """The type, or what stands in for it where a row is not a whole number of blocks."""
    for name in (type_name, FALLBACKS.get(type_name, type_name)):
        if n_columns % WEIGHT_TYPES[name].block == 0:
            return name
    return "F16"


class _Model:
    """What the types of a model's matrices depend on."""

    def __init__(
        self, file: GGUFFile, matrices: list[str], overrides: Overrides, *, has_importance: bool
    ) -> None:
        arch = file.get("general.architecture", str, "")
        self.overrides, self.has_importance = overrides, has_importance
        self.outputs = {OUTPUT} if OUTPUT in file.tensors else EMBEDDINGS
        shapes = {name: file.tensors[name].shape for name in matrices}
        self.stacked = {name for name, shape in shapes.items() if any(n > 1 for n in shape[:-2])}
        self.attention_v = _in_layer_order(name for name in matrices if ATTENTION_V.search(name))
        self.ffn_down = _in_layer_order(name for name in matrices if "ffn_down" in name)
        self.n_layers = file.get(f"{arch}.block_count", int, len(self.ffn_down))
        self.n_experts = file.get(f"{arch}.expert_count", int, 0)
        heads, groups = (
            file.metadata.get(f"{arch}.attention.{key}") for key in ("head_count", "head_count_kv")
        )
        heads, groups = _of_first_layer(heads), _of_first_layer(heads if groups is None else groups)
        self.heads_per_group = heads // groups if groups else 0
        shares_v = arch == "qwen2" or (arch == "llama" and groups != heads)
        self.is_70b = self.n_layers == 80 and shares_v

    def choose(self, name: str, recipe: Recipe) -> str:
        """The type of a matrix, if its rows fit."""
        base = recipe.base
        if self.overrides.pure or isinstance(WEIGHT_TYPES[base], FloatType):
            return base
        if name in self.outputs and self.overrides.output:
            return self.overrides.output
        if base == "MXFP4":
            return base if name in self.stacked else "Q8_0"
        if name in self.outputs:
            return base if base == "Q8_0" else "Q6_K"
        if name in self.attention_v:
            return self._choose_attention_v(name, recipe)
        if self.n_experts == 8 and "attn_k.weight" in name:
            return "Q8_0"
        if "attn_output.weight" in name:
            return self._by_role("attn_output", recipe, 0, 0)
        if "ffn_down" in name:
            layer = _layer(name) if self.n_experts > 1 else self.ffn_down.index(name)
            return self._by_role("ffn_down", recipe, layer, self.n_layers)
        return base

    def _choose_attention_v(self, name: str, recipe: Recipe) -> str:
        if self.n_experts == 8:
            return "Q8_0"
        index = self.attention_v.index(name)
        found = self._by_role("attn_v", recipe, index, len(self.attention_v))
        return "Q5_K" if self.is_70b and found in ("Q3_K", "Q4_K") else found

    def _by_role(self, role: str, recipe: Recipe, layer: int, n_layers: int) -> str:
        place = Place(layer, n_layers, self.n_experts, self.heads_per_group, self.has_importance)
        rules = MIXES.get(recipe.name, {}).get(role, ())
        return next((type for holds, type in rules if holds(place)), recipe.base)


def _of_first_layer(value: object) -> int:
    """Of one number, or one for each layer; 0 for what is neither."""
    if isinstance(value, np.ndarray) and value.size:
        value = value[0].item()
    return value if isinstance(value, int) else 0


def _in_layer_order(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (_layer(name), name))


def _layer(name: str) -> int:
    """N of blk.N., or -1."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1
