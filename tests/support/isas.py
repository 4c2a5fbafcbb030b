"""The instruction sets that kernels and models are tested on."""

from __future__ import annotations

import os
from functools import cache

from linnet.kernels.compiler.host import available_isas
from linnet.kernels.ir import Value, i32
from linnet.kernels.isa import ISA
from linnet.kernels.isa.generic import Generic
from linnet.kernels.isa.tuning import Tuning


class ByColumns(Generic):
    """Plain IR, with weights as NEON takes them: by columns, with signs, and shifted as bytes."""

    name = "by columns"
    defaults = Tuning(prefetch_bytes=0)  # tells its kernels from the other's, as the name does not
    interleaves = False
    signed_weights = shifts_bytes = True

    def dot(self, accumulator: Value, weights: Value, activations: Value, largest: int) -> Value:
        return super().dot(
            accumulator, weights.bits(activations.type) if largest < 128 else weights,
            activations, largest,
        )  # fmt: skip


class BySquares(ByColumns):
    """And multiplies two rows by two tokens."""

    name = "by squares"
    defaults = Tuning(prefetch_bytes=0, tile=(4, 2))
    squares = True

    def square_dot(
        self, accumulator: Value, weights: Value, activations: Value, largest: int
    ) -> Value:
        k, signed = weights.k, weights.bits(activations.type) if largest < 128 else weights
        rows, tokens = ([v[:8].to(i32), v[8:].to(i32)] for v in (signed, activations))
        return accumulator + k.vector([(row * token).sum() for row in rows for token in tokens])


BY_COLUMNS, BY_SQUARES = ByColumns(), BySquares()


@cache
def isas_to_test() -> tuple[ISA, ...]:
    """Those of this CPU, fastest first, whose results are alike: not those with matrix registers,
    in which many rows multiply in bf16; and AVX-VNNI where there is the same of 512 bits.

    LINNET_TEST_ISAS, names with commas between, says which alone.
    """
    wanted = os.environ.get("LINNET_TEST_ISAS")
    if wanted:
        return tuple(isa for isa in available_isas() if isa.name in wanted.split(","))
    names = {isa.name for isa in available_isas()}
    same = {"avxvnni"} if "avx512vnni" in names else set()
    return tuple(i for i in available_isas() if i.tiles is None and i.name not in same)
