"""Weight types: the layout of their blocks and the numbers in them, next to the gguf package's."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from support.kernel_harness import (
    QUANT_TYPES,
    TYPES,
    Array,
    by_name,
    random_weights,
    run_traced,
    unaligned,
)
from support.made_types import MADE_TYPES

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import Kernel, Pointer
from linnet.kernels.quants import WEIGHT_TYPES, QuantType, WeightType
from linnet.kernels.quants.blocks import Blocks

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


@pytest.mark.parametrize("type", [type for type in QUANT_TYPES if type.folded], ids=by_name)
def test_lanes_times_multipliers_fit_a_byte(best_library: Library, type: QuantType) -> None:
    """For every multiplier there is, which times the unit is the scale; `folded` is no wider."""
    n_groups, (largest, zero) = 256 // type.group, type.folded or (0, 0)
    packed = random_weights(type, 256, 256, np.random.default_rng(1))
    multipliers = np.zeros((256, n_groups), np.int16)
    scales, units = np.zeros((256, n_groups), np.float32), np.zeros((256, 1), np.float32)

    def unpack(k: Kernel, packed_at: Pointer, *pointers: Pointer) -> None:
        for row in k.range(len(packed)):
            chunk = type.unpack_chunk(k, packed_at.at(row * packed.shape[1]), 256)
            values = chunk.multipliers, chunk.scales, chunk.unit
            for value, target in zip(values, pointers, strict=True):
                assert value is not None
                target.store(value, row * value.type.bytes)

    run_traced(best_library, unpack, packed, multipliers, scales, units)
    assert np.array_equal(scales, multipliers * units)
    lanes = np.arange(type.largest + 1)[:, None] - type.zero
    products = lanes * np.unique(multipliers) + zero
    assert (products.min(), products.max()) == (0, largest)


# ---- the order of products -----------------------------------------------------------------------


def lanes_and_factors(
    library: Library, type: QuantType, packed: Array
) -> tuple[Array, Array, Array]:
    """What `runs` and `factors` give of 256 weights of some rows, by row, group of 32 and half:
    lanes u8 (n, 8, 2, 16), scales and offsets (n, 8, 2)."""
    n, row_bytes = packed.shape
    runs, folds = np.zeros((n, 4, 8, 8), np.uint8), np.zeros((2, 2, 16), np.float32)

    def unpack(k: Kernel, packed_at: Pointer, runs_at: Pointer, folds_at: Pointer) -> None:
        rows = [Blocks(k, packed_at.at(i * row_bytes), type, 256 // type.block) for i in range(n)]
        for i, row in enumerate(rows):
            for run, lanes in enumerate(type.runs(row)):
                runs_at.store(lanes, (4 * i + run) * 64)
        for fold, factors in enumerate(type.factors(rows)):
            for i, numbers in enumerate(factors):
                if numbers is not None:
                    folds_at.store(numbers, (2 * i + fold) * 64)

    run_traced(library, unpack, packed, runs, folds)
    lanes = runs.swapaxes(1, 2).reshape(n, 8, 2, 16)
    if type.group == 32:  # lanes of a fold: pairs of groups, row, group of the pair
        by_row = (
            folds[:, 0].reshape(2, 4, 2, 2).swapaxes(1, 2).reshape(2, 2, 8, 1).repeat(2, axis=3)
        )
    elif library.isa.interleaves:  # pairs of groups, half, group of the pair
        by_row = folds.reshape(2, 2, 4, 2, 2).swapaxes(3, 4).reshape(2, 2, 8, 2)
    else:
        by_row = folds.reshape(2, 2, 8, 2)
    return lanes, by_row[0, :n], by_row[1, :n]


@pytest.mark.parametrize("type", [*QUANT_TYPES, *MADE_TYPES], ids=by_name)
def test_weights_in_the_order_of_products_are_those_that_dequantize_gives(
    library: Library, type: QuantType
) -> None:
    """To the last bit, wherever rows lie: whatever lanes hold, scales make up for it. None is above
    the largest where that would cost dot products."""
    packed = random_weights(type, 2, 256, np.random.default_rng(5))
    for rows in (packed, packed[:1])[: 1 if type.group == 32 else 2]:
        lanes, scales, offsets = lanes_and_factors(library, type, unaligned(rows))
        weights = (lanes.astype(np.float32) - type.zero) * scales[..., None] + offsets[..., None]
        assert np.array_equal(weights.reshape(len(rows), 256), type.dequantize(rows))
        assert lanes.max() <= (255 if library.isa.dots_bytes else type.largest)


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
