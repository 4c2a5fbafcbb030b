"""The instruction sets that kernels and models are tested on."""

from __future__ import annotations

from functools import cache

from linnet.kernels.compiler.host import available_isas
from linnet.kernels.isa import ISA


@cache
def isas_to_test() -> tuple[ISA, ...]:
    """Those of this CPU, fastest first, whose results are alike: not those with matrix registers,
    in which many rows multiply in bf16; and AVX-VNNI where there is the same of 512 bits."""
    names = {isa.name for isa in available_isas()}
    same = {"avxvnni"} if "avx512vnni" in names else set()
    return tuple(i for i in available_isas() if i.tiles is None and i.name not in same)
