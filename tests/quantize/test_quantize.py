"""Quantising rows of weights: how close, for any weights, and the same every time."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from linnet.engine.quantize.recipes import quantizable
from linnet.kernels.quants import WEIGHT_TYPES, QuantType, WeightType

TYPES = [WEIGHT_TYPES[name] for name in quantizable()]
QUANTS = [type for type in TYPES if isinstance(type, QuantType)]
HALF_TINY = 2.0**-24  # the smallest F16 number above zero

# The relative error of llama.cpp's ggml_quantize_chunk for Gaussian weights. We may not be worse.
LLAMA_CPP = {
    "F32": 0,
    "F16": 0.000208,
    "BF16": 0.001658,
    "Q8_0": 0.00534,
    "Q4_0": 0.0859,
    "Q4_1": 0.0782,
    "Q5_0": 0.0427,
    "Q5_1": 0.0378,
    "Q2_K": 0.2974,
    "Q3_K": 0.1506,
    "Q4_K": 0.0713,
    "Q5_K": 0.0361,
    "Q6_K": 0.01775,
    "IQ4_NL": 0.0759,
    "IQ4_XS": 0.0765,
    "MXFP4": 0.1143,
}

# The same of weights that count by `importance`, of which it was told.
LLAMA_CPP_WEIGHTED = {
    "Q8_0": 0.00537,
    "Q4_0": 0.0789,
    "Q4_1": 0.0659,
    "Q5_0": 0.0391,
    "Q5_1": 0.0319,
    "Q2_K": 0.2452,
    "Q3_K": 0.1373,
    "Q4_K": 0.0668,
    "Q5_K": 0.0337,
    "Q6_K": 0.01658,
    "IQ4_NL": 0.0720,
    "IQ4_XS": 0.0727,
    "MXFP4": 0.1154,
}
UNEVEN = ("IQ4_NL", "IQ4_XS", "MXFP4")  # levels are far apart where they are large
STEPS = {"IQ4_NL": 0.1, "IQ4_XS": 0.1, "MXFP4": 0.2}  # the largest error of a level, of the range

Weights = NDArray[np.float32]


def round_trip(type: WeightType, weights: NDArray[np.floating]) -> NDArray[np.float64]:
    rows = np.ascontiguousarray(weights, np.float32)
    packed = type.quantize(rows)
    assert packed.shape == (len(rows), type.row_bytes(rows.shape[1]))
    assert packed.dtype == np.uint8
    return type.dequantize(packed).astype(np.float64)


def relative_error(weights: NDArray[np.floating], found: NDArray[np.float64]) -> float:
    """Root mean square, relative to the weights'."""
    exact = weights.astype(np.float64)
    return float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))


def gaussian(n_rows: int, n_columns: int, *, seed: int = 0) -> Weights:
    return np.random.default_rng(seed).standard_normal((n_rows, n_columns), np.float32) / 50


# ---- how close -----------------------------------------------------------------------------------


@pytest.mark.parametrize("type", TYPES, ids=repr)
def test_gaussian_weights_are_no_worse_than_llama_cpp(type: WeightType) -> None:
    weights = gaussian(256, 1024)
    assert relative_error(weights, round_trip(type, weights)) <= LLAMA_CPP[type.name]


def importance() -> Weights:
    return np.random.default_rng(3).exponential(1, 256).astype(np.float32)


@pytest.mark.parametrize("type", QUANTS, ids=repr)
def test_weights_that_count_are_nearer_and_no_worse_than_llama_cpps(type: QuantType) -> None:
    weights = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)
    scale = np.sqrt(importance())
    plain = relative_error(weights * scale, round_trip(type, weights) * scale)
    packed = type.quantize(weights, importance())
    found = relative_error(weights * scale, type.dequantize(packed) * scale)
    assert found <= LLAMA_CPP_WEIGHTED[type.name]
    assert found < plain
    by_row = type.quantize(weights, np.tile(importance(), (256, 1)))
    np.testing.assert_array_equal(packed, by_row)


@pytest.mark.parametrize("type", TYPES, ids=repr)
def test_weights_that_count_all_the_same_are_as_those_without(type: WeightType) -> None:
    weights = gaussian(16, 512)
    np.testing.assert_array_equal(
        type.quantize(weights, np.ones(512, np.float32)), type.quantize(weights)
    )


def test_what_mxfp4_holds_it_holds_again() -> None:
    """Models that come in MXFP4 lose nothing by way of F32."""
    type, rng = WEIGHT_TYPES["MXFP4"], np.random.default_rng(6)
    packed = rng.integers(0, 256, (500, type.bytes), np.uint8)
    packed.view(type.dtype)["e"] = rng.integers(0, 250, (500, 1))
    weights = type.dequantize(packed)
    np.testing.assert_array_equal(type.dequantize(type.quantize(weights)), weights)


@pytest.mark.parametrize("name", ["BF16", "F16"])
def test_float_types_round_as_the_gguf_package_does(name: str) -> None:
    weights = gaussian(16, 256) * np.float32(10) ** np.arange(-11, 5, dtype=np.float32)[:, None]
    oracle = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(WEIGHT_TYPES[name].quantize(weights), oracle.view(np.uint8))


def heavy_tails() -> Weights:
    return np.random.default_rng(1).standard_t(3, (64, 256)).astype(np.float32)


def all_above_zero() -> Weights:
    return np.abs(gaussian(64, 256))


def outliers() -> Weights:
    weights = gaussian(64, 256)
    weights[:, ::37] *= 100
    return weights


@pytest.mark.parametrize("weights", [heavy_tails, all_above_zero, outliers])
@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_no_worse_than_the_gguf_package(name: str, weights) -> None:
    kind = gguf.GGMLQuantizationType[name]
    oracle = gguf.quants.dequantize(gguf.quants.quantize(weights(), kind), kind)
    found = round_trip(WEIGHT_TYPES[name], weights())
    assert relative_error(weights(), found) <= relative_error(weights(), oracle)


@pytest.mark.parametrize("type", QUANTS, ids=repr)
def test_weights_on_few_levels_are_met(type: QuantType) -> None:
    few = np.random.default_rng(2).integers(-1, 2, (64, 256)) * 0.03
    limit = 0.05 if type.name in UNEVEN else 0.006 if type.name == "Q3_K" else 0.003
    assert relative_error(few, round_trip(type, few)) < limit


# ---- any weights ---------------------------------------------------------------------------------


def check_bound(type: QuantType, weights: Weights) -> None:
    """No block's error is above the step of levels spread over all of its range."""
    error = round_trip(type, weights) - weights
    assert np.isfinite(error).all()
    blocks = error.reshape(-1, type.block)
    largest = np.abs(weights.reshape(-1, type.block)).max(axis=1)
    error_of_block = np.sqrt((blocks**2).mean(axis=1))
    step = STEPS.get(type.name, 1 / type.largest)
    assert (error_of_block <= largest * step + type.largest * HALF_TINY).all()


@pytest.mark.parametrize("type", QUANTS, ids=repr)
@pytest.mark.parametrize("size", [0, 1e-42, 1e-20, 1e-9, 1e-7, 1e-6, 1e-5, 1, 1e4])
def test_any_size_of_weights(type: QuantType, size: float) -> None:
    check_bound(type, gaussian(8, 256) * np.float32(size))


@pytest.mark.parametrize("type", QUANTS, ids=repr)
@pytest.mark.parametrize("value", [0.37, -0.37, 65504, -65504, 1e-6, 1e-30])
def test_a_constant_row(type: QuantType, value: float) -> None:
    row = np.full((1, 256), value, np.float32)
    rtol = 0.2 if type.name == "MXFP4" else 2e-3
    atol = (8 if type.name in UNEVEN else 4) * HALF_TINY
    np.testing.assert_allclose(round_trip(type, row), row, rtol=rtol, atol=atol)


@pytest.mark.parametrize("type", TYPES, ids=repr)
def test_zeros_stay_zeros(type: WeightType) -> None:
    zeros = np.zeros((2, 512), np.float32)
    zeros[1] = -0.0
    assert not round_trip(type, zeros).any()


@pytest.mark.parametrize("type", QUANTS, ids=repr)
def test_a_group_of_zeros_stays_zero_among_others(type: QuantType) -> None:
    weights = gaussian(16, 256)
    weights[:, 64:96] = 0
    assert not round_trip(type, weights)[:, 64:96].any()


@pytest.mark.parametrize("type", QUANTS, ids=repr)
def test_one_weight_of_a_block(type: QuantType) -> None:
    one = np.eye(256, dtype=np.float32)
    atol = 0.01 if type.name.startswith("IQ4") else 1e-3  # no level is 0
    np.testing.assert_allclose(
        round_trip(type, np.concatenate([one, -one])), [*one, *-one], atol=atol
    )


@settings(max_examples=50, deadline=None)
@given(
    type=st.sampled_from(QUANTS),
    exponents=st.lists(st.floats(-9, 4.5), min_size=16, max_size=16),
    shift=st.sampled_from([0, -1, 1, 30]),
    seed=st.integers(0, 2**32 - 1),
)
def test_groups_of_any_sizes(
    type: QuantType, exponents: list[float], shift: int, seed: int
) -> None:
    sizes = 10 ** np.repeat(np.array(exponents, np.float32), 16)
    weights = np.random.default_rng(seed).uniform(-1, 1, (4, 256)) + shift
    check_bound(type, np.clip(weights * sizes, -65504, 65504).astype(np.float32))


# ---- what is refused, and what does not matter ---------------------------------------------------


@pytest.mark.parametrize("type", TYPES, ids=repr)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(type: WeightType, bad: float) -> None:
    weights = gaussian(4, 256)
    weights[2, 100] = bad
    with pytest.raises(ValueError, match=f"{type.name}: the weights hold NaN or infinity"):
        type.quantize(weights)


@pytest.mark.parametrize("type", TYPES, ids=repr)
def test_weights_beyond_what_a_type_holds_are_refused(type: WeightType) -> None:
    """What it holds at most is as large when it comes back, but for a step."""
    weights = gaussian(4, 256)
    weights[2, 100] = -type.limit
    assert round_trip(type, weights)[2, 100] == pytest.approx(-type.limit, rel=0.01)
    weights[2, 100] = -min(type.limit * 2, 3.4e38)
    if type.name not in ("F32", "BF16"):  # these hold nearly all there is
        with pytest.raises(ValueError, match=rf"{type.name}: a weight is .* in size; at most"):
            type.quantize(weights)


@pytest.mark.parametrize("type", QUANTS, ids=repr)
def test_a_row_of_part_of_a_block_is_refused(type: QuantType) -> None:
    with pytest.raises(ValueError, match="48 columns are not a multiple of"):
        type.quantize(gaussian(4, 48))


@pytest.mark.parametrize("type", TYPES, ids=repr)
def test_rows_do_not_depend_on_each_other(type: WeightType) -> None:
    """Nor on the batch they are in: the rows here are more than one."""
    weights = gaussian(600, 512)
    together = type.quantize(weights)
    apart = [type.quantize(weights[start : start + 50]) for start in range(0, 600, 50)]
    np.testing.assert_array_equal(together, np.concatenate(apart))


@pytest.mark.parametrize("type", TYPES, ids=repr)
def test_no_rows_at_all(type: WeightType) -> None:
    assert type.quantize(np.empty((0, 256), np.float32)).shape == (0, type.row_bytes(256))


@pytest.mark.parametrize("type", TYPES, ids=repr)
def test_weights_may_lie_anywhere(type: WeightType) -> None:
    weights = gaussian(256, 512)
    np.testing.assert_array_equal(
        type.quantize(weights.T[:, ::-1]), type.quantize(np.ascontiguousarray(weights.T[:, ::-1]))
    )
