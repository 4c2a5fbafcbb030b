"""Weight types: the layout of their blocks and the numbers in them, next to the gguf package's."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from support.kernel_harness import QUANT_TYPES, TYPES, Array, by_name, random_weights, run_traced

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import Kernel, Pointer
from linnet.kernels.quants import WEIGHT_TYPES, QuantType, WeightType

# Halves that a scale may be: zeros, subnormals at both ends, 1, the largest, infinity, NaN.
ODD_HALVES = np.uint16(
    [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]
)

each_type = pytest.mark.parametrize("type", TYPES, ids=by_name)
each_quant_type = pytest.mark.parametrize("type", QUANT_TYPES, ids=by_name)


def same_bits(actual: Array, expected: Array) -> bool:
    """Every bit the same, but for how a NaN is written."""
    same = actual.view(np.uint32) == expected.view(np.uint32)
    return bool((same | (np.isnan(actual) & np.isnan(expected))).all())


def dequantized_by_gguf(type: WeightType, packed: Array) -> Array:
    return gguf.quants.dequantize(packed, gguf.GGMLQuantizationType(type.id))


# ---- layout --------------------------------------------------------------------------------------


def test_types_are_registered_under_their_own_names() -> None:
    assert [type.name for type in TYPES] == list(WEIGHT_TYPES)
    assert len({type.id for type in TYPES}) == len(TYPES)


@each_type
def test_layout_is_that_of_ggml(type: WeightType) -> None:
    ggml_type = gguf.GGMLQuantizationType(type.id)
    assert ggml_type.name == type.name
    assert gguf.GGML_QUANT_SIZES[ggml_type] == (type.block, type.bytes)


@each_type
def test_a_row_takes_whole_blocks(type: WeightType) -> None:
    assert type.row_bytes(3 * type.block) == 3 * type.bytes
    if type.block > 1:
        with pytest.raises(ValueError, match=f"{type.name}: .* multiple of {type.block}"):
            type.row_bytes(3 * type.block + 1)


@each_type
def test_blocks_that_are_not_finite_are_those_that_dequantize_to_such_weights(
    type: WeightType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any bytes, taken in batches of which the last is shorter."""
    monkeypatch.setattr("linnet.kernels.quants.base.BATCH", 100)
    packed = np.random.default_rng(3).integers(0, 256, (999, type.bytes), np.uint8)
    with np.errstate(all="ignore"):
        finite = np.isfinite(type.dequantize(packed)).all(axis=1)
    assert type.n_not_finite(packed) == np.count_nonzero(~finite)
    assert type.n_not_finite(packed[finite]) == 0
    assert finite.all() == (type.name == "NVFP4")


@each_quant_type
def test_no_lane_is_above_the_largest(best_library: Library, type: QuantType) -> None:
    """Dot products may rely on `largest`; and it is no larger than it need be."""
    n_weights, rng = max(type.block, 32), np.random.default_rng(1)
    packed = random_weights(type, 64, n_weights, rng)
    lanes = np.zeros((64, n_weights), np.uint8)

    def unpack(k: Kernel, packed_at: Pointer, lanes_at: Pointer) -> None:
        for row in k.range(len(packed)):
            chunk = type.unpack_chunk(k, packed_at.at(row * packed.shape[1]), n_weights)
            for i, part in enumerate(type.in_column_order(k, chunk)):
                lanes_at.store(part, row * n_weights + 32 * i)

    run_traced(best_library, unpack, packed, lanes)
    assert lanes.max() == type.largest
    assert lanes.min() == 0


# ---- numbers -------------------------------------------------------------------------------------


@each_type
@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
def test_dequantize_is_bit_exact_on_any_bytes(type: WeightType) -> None:
    rng = np.random.default_rng(2)
    packed = rng.integers(0, 256, (7, 64 * type.bytes), dtype=np.uint8)
    assert same_bits(type.dequantize(packed), dequantized_by_gguf(type, packed))


@each_quant_type
@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
def test_dequantize_is_bit_exact_under_odd_scales(type: QuantType) -> None:
    packed = random_weights(type, 12 * 12, type.block, np.random.default_rng(3))
    blocks = packed.view(type.dtype)[:, 0]
    halves = [field for field, (dtype, _) in type.fields.items() if dtype == "<f2"]
    pairs = np.meshgrid(ODD_HALVES, ODD_HALVES)
    for field, bits in zip(halves, pairs, strict=False):
        blocks[field] = bits.reshape(-1).view(np.float16)
    assert same_bits(type.dequantize(packed), dequantized_by_gguf(type, packed))


@each_type
def test_dequantize_takes_rows_of_any_rank_and_read_only(type: WeightType) -> None:
    packed = random_weights(type, 6, 2 * type.block, np.random.default_rng(4))
    packed.flags.writeable = False
    expected = type.dequantize(packed)
    assert expected.shape == (6, 2 * type.block)
    assert expected.dtype == np.float32
    stacked = type.dequantize(packed.reshape(2, 3, -1))
    assert np.array_equal(stacked.reshape(expected.shape), expected)
    assert np.array_equal(type.dequantize(packed[4]), expected[4])
