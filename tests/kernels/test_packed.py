"""A packed matrix to multiply by, next to numpy in float64."""

from __future__ import annotations

import gc
import tracemalloc
from functools import partial
from typing import Any

import numpy as np
import pytest
from support.kernel_harness import (
    QUANT_TYPES,
    TYPES,
    Array,
    by_name,
    nmse,
    random_weights,
    unwritten,
)

import linnet
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.base import MOST_FEW_ROWS
from linnet.kernels.products.activations import Quantize, packed_bytes
from linnet.kernels.quants import WEIGHT_TYPES, WeightType
from linnet.kernels.runtime.packed import PackedMatrix

EXACT = 1e-10  # NMSE of a product from what was multiplied
Q4_K = WEIGHT_TYPES["Q4_K"]
N_COLUMNS, N_OUT = 512, 37


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def matrix_of(type: WeightType, library: Library, **options: Any) -> PackedMatrix:
    packed = random_weights(type, N_OUT, N_COLUMNS, np.random.default_rng(1))
    return PackedMatrix(type, packed, library=library, **options)


def truth(x: Array, matrix: PackedMatrix) -> Array:
    weights = matrix.type.dequantize(matrix.packed).astype(np.float64)
    product: Array = x.astype(np.float64) @ weights.T
    return product


def as_quantized(x: Array) -> Array:
    """The activations that the int8 products are exact for."""
    packed = np.zeros((len(x), packed_bytes(x.shape[1])), np.uint8)
    Quantize().reference(x=x, out=packed, width=x.shape[1])
    return Quantize().values(packed, x.shape[1])


@pytest.fixture
def matrix(best_library: Library) -> PackedMatrix:
    return matrix_of(Q4_K, best_library)


@pytest.mark.parametrize("type", TYPES, ids=by_name)
@pytest.mark.parametrize("n_rows", [1, MOST_FEW_ROWS, MOST_FEW_ROWS + 1, 70])
def test_products_equal_those_in_float64(
    type: WeightType, n_rows: int, best_library: Library
) -> None:
    matrix, x = matrix_of(type, best_library), normal(n_rows, N_COLUMNS)
    multiplied = as_quantized(x) if type in QUANT_TYPES else x
    out = matrix.matmul(x)
    assert out.shape == (n_rows, N_OUT)
    assert nmse(out, truth(multiplied, matrix)) < EXACT


def test_a_type_may_be_given_by_its_name(matrix: PackedMatrix) -> None:
    x = normal(3, N_COLUMNS)
    for name in ("Q4_K", "q4_k"):
        named = linnet.PackedMatrix(name, matrix.packed, library=matrix.library)
        assert named.type is Q4_K
        assert np.array_equal(named.matmul(x), matrix.matmul(x))
        assert repr(named) == f"PackedMatrix(Q4_K, {N_OUT} x {N_COLUMNS})"
    with pytest.raises(ValueError, match="type 'Q4_X' is unknown; known: F32, "):
        linnet.PackedMatrix("Q4_X", matrix.packed)
    with pytest.raises(ValueError, match="activations is 'f16'; it must be 'int8' or 'f32'"):
        linnet.PackedMatrix(Q4_K, matrix.packed, activations="f16")


@pytest.mark.parametrize("n_rows", [1, 70])
def test_exact_products_take_activations_as_they_are(n_rows: int, best_library: Library) -> None:
    matrix, x = matrix_of(Q4_K, best_library, activations="f32"), normal(n_rows, N_COLUMNS)
    assert nmse(matrix.matmul(x), truth(x, matrix)) < EXACT


def test_numbers_of_rows_may_come_in_any_order(matrix: PackedMatrix) -> None:
    """One program serves many numbers of rows; none may be left over from the last."""
    for seed, n_rows in enumerate((70, 9, 1, 0, 100, 2, 1)):
        x = normal(n_rows, N_COLUMNS, seed=seed)
        out = unwritten(n_rows + 1, N_OUT)
        assert np.array_equal(matrix.matmul(x, out[:n_rows]), out[:n_rows])
        assert n_rows == 0 or nmse(out[:n_rows], truth(as_quantized(x), matrix)) < EXACT
        assert np.isnan(out[n_rows:]).all()


def test_a_prepared_product_computes_from_what_its_arrays_hold(matrix: PackedMatrix) -> None:
    x, out = normal(3, N_COLUMNS), unwritten(3, N_OUT)
    product = matrix.prepare(x, out)
    other = matrix.prepare(normal(3, N_COLUMNS, seed=9), unwritten(3, N_OUT))
    for seed in (1, 2):
        x[...] = normal(3, N_COLUMNS, seed=seed)
        other()
        product()
        assert np.array_equal(out, matrix.matmul(x))


def test_a_prepared_product_keeps_what_it_needs(best_library: Library) -> None:
    out = unwritten(2, N_OUT)
    product = matrix_of(Q4_K, best_library).prepare(normal(2, N_COLUMNS), out)
    gc.collect()
    filler = [normal(2, N_COLUMNS, seed=seed) for seed in range(20)]
    product()
    assert np.array_equal(out, matrix_of(Q4_K, best_library).matmul(normal(2, N_COLUMNS)))
    assert filler


def test_a_call_allocates_no_arrays(matrix: PackedMatrix) -> None:
    x, out = normal(128, N_COLUMNS), unwritten(128, N_OUT)
    calls = matrix.prepare(x, out), partial(matrix.matmul, x, out)
    for call in calls:
        call()
        tracemalloc.start()
        call()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2000  # bytes: Python's own small objects


def test_it_says_its_sizes(matrix: PackedMatrix) -> None:
    assert (matrix.n_out, matrix.n_columns) == (N_OUT, N_COLUMNS)


@pytest.mark.parametrize(
    ("packed", "error", "message"),
    [
        (np.zeros((4, 144), np.int8), TypeError, "packed is int8"),
        (b"\0" * 144, TypeError, "packed is bytes"),
        (np.zeros(144, np.uint8), ValueError, "two-dimensional"),
        (np.zeros((8, 144), np.uint8)[::2], ValueError, "contiguous"),
        (np.zeros((4, 145), np.uint8), ValueError, "144 bytes each"),
        (np.zeros((4, 0), np.uint8), ValueError, "at least one row"),
        (np.zeros((0, 144), np.uint8), ValueError, "at least one row"),
    ],
)
def test_packed_bytes_are_checked(packed: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PackedMatrix(Q4_K, packed)


@pytest.mark.parametrize(
    ("x", "out", "error", "message"),
    [
        (np.zeros((2, N_COLUMNS)), None, TypeError, "x is float64"),
        ([[0.0]], None, TypeError, "x is list"),
        (normal(2, N_COLUMNS - 32), None, ValueError, f"must have {N_COLUMNS} columns"),
        (normal(N_COLUMNS), None, ValueError, "two-dimensional"),
        (normal(4, N_COLUMNS)[::2], None, ValueError, "contiguous"),
        (normal(2, N_COLUMNS), normal(3, N_OUT), ValueError, r"out is \(3, 37\)"),
        (normal(2, N_COLUMNS), normal(2, N_OUT + 1), ValueError, r"out is \(2, 38\)"),
        (normal(2, N_COLUMNS), np.zeros((2, N_OUT)), TypeError, "out is float64"),
        (normal(2, N_COLUMNS), normal(N_OUT, 2).T, ValueError, "out must be .* contiguous"),
    ],
)
def test_arrays_are_checked(
    matrix: PackedMatrix, x: Any, out: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        matrix.matmul(x, out)


def test_results_go_nowhere_they_may_not(matrix: PackedMatrix) -> None:
    memory = np.zeros(3 * N_COLUMNS, np.float32)
    x = memory[: 2 * N_COLUMNS].reshape(2, N_COLUMNS)
    overlapping = memory[2 * N_COLUMNS - 1 :][: 2 * N_OUT].reshape(2, N_OUT)
    with pytest.raises(ValueError, match="overlap"):
        matrix.matmul(x, overlapping)
    read_only = np.zeros((2, N_OUT), np.float32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        matrix.matmul(x, read_only)
    with pytest.raises(ValueError, match="no rows"):
        matrix.prepare(x[:0], unwritten(0, N_OUT))
