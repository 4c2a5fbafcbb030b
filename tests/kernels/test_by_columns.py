"""Products in the manner of instruction sets with registers of 16 bytes, on any machine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.isas import BY_COLUMNS, BY_SQUARES, isas_to_test
from support.kernel_harness import QUANT_TYPES, by_name, evaluate
from support.random_calls import Caller
from support.random_cases import Case, close, numbers, weights
from support.random_products import multiply, quantized

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import Kernel, Value
from linnet.kernels.isa import ISA
from linnet.kernels.isa.generic import Generic
from linnet.kernels.ops.base import Op
from linnet.kernels.products.activations import Quantize
from linnet.kernels.products.experts import ExpertLinear
from linnet.kernels.products.matmul import MatMul
from linnet.kernels.products.matvec import MatVec
from linnet.kernels.quants import QuantType
from linnet.kernels.quants.base import LARGEST_SIGNED

PLAIN = Generic()
N_OUT = 37


@pytest.fixture(scope="module")
def caller() -> Caller:
    """Holds results against numpy's, and bits against those of plain IR, where they are alike."""
    return Caller([BY_COLUMNS, BY_SQUARES, PLAIN])


def case(op: Op, type: QuantType, n_tokens: int, seed: int) -> Case:
    """Two whole chunks of 256 columns, and something left behind them."""
    rng = np.random.default_rng(seed)
    n_columns = 512 + (3 * type.block if type.block < 256 else 0)
    w = weights(rng, type, N_OUT, n_columns)
    x = quantized(numbers(rng, n_tokens, n_columns))
    truth, within = multiply(Quantize().values(x, n_columns), w, packed=True)
    arguments = {"weights": w.packed, "x": x, "n_columns": n_columns, "n_out": N_OUT}
    if isinstance(op, ExpertLinear):
        one = np.zeros((n_tokens, 1), np.int32)
        arguments |= {
            "experts": one, "order": np.arange(n_tokens, dtype=np.int32), "n_experts": 1,
            "starts": np.int64([0, n_tokens]), "n_used": 1, "n_sharing": 1,
            "expert_bytes": w.packed.nbytes,
        }  # fmt: skip
        op = op.lowered(None, BY_COLUMNS)
    arguments["out"] = np.empty((n_tokens, N_OUT), np.float32)
    return Case(op, n_tokens, arguments, close(truth, within))


@pytest.mark.parametrize("type", QUANT_TYPES, ids=by_name)
def test_products_by_columns_are_those_of_numpy(caller: Caller, type: QuantType) -> None:
    """With one row; and in turn with some, with many, and with so few for an expert that products
    are transposed."""
    expert = ExpertLinear(type, 512 + (3 * type.block if type.block < 256 else 0))
    in_turn: list[tuple[Op, int]] = [(MatVec(type, 3), 3), (MatMul(type), 9), (expert, 2)]
    ops = [(MatVec(type, 1), 1), in_turn[QUANT_TYPES.index(type) % 3]]
    for number, (op, n_tokens) in enumerate(ops):
        for seed in range(3):
            with np.errstate(all="ignore"):
                made = case(op, type, n_tokens, seed)
            assert list(caller.call(made, seed, number)) == []


@pytest.mark.parametrize(
    "isa", [BY_COLUMNS, *(isa for isa in isas_to_test() if isa.signed_weights)], ids=by_name
)
@pytest.mark.parametrize("n_products", [1, 2, 3])
def test_signed_lanes_are_multiplied_exactly(
    library_for: Callable[[ISA], Library], isa: ISA, n_products: int
) -> None:
    def add(k: Kernel, start: Value, *vectors: Value) -> list[Value]:
        total = isa.dot_sum(start, LARGEST_SIGNED)
        for w, x in zip(vectors[:n_products], vectors[n_products:], strict=True):
            total.add(w, x)
        return [total.total()]

    shape, rng = (n_products, isa.bits // 8), np.random.default_rng(n_products)
    for lanes in np.full(shape, -128), np.full(shape, 127), rng.integers(-128, 128, shape):
        for x in np.full(shape, 127), np.full(shape, -127), rng.integers(-127, 128, shape):
            start = rng.integers(-(2**30), 2**30, shape[1] // 4).astype(np.int32)
            vectors = *lanes.astype(np.int8).view(np.uint8), *x.astype(np.int8)
            (result,) = evaluate(library_for(isa), add, start, *vectors)
            products = (lanes * x).reshape(n_products, -1, 4).sum(axis=(0, 2))
            assert result.tolist() == (start + products).tolist()
