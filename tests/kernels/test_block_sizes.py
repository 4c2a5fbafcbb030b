"""Quant types of any block: right in every kernel, or refused when the class is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.isas import BY_COLUMNS
from support.kernel_harness import Array, nmse, random_weights, run, unwritten, widths
from support.made_types import MADE_TYPES, made

from linnet.kernels.compiler.jit import Library
from linnet.kernels.isa import ISA
from linnet.kernels.isa.generic import Generic
from linnet.kernels.ops.base import Op
from linnet.kernels.ops.routing import GroupByExpert
from linnet.kernels.ops.rows import PickRows
from linnet.kernels.products.activations import Quantize, packed_bytes
from linnet.kernels.products.base import MatrixProduct
from linnet.kernels.products.experts import ExpertLinear
from linnet.kernels.products.matmul import FloatMatMul, MatMul
from linnet.kernels.products.matvec import FloatMatVec, MatVec
from linnet.kernels.quants import QuantType
from linnet.kernels.quants.base import BLOCKS

EXACT = 1e-10  # NMSE of products from what they are given
N_OUT = 33
REFUSED = sorted({1, 16, 48, 512, *range(32, 257, 32)} - {*BLOCKS})


def quantized(x: Array) -> Array:
    out = np.zeros((len(x), packed_bytes(x.shape[1])), np.uint8)
    Quantize().reference(x=x, out=out, width=x.shape[1])
    return out


def check(library: Library, op: MatrixProduct, n_tokens: int, n_columns: int) -> None:
    """The op's product, which is that of its reference and writes every number."""
    rng = np.random.default_rng([n_tokens, n_columns])
    weights = random_weights(op.type, N_OUT, n_columns, rng)
    x = rng.standard_normal((n_tokens, n_columns)).astype(np.float32)
    x = x if op.packing is None else quantized(x)
    arguments: Any = {"weights": weights, "x": x, "n_columns": n_columns, "n_out": N_OUT}
    out, expected = unwritten(n_tokens, N_OUT), np.zeros((n_tokens, N_OUT), np.float32)
    run(library, op, n_tokens, **arguments, out=out)
    op.reference(**arguments, out=expected)
    assert nmse(out, expected) <= EXACT, (op.symbol, n_tokens, n_columns)


@pytest.mark.parametrize("block", REFUSED)
def test_other_blocks_are_refused(block: int) -> None:
    with pytest.raises(ValueError, match=f"block is {block}; it must be one of 32, 64, 128, 256"):
        made(block, 16, shifted=False)


@pytest.mark.parametrize("group", [8, 64])
def test_other_groups_are_refused(group: int) -> None:
    with pytest.raises(ValueError, match=f"group is {group}; it must be one of 16, 32"):
        made(64, group, shifted=False)


@pytest.mark.parametrize("type", MADE_TYPES, ids=str)
def test_products_with_packed_activations_are_exact(library: Library, type: QuantType) -> None:
    for n_columns in widths(type):
        check(library, MatVec(type, 2), 2, n_columns)
        check(library, MatMul(type), 6, n_columns)


@pytest.mark.parametrize("type", MADE_TYPES, ids=str)
def test_products_by_columns_are_exact(
    library_for: Callable[[ISA], Library], type: QuantType
) -> None:
    for n_columns in widths(type):
        check(library_for(BY_COLUMNS), MatVec(type, 2), 2, n_columns)


@pytest.mark.parametrize("type", MADE_TYPES, ids=str)
def test_rows_and_products_with_floats_are_exact(best_library: Library, type: QuantType) -> None:
    for n_columns in widths(type):
        table = random_weights(type, 5, n_columns, np.random.default_rng(n_columns))
        rows, out = np.int32([4, 0, 4]), unwritten(3, n_columns)
        run(best_library, PickRows(type), 3, table=table, rows=rows, out=out, width=n_columns)
        assert out.tobytes() == type.dequantize(table[rows]).tobytes()
        check(best_library, FloatMatVec(type, 2), 2, n_columns)
        check(best_library, FloatMatMul(type), 6, n_columns)


@pytest.mark.parametrize("type", MADE_TYPES, ids=str)
def test_products_of_experts_are_exact(best_library: Library, type: QuantType) -> None:
    """One product at a time, and those of an expert together."""
    rng, n_columns, n_experts = np.random.default_rng(2), widths(type)[-1], 2
    weights = random_weights(type, n_experts * N_OUT, n_columns, rng).reshape(n_experts, N_OUT, -1)
    experts = rng.integers(0, n_experts, (9, 1), np.int32)
    order, starts = np.zeros_like(experts), np.zeros(n_experts + 1, np.int64)
    lists = {"order": order, "starts": starts, "n_experts": n_experts}
    GroupByExpert().reference(experts=experts, n_used=1, **lists)
    arguments: Any = {
        "weights": weights, "x": quantized(rng.standard_normal((9, n_columns)).astype(np.float32)),
        "n_columns": n_columns, "n_out": N_OUT, "experts": experts, "n_used": 1, "n_sharing": 1,
        "expert_bytes": weights.strides[0], **lists,
    }  # fmt: skip
    single = ExpertLinear(type, n_columns)
    expected = np.zeros((9, N_OUT), np.float32)
    single.reference(**arguments, out=expected)
    ops: list[Op] = [single, single.lowered(None, Generic())]
    for op in ops:
        out = unwritten(9, N_OUT)
        run(best_library, op, 9, **arguments, out=out)
        assert nmse(out, expected) <= EXACT, op.symbol
