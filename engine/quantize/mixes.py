"""Which recipes give more bits to some roles, and in which layers: the table of `recipes`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Place:
    """Where a matrix is: in which of the layers that have its role, and in what model."""

    layer: int
    n_layers: int
    n_experts: int
    heads_per_group: int  # that share their keys and values
    has_importance: bool


Rule = tuple[Callable[[Place], bool], str]  # where it holds, and the type


def _everywhere(place: Place) -> bool:
    return True


def _first(n: int) -> Callable[[Place], bool]:
    return lambda place: place.layer < n


def _first_of(parts: int) -> Callable[[Place], bool]:
    return lambda place: place.layer < place.n_layers // parts


def _outer_and_thirds(place: Place) -> bool:
    """The first eighth of the layers, the last, and every third between."""
    layer, n, eighth = place.layer, place.n_layers, place.n_layers // 8
    return layer < eighth or layer >= 7 * n // 8 or (layer - eighth) % 3 == 2


def _shared(place: Place) -> bool:
    return place.heads_per_group >= 4


def _unweighted_eighth(place: Place) -> bool:
    return not place.has_importance and _first_of(8)(place)


def _weighted_eighth(place: Place) -> bool:
    return place.has_importance and _first_of(8)(place)


def _of_8(place: Place) -> bool:
    return place.n_experts == 8


def _not_of_8(place: Place) -> bool:
    return place.n_experts != 8


# Of each role the first rule that holds gives the type, and where none does it is the base.
_Roles = dict[str, tuple[Rule, ...]]
_IQ4: Final[_Roles] = {
    "attn_v": ((_shared, "Q5_K"),),
    "attn_output": ((_of_8, "Q5_K"),),
    "ffn_down": ((_unweighted_eighth, "Q5_K"),),
}
MIXES: Final[dict[str, _Roles]] = {
    "Q2_K": {
        "attn_v": ((_shared, "Q4_K"), (_everywhere, "Q3_K")),
        "attn_output": ((_of_8, "Q5_K"), (_everywhere, "Q3_K")),
        "ffn_down": ((_everywhere, "Q3_K"),),
    },
    "Q2_K_S": {
        "attn_v": ((_shared, "Q4_K"),),
        "ffn_down": ((_first_of(8), "Q4_K"),),
    },
    "Q3_K_S": {
        "attn_output": ((_of_8, "Q5_K"),),
    },
    "Q3_K_M": {
        "attn_v": ((_first(2), "Q5_K"), (_everywhere, "Q4_K")),
        "attn_output": ((_of_8, "Q5_K"), (_everywhere, "Q4_K")),
        "ffn_down": ((_first_of(16), "Q5_K"), (_everywhere, "Q4_K")),
    },
    "Q3_K_L": {
        "attn_v": ((_everywhere, "Q5_K"),),
        "attn_output": ((_not_of_8, "Q5_K"),),
        "ffn_down": ((_everywhere, "Q5_K"),),
    },
    "Q4_0": {
        "ffn_down": ((_weighted_eighth, "Q4_1"),),
    },
    "Q5_0": {
        "ffn_down": ((_weighted_eighth, "Q5_1"),),
    },
    "Q4_K_S": {
        "attn_v": ((_first(4), "Q5_K"),),
        "attn_output": ((_of_8, "Q5_K"),),
        "ffn_down": ((_first_of(8), "Q5_K"),),
    },
    "Q4_K_M": {
        "attn_v": ((_outer_and_thirds, "Q6_K"),),
        "attn_output": ((_of_8, "Q5_K"),),
        "ffn_down": ((_outer_and_thirds, "Q6_K"),),
    },
    "Q5_K_M": {
        "attn_v": ((_outer_and_thirds, "Q6_K"),),
        "ffn_down": ((_outer_and_thirds, "Q6_K"),),
    },
    "IQ4_NL": _IQ4,
    "IQ4_XS": _IQ4,
}
