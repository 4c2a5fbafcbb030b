"""The ggml types linnet computes with: to add one, a file here and its line in WEIGHT_TYPES."""

from __future__ import annotations

from linnet.kernels.quants.base import FloatType, QuantType, WeightType
from linnet.kernels.quants.floats import BF16, F16, F32
from linnet.kernels.quants.iq4_nl import IQ4_NL
from linnet.kernels.quants.iq4_xs import IQ4_XS
from linnet.kernels.quants.mxfp4 import MXFP4
from linnet.kernels.quants.nvfp4 import NVFP4
from linnet.kernels.quants.q2_k import Q2_K
from linnet.kernels.quants.q3_k import Q3_K
from linnet.kernels.quants.q4_0 import Q4_0, Q4_1
from linnet.kernels.quants.q4_k import Q4_K
from linnet.kernels.quants.q5_0 import Q5_0, Q5_1
from linnet.kernels.quants.q5_k import Q5_K
from linnet.kernels.quants.q6_k import Q6_K
from linnet.kernels.quants.q8_0 import Q8_0

__all__ = ["WEIGHT_TYPES", "FloatType", "QuantType", "WeightType", "weight_type"]

WEIGHT_TYPES: dict[str, WeightType] = {
    type.name: type
    for type in (
        F32(), F16(), BF16(),
        Q8_0(), Q4_0(), Q4_1(), Q5_0(), Q5_1(),
        Q2_K(), Q3_K(), Q4_K(), Q5_K(), Q6_K(),
        IQ4_NL(), IQ4_XS(), MXFP4(), NVFP4(),
    )
}  # fmt: skip


def weight_type(name: str) -> WeightType:
    """The type of that name, in small letters or large. Raises ValueError for one there is not."""
    type = WEIGHT_TYPES.get(name.upper())
    if type is None:
        raise ValueError(f"type {name!r} is unknown; known: {', '.join(WEIGHT_TYPES)}")
    return type
