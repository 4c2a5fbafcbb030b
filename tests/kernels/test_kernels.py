"""Kernels on every instruction set, next to their references in float64.

Matrices, activations and expected products are made once for all instruction sets; so are kernels,
of which the session's libraries hold one for each op.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import pytest
from support.isas import isas_to_test
from support.kernel_harness import (
    IN_TURN,
    QUANT_TYPES,
    TYPES,
    Array,
    by_name,
    few_row_ops,
    many_row_ops,
    map_vectors,
    nmse,
    random_weights,
    run,
    unaligned,
    unwritten,
    widths,
)
from support.random_cases import numbers
from support.random_products import OFF, squared_error

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir.functions import exp, log, softplus, tanh
from linnet.kernels.isa import ISA, ISAS
from linnet.kernels.ops.bandwidth import BLOCK, ReadBytes
from linnet.kernels.ops.base import Op
from linnet.kernels.ops.elementwise import (
    Add,
    AddRow,
    ClampedSwiGlu,
    Gelu,
    GeluMultiply,
    Multiply,
    Scale,
    ScaleByPosition,
    ScaleRows,
    Sigmoid,
    SigmoidMultiply,
    Silu,
    SiluMultiply,
    SoftCap,
)  # fmt: skip
from linnet.kernels.ops.norm import LayerNorm, RmsNorm
from linnet.kernels.ops.rope import Rope, rope_table
from linnet.kernels.ops.rows import JoinColumns, PickColumns, PickRows
from linnet.kernels.ops.softmax import BLOCK as SOFTMAX_BLOCK
from linnet.kernels.ops.softmax import MaskBlocks, SoftmaxBlocks
from linnet.kernels.ops.work import Work
from linnet.kernels.products.activations import STEPS, Quantize, packed_bytes
from linnet.kernels.products.linear import FloatLinear, Linear, Pack
from linnet.kernels.products.matmul import FloatMatMul, MatMul
from linnet.kernels.products.matvec import FloatMatVec, MatVec
from linnet.kernels.products.tilemul import RoundToBF16, TileMatMul
from linnet.kernels.quants import WEIGHT_TYPES, QuantType, WeightType
from linnet.kernels.quants.q4_k import Q4_K

EXACT = 1e-10  # NMSE of products from what they are given
QUANTIZED = 5e-5  # of int8 products from the product of what was quantised

each_type = pytest.mark.parametrize("type", TYPES, ids=by_name)
each_quant_type = pytest.mark.parametrize("type", QUANT_TYPES, ids=by_name)
types_in_turn = pytest.mark.parametrize(
    ("library", "type"), IN_TURN, ids=by_name, indirect=["library"]
)


def columns_for(type: WeightType) -> tuple[int, ...]:
    """Widths of matrices as models have them, and all others."""
    return (256, 2304, 11008, *widths(type))


# ---- products ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Product:
    """A packed matrix at an odd address, activations for it, and their product in float64."""

    type: WeightType
    weights: Array
    x: Array
    truth: Array

    @property
    def sizes(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "n_columns": self.x.shape[1],
            "n_out": self.weights.shape[0],
        }

    @property
    def quantized(self) -> Array:
        return quantized_product(self)[0]

    @property
    def quantized_truth(self) -> Array:
        return quantized_product(self)[1]

    def few_rows(self, library: Library, op: type[Op], tokens: slice = slice(None)) -> Array:
        """The product for some of the tokens by the kernel for so many rows."""
        x = np.ascontiguousarray((self.quantized if op is MatVec else self.x)[tokens])
        out = unwritten(len(x), len(self.weights))
        run(library, op(self.type, len(out)), x=x, **self.sizes, out=out)  # type: ignore[call-arg]
        return out

    def many_rows(self, library: Library, op: type[Op], tokens: slice = slice(None)) -> Array:
        """The product for some of the tokens by the kernel for any number of rows."""
        x = np.ascontiguousarray((self.quantized if op is MatMul else self.x)[tokens])
        out = unwritten(len(x), len(self.weights))
        run(library, op(self.type), len(out), x=x, **self.sizes, out=out)  # type: ignore[call-arg]
        return out


@cache
def product(type: WeightType, n_tokens: int, n_columns: int, n_out: int) -> Product:
    rng = np.random.default_rng([n_tokens, n_columns, n_out])
    weights = random_weights(type, n_out, n_columns, rng)
    x = rng.standard_normal((n_tokens, n_columns)).astype(np.float32)
    truth = x.astype(np.float64) @ type.dequantize(weights).astype(np.float64).T
    return Product(type, unaligned(weights), x, truth)


@cache
def quantized_product(p: Product) -> tuple[Array, Array]:
    """The activations quantised, and their product in float64."""
    x, out = quantized(p.x), np.zeros(p.truth.shape)
    MatVec(p.type, 1).reference(x=x, **p.sizes, out=out)  # type: ignore[arg-type]
    return x, out


def quantized(x: Array) -> Array:
    """What `Quantize` makes of activations, by its reference."""
    out = np.zeros((len(x), packed_bytes(x.shape[1])), np.uint8)
    Quantize().reference(x=x, out=out, width=x.shape[1])
    return out


def shapes(type: WeightType, token_counts: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(tokens, columns, rows): every width, with numbers of tokens and rows in turn."""
    columns = columns_for(type)
    # One row short of whole panels, whole panels, and one row more.
    row_counts = (33, 63, 1, 64, 5)
    return list(zip(cycle(token_counts), columns, cycle(row_counts), strict=False))


def some_rows(type: WeightType, isa: ISA) -> int:
    """A number of rows that a kernel is compiled for, in turn."""
    turn = TYPES.index(type) + isas_to_test().index(isa)
    return (2, 3, 7, 8)[turn % 4]


@types_in_turn
def test_float_products_with_few_rows_are_those_of_float64(
    library: Library, type: WeightType
) -> None:
    for shape in shapes(type, (1, some_rows(type, library.isa))):
        p = product(type, *shape)
        assert nmse(p.few_rows(library, FloatMatVec), p.truth) <= EXACT, shape


@types_in_turn
def test_float_products_with_many_rows_are_those_of_float64(
    library: Library, type: WeightType
) -> None:
    for shape in shapes(type, (1, 33, 2, 7, 8, 3)):
        p = product(type, *shape)
        assert nmse(p.many_rows(library, FloatMatMul), p.truth) <= EXACT, shape


@each_quant_type
def test_int8_products_with_few_rows_are_those_of_the_quantised_activations(
    library: Library, type: QuantType
) -> None:
    for shape in shapes(type, (1,)):
        p = product(type, *shape)
        out = p.few_rows(library, MatVec)
        assert nmse(out, p.quantized_truth) <= EXACT, shape


@each_quant_type
def test_int8_products_with_many_rows_are_those_of_the_quantised_activations(
    library: Library, type: QuantType
) -> None:
    for shape in shapes(type, (1, 33, 2, 7, 8, 3)):
        p = product(type, *shape)
        out = p.many_rows(library, MatMul)
        assert nmse(out, p.quantized_truth) <= EXACT, shape


@each_quant_type
def test_int8_products_are_close_to_the_products_of_what_was_quantised(
    best_library: Library, type: QuantType
) -> None:
    p = product(type, 33, 2304, 64)
    assert nmse(p.many_rows(best_library, MatMul), p.truth) <= QUANTIZED


@each_type
def test_instruction_sets_agree(library_for: Callable[[ISA], Library], type: WeightType) -> None:
    p = product(type, 1, 2304, 33)
    few, many = few_row_ops(type)[-1], many_row_ops(type)[-1]
    libraries = [library_for(isa) for isa, other in IN_TURN if other is type]
    results = [p.few_rows(library, few) for library in libraries]
    results += [p.many_rows(library, many) for library in libraries]
    for result in results[1:]:
        assert nmse(result, results[0]) <= 1e-11


# ---- products, bit by bit ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Q2_K", "Q4_K", "Q6_K", "Q5_1"])
def test_integers_are_summed_exactly_so_instruction_sets_give_the_same_bits(
    library_for: Callable[[ISA], Library], name: str
) -> None:
    """Wherever multiply-adds are fused: floats are added in the same order however wide vectors
    are."""
    type = WEIGHT_TYPES[name]
    p = product(type, 3, 512 + (type.block if type.block < 256 else 0), 33)
    few, many = defaultdict[bool, set[bytes]](set), defaultdict[bool, set[bytes]](set)
    for isa in isas_to_test():
        fused = isa.fused
        few[fused].add(p.few_rows(library_for(isa), MatVec).tobytes())
        many[fused].add(p.many_rows(library_for(isa), MatMul).tobytes())
    assert all(len(results) == 1 for results in (*few.values(), *many.values()))


@each_type
def test_code_for_this_cpu_gives_the_bits_of_code_for_what_the_instruction_set_needs(
    library_for: Callable[[ISA], Library], best_library: Library, type: WeightType
) -> None:
    few = few_row_ops(type)[-1]
    p = product(type, 1, widths(type)[-1], 33)
    plain = p.few_rows(library_for(unnamed_twin(best_library.isa)), few)
    assert plain.tobytes() == p.few_rows(best_library, few).tobytes()


@cache
def unnamed_twin(isa: ISA) -> ISA:
    """The same instruction set under another name, for which no CPU's own code is made."""
    kind = type(isa)
    return type("Twin", (kind,), {"name": f"{kind.name} twin"})()


@types_in_turn
def test_few_rows_are_each_computed_as_if_alone(library: Library, type: WeightType) -> None:
    """Whatever else is in the batch changes no bit."""
    n_tokens = some_rows(type, library.isa)
    for op in few_row_ops(type):
        for n_columns in columns_for(type)[1::2]:
            p = product(type, n_tokens, n_columns, 5)
            together = p.few_rows(library, op)
            alone = [p.few_rows(library, op, slice(t, t + 1)) for t in range(n_tokens)]
            assert together.tobytes() == np.concatenate(alone).tobytes()


def test_few_rows_are_each_computed_as_if_alone_in_every_number(best_library: Library) -> None:
    p = product(WEIGHT_TYPES["Q4_K"], 8, 2304, 5)
    together = p.few_rows(best_library, MatVec)
    for n in range(1, 8):
        assert p.few_rows(best_library, MatVec, slice(n)).tobytes() == together[:n].tobytes()


@types_in_turn
def test_many_rows_are_each_computed_as_if_alone(library: Library, type: WeightType) -> None:
    parts = [slice(1), slice(5, 7), slice(3), slice(9, 16), slice(25, 33), slice(32, 33)]
    for op in many_row_ops(type):
        for n_columns in columns_for(type)[1::2]:
            p = product(type, 33, n_columns, 5)
            together = p.many_rows(library, op)
            for part in parts:
                assert p.many_rows(library, op, part).tobytes() == together[part].tobytes()


@types_in_turn
def test_items_may_be_done_in_any_pieces_and_order(library: Library, type: WeightType) -> None:
    """A call writes what belongs to its items, and nothing else; products with few rows take two
    rows of weights at a time, of which each is as with any other."""
    width, few = FloatMatMul(type).width(library.isa), few_row_ops(type)[-1](type, 1)  # type: ignore[call-arg]
    for op, n_tokens, rows in ((few, 1, 1), (FloatMatMul(type), 7, width)):
        p = product(type, n_tokens, 256 + type.block if type.block < 256 else 512, 133)
        x = p.quantized if isinstance(op, MatVec) else p.x
        whole, pieces = (unwritten(n_tokens, 133) for _ in range(2))
        run(library, op, n_tokens, x=x, **p.sizes, out=whole)
        n_items = -(-133 // rows)
        cuts = sorted({0, 1, n_items // 3, n_items // 2, n_items})
        for items in reversed(list(pairwise(cuts))):
            run(library, op, n_tokens, items=items, x=x, **p.sizes, out=pieces)
            assert np.isnan(pieces[:, : items[0] * rows]).all()
        assert pieces.tobytes() == whole.tobytes()


@pytest.mark.parametrize("n_rows", [1, 8, 9, None])
@pytest.mark.parametrize("isa", ISAS, ids=by_name)
def test_a_linear_layer_takes_the_kernel_for_its_rows(isa: ISA, n_rows: int | None) -> None:
    """And its activations are packed for that kernel."""
    type = Q4_K()
    lowered = [op.lowered(n_rows, isa) for op in (Pack(), Linear(type), FloatLinear(type))]
    if n_rows is not None and n_rows <= 8:
        assert lowered == [Quantize(), MatVec(type, n_rows), FloatMatVec(type, n_rows)]
    elif isa.name == "amx":
        assert lowered == [RoundToBF16(), TileMatMul(type), FloatMatMul(type)]
    else:
        assert lowered == [Quantize(), MatMul(type), FloatMatMul(type)]


@each_type
@pytest.mark.parametrize("n_rows", [0, 1, 9])
def test_a_product_reads_its_weights_once_and_counts_them_for_each_row(
    type: WeightType, n_rows: int
) -> None:
    op, p = Linear.of(type, activations="int8"), product(type, 1, 512, 3)
    x, out = (np.zeros((n_rows, width), np.float32) for width in (512, 3))
    n_bytes = 3 * type.row_bytes(512) if n_rows else 0
    assert op.work(x=x, out=out, **p.sizes) == Work(n_rows * 2 * 512 * 3, n_bytes)


# ---- rows ----------------------------------------------------------------------------------------


@each_type
def test_picked_rows_are_dequantised_bit_by_bit(library: Library, type: WeightType) -> None:
    rows = np.int32([3, 0, 6, 6, 1])
    for n_columns in columns_for(type):
        table = random_weights(type, 7, n_columns, np.random.default_rng(n_columns))
        out = unwritten(len(rows), n_columns)
        arguments = {"table": unaligned(table), "rows": rows, "width": n_columns}
        run(library, PickRows(type), len(rows), **arguments, out=out)
        assert out.view(np.uint32).tolist() == type.dequantize(table[rows]).view(np.uint32).tolist()


# ---- activations ---------------------------------------------------------------------------------


def quantize(library: Library, x: Array) -> Array:
    """What `Quantize` makes of activations, natively."""
    out = np.full((len(x), packed_bytes(x.shape[1])), 99, np.uint8)
    run(library, Quantize(), len(x), x=x, out=out, width=x.shape[1])
    return out


def groups_of(packed: Array) -> tuple[Array, Array, Array]:
    """Packed activations as lanes (n, n_groups, 32), scales (n, n_groups), sums (n, n_groups, 2).

    Read byte by byte, as the format says.
    """
    n_groups = (packed.shape[1] - 64) // 64
    lanes = np.empty((len(packed), n_groups, 32), np.int8)
    scales, sums = (
        np.empty(lanes.shape[:2], np.float32),
        np.empty((*lanes.shape[:2], 2), np.float32),
    )
    for group in range(n_groups):
        in_span = 8 if group < n_groups // 8 * 8 else 1
        first = group // in_span * in_span
        span, place = packed[:, 64 * first :], group - first
        for i in range(32):
            lanes[:, group, i] = span[:, i // 8 * 8 * in_span + 8 * place + i % 8].view(np.int8)
        folded = place // 2 * 16 + place % 2 * 4
        twice = [slice(folded + at, folded + at + 4) for at in (0, 8 if in_span == 8 else 4)]
        for start in (32 * in_span, 40 * in_span):
            once, again = (span[:, start:][:, at].tobytes() for at in twice)
            assert once == again
        scales[:, group] = np.ascontiguousarray(span[:, 32 * in_span :][:, twice[0]]).view("f4")[
            :, 0
        ]
        group_sums = np.ascontiguousarray(span[:, 40 * in_span :][:, twice[0]]).view("f4")[:, 0]
        sums[:, group] = np.ascontiguousarray(span[:, 48 * in_span + 8 * place :][:, :8]).view("f4")
        lane_sums = np.ascontiguousarray(span[:, 56 * in_span + 8 * place :][:, :8]).view("i4")
        counts = np.isfinite(scales[:, group]) & (scales[:, group] != 0)
        assert (lane_sums == lanes[:, group].reshape(-1, 2, 16).sum(axis=2))[counts].all()
        expected = lane_sums.sum(axis=1).astype(np.float32) * scales[:, group]
        assert (group_sums == expected)[counts].all()
    return lanes, scales, sums


def activations() -> Array:
    """Groups of all sizes: zeros, ties between two integers, one large number among small ones."""
    x = np.random.default_rng(5).standard_normal((3, 32 * 20)).astype(np.float32)  # 2 spans, 4 left
    groups = x.reshape(-1, 32)
    groups[0] = 0
    groups[1] = -0.0
    groups[2] = np.arange(32) + 0.5
    groups[2, 0] = 127
    groups[3] = np.arange(-16, 16) - 0.5
    groups[3, 31] = -127
    groups[4, 7] = 1e6
    groups[5] *= np.float32(1e30)
    groups[6] *= np.float32(1e-30)
    groups[7] = 0
    groups[7, 31] = -3
    return x


def test_activations_are_quantised_as_the_reference_says(library: Library) -> None:
    x = activations()
    actual, expected = groups_of(quantize(library, x)), groups_of(quantized(x))
    assert np.array_equal(actual[0], expected[0])
    for ours, theirs in zip(actual[1:], expected[1:], strict=True):
        assert np.allclose(ours, theirs, rtol=1e-6, atol=0)


def test_activations_are_packed_in_the_order_of_columns_where_they_are_unpacked() -> None:
    """What one number of a group of zeros becomes, wherever it stands."""
    x = np.diag(np.arange(1, 353, dtype=np.float32))  # a span, and three groups left
    assert np.array_equal(Quantize().values(quantized(x), x.shape[1]).round(3), x)


def test_quantised_activations_stay_within_a_step(library: Library) -> None:
    x = activations()
    lanes, scales, _ = groups_of(quantize(library, x))
    groups = x.reshape(lanes.shape).astype(np.float64)
    error = np.abs(groups - scales[..., None].astype(np.float64) * lanes).max(axis=-1)
    largest = np.abs(groups).max(axis=-1)
    # Half a step, and what the scale differs by: most where all lie between two integers.
    assert (error <= largest / 127 * 0.8).all()
    assert lanes.min() == -127
    assert lanes.max() == 127


def test_quantised_activations_are_nearer_than_by_rounding_to_127_steps(library: Library) -> None:
    x = np.random.default_rng(8).standard_normal((64, 32 * 16)).astype(np.float32)
    lanes, scales, _ = groups_of(quantize(library, x))
    groups = x.reshape(lanes.shape).astype(np.float64)
    step = np.abs(groups).max(axis=-1, keepdims=True) / 127
    ours = ((groups - scales[..., None].astype(np.float64) * lanes) ** 2).sum(axis=-1)
    plain = ((groups - step * np.rint(groups / step)) ** 2).sum(axis=-1)
    assert ours.sum() < 0.81 * plain.sum()  # 0.97 with 127 steps alone, 0.90 with 127 or 126


def test_the_steps_of_a_group_are_those_of_the_least_error(library: Library) -> None:
    x = np.random.default_rng(9).standard_normal((64, 32 * 16)).astype(np.float32)
    lanes, _, _ = groups_of(quantize(library, x))
    steps = np.abs(lanes).max(axis=-1)  # the largest number's lane
    assert set(steps.flat) == set(STEPS)
    errors = np.array([squared_error(x.reshape(lanes.shape), each) for each in STEPS])
    first, second = np.sort(errors, axis=0)[:2]
    found = np.take_along_axis(errors, 127 - steps[None].astype(int), axis=0)[0]
    assert (found <= first + 2 * OFF).all()
    apart = second > first + 2 * OFF
    assert apart.mean() > 0.7
    assert (steps == 127 - errors.argmin(axis=0))[apart].all()


@pytest.mark.parametrize("size", [2.0**-100, 1.0, 2.0**90])
def test_of_steps_that_are_equally_good_the_most_are_taken(library: Library, size: float) -> None:
    x = np.zeros((1, 64), np.float32)
    x[0, 3:6] = -1, 1, 1  # any number of steps is exact
    x[0, 32:] = np.arange(-4, 28)
    x[0, 40] = 127  # 127 are
    x *= np.float32(size)
    lanes, scales, _ = groups_of(quantize(library, x))
    assert (np.abs(lanes).max(axis=-1) == 127).all()
    assert np.allclose(scales[..., None] * lanes, x.reshape(lanes.shape), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["normal", "mixed", "small", "steps", "zeros", "subnormal"])
def test_all_instruction_sets_quantise_to_the_bits_of_the_reference(
    library_for: Callable[[ISA], Library], kind: str
) -> None:
    x = np.concatenate([activations(), numbers(np.random.default_rng(10), 5, 32 * 20, kind=kind)])
    expected = [part.tobytes() for part in groups_of(quantized(x))]
    for isa in isas_to_test():
        packed = quantize(library_for(isa), x)
        assert [part.tobytes() for part in groups_of(packed)] == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_spoils_its_group_and_no_other(
    library: Library, bad: float
) -> None:
    x = np.random.default_rng(6).standard_normal((1, 256)).astype(np.float32)
    x[0, 70] = bad
    _, scales, sums = groups_of(quantize(library, x))
    spoiled = np.arange(8) == 2
    assert (~np.isfinite(scales[0]) == spoiled).all()
    assert (~np.isfinite(sums[0]).all(axis=1) == spoiled).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@each_quant_type
def test_products_of_what_is_not_finite_are_not_finite(
    best_library: Library, type: QuantType, bad: float
) -> None:
    p = product(type, 2, 256, 33)
    x = p.x.copy()
    x[1, 255] = bad
    x = quantize(best_library, x)
    few, many = unwritten(2, 33), unwritten(2, 33)
    run(best_library, MatVec(type, 2), x=x, **p.sizes, out=few)
    run(best_library, MatMul(type), 2, x=x, **p.sizes, out=many)
    for out in (few, many):
        assert np.isfinite(out[0]).all()
        assert not np.isfinite(out[1]).any()


@pytest.mark.parametrize("size", [3e-37, 1e-38, 1e-40, 1e-45])
def test_the_smallest_activations_come_out_small(library: Library, size: float) -> None:
    """Not as infinity, though 127 divided by them is."""
    x = np.random.default_rng(7).standard_normal((1, 64)).astype(np.float32) * np.float32(size)
    x[0, 3] = size
    x[0, 40] = 0
    packed = quantize(library, x)
    assert (np.abs(Quantize().values(packed, x.shape[1])) <= 1e-36).all()
    assert (np.abs(groups_of(packed)[2]) <= 1e-35).all()


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bytes", [64, 63, BLOCK, BLOCK + 128, 3 * BLOCK - 1])
def test_reading_bytes_reads_every_whole_line(library: Library, n_bytes: int) -> None:
    data = np.random.default_rng(n_bytes).integers(0, 256, n_bytes, dtype=np.uint8)
    n_blocks = -(-n_bytes // BLOCK)
    out, expected = np.full(n_blocks, 99, np.uint64), np.zeros(n_blocks, np.uint64)
    run(library, ReadBytes(), data=data, out=out, n_bytes=n_bytes)
    ReadBytes().reference(data=data, out=expected, n_bytes=n_bytes)
    words = data[: n_bytes // 64 * 64].view(np.uint64)
    assert out.tolist() == expected.tolist()
    assert out.sum() == words.sum()


# ---- softmax -------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 13, 256, 257, 4099])
def test_softmax_by_blocks(library: Library, width: int) -> None:
    rng = np.random.default_rng(width)
    x = rng.standard_normal((4, width)).astype(np.float32) * np.float32([[1], [30], [1e30], [0]])
    n_blocks = -(-width // SOFTMAX_BLOCK)
    maxima, sums = unwritten(2, 4, n_blocks)
    expected = np.zeros((2, 4, n_blocks))
    run(library, SoftmaxBlocks(), 4, x=x, maxima=maxima, sums=sums, width=width)
    SoftmaxBlocks().reference(x=x, maxima=expected[0], sums=expected[1], width=width)
    assert np.array_equal(maxima, expected[0])
    assert np.allclose(sums, expected[1], rtol=1e-6, atol=0)
    highest = x.max(axis=1, keepdims=True).astype(np.float64)
    total = (expected[1] * np.exp(expected[0] - highest)).sum(axis=1)
    assert total == pytest.approx(np.exp(x - highest).sum(axis=1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 5, 256, 299])
def test_a_block_with_what_is_not_finite_has_no_sum(
    library: Library, value: float, at: int
) -> None:
    x, maxima, sums = np.zeros((1, 300), np.float32), unwritten(1, 2), unwritten(1, 2)
    x[0, at] = value
    for native in (True, False):
        arguments: dict[str, Any] = {"x": x, "maxima": maxima, "sums": sums, "width": 300}
        if native:
            run(library, SoftmaxBlocks(), **arguments)
        else:
            SoftmaxBlocks().reference(**arguments)
        assert np.isnan(sums).tolist() == [[at < 256, at >= 256]]
    x[:] = -np.inf
    run(library, SoftmaxBlocks(), x=x, maxima=maxima, sums=sums, width=300)
    assert np.isnan(sums).all()


@pytest.mark.parametrize("width", [1, 13, 256, 257, 4099])
def test_masked_softmax_by_blocks(library: Library, width: int) -> None:
    """Of no column, of one, of some, of all; bits beyond the row do not count."""
    rng = np.random.default_rng(width)
    x = rng.standard_normal((4, width)).astype(np.float32) * np.float32(30)
    words = rng.integers(0, 1 << 32, (4, -(-width // 32)), np.uint32)
    words[0], words[1], words[3] = 0, 0, 0xFFFFFFFF
    words[1, (width - 1) // 32] = 1 << (width - 1) % 32
    words[:, -1] |= np.uint32(0xFFFFFFFE << (width - 1) % 32 & 0xFFFFFFFF)
    out, (maxima, sums) = unwritten(4, width), unwritten(2, 4, -(-width // SOFTMAX_BLOCK))
    made: dict[str, Any] = {"out": out, "maxima": maxima, "sums": sums}
    expected = {name: np.zeros(array.shape) for name, array in made.items()}
    run(library, MaskBlocks(), 4, x=x, mask=words, width=width, **made)
    MaskBlocks().reference(x=x, mask=words, width=width, **expected)
    assert np.array_equal(out, expected["out"])
    assert np.array_equal(maxima, expected["maxima"])
    assert np.allclose(sums, expected["sums"], rtol=1e-6, atol=0)
    assert (np.isinf(out[0]).all(), np.isinf(out[1]).sum(), sums[0].sum()) == (True, width - 1, 0)
    blocks = unwritten(2, 1, maxima.shape[1])
    run(library, SoftmaxBlocks(), x=x[3:], maxima=blocks[0], sums=blocks[1], width=width)
    assert np.array_equal(out[3], x[3])
    assert np.array_equal(blocks[0][0], maxima[3])
    assert np.allclose(blocks[1][0], sums[3], rtol=1e-6, atol=0)


# ---- norm and rope -------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 5, 64, 172, 256, 4099])
def test_rms_norm(library: Library, width: int) -> None:
    rng = np.random.default_rng(width)
    x = (
        rng.standard_normal((7, width)).astype(np.float32)
        * np.float32([[1e-3, 1, 1e3, 7, 0, 1, 2]]).T
    )
    weight = rng.standard_normal(width).astype(np.float32)
    arguments = {"x": x, "weight": weight, "width": width, "eps": 1e-5}
    out, expected = unwritten(7, width), np.zeros((7, width))
    run(library, RmsNorm(), 7, **arguments, out=out)
    RmsNorm().reference(**arguments, out=expected)
    assert np.allclose(out, expected, rtol=2e-6, atol=0)
    assert not out[4].any()


def test_rms_norm_of_heads(library: Library) -> None:
    """Where the weight is shorter than the row, each run of so many columns is a row of its own."""
    rng = np.random.default_rng(8)
    x, weight = rng.standard_normal((3, 4 * 64)).astype(np.float32), np.ones(64, np.float32)
    arguments = {"x": x, "weight": weight, "width": 64, "eps": 1e-6}
    out = unwritten(3, 4 * 64)
    run(library, RmsNorm(), 3, **arguments, out=out)
    squares = (out.reshape(-1, 64).astype(np.float64) ** 2).mean(axis=1)
    assert np.allclose(squares, 1, rtol=1e-5)


@pytest.mark.parametrize("op", [RmsNorm(), LayerNorm()], ids=["rms", "layer"])
def test_squares_beyond_the_range_of_f32_are_no_zeros(library: Library, op: Op) -> None:
    x, out = np.float32([[1, -1] * 40, [1e20, -1e20] * 40, [np.inf, 1] * 40]), unwritten(3, 80)
    arguments: dict[str, Any] = {"x": x, "weight": np.ones(80, np.float32), "width": 80, "eps": 0.0}
    if op == LayerNorm():
        arguments |= {"bias": np.zeros(80, np.float32), "n_weights": 1}
    run(library, op, 3, **arguments, out=out)
    assert np.array_equal(out[0], x[0])
    assert np.isnan(out[1:]).all()


@pytest.mark.parametrize("adjacent", [True, False], ids=["adjacent", "halves"])
@pytest.mark.parametrize(
    ("head_dim", "n_pairs"), [(64, 32), (128, 64), (80, 40), (80, 16), (64, 10), (6, 1), (13, 5)]
)
def test_rope(library: Library, adjacent: bool, head_dim: int, n_pairs: int) -> None:
    rng = np.random.default_rng(n_pairs)
    before = rng.standard_normal((4, 3 * head_dim)).astype(np.float32)
    frequencies = 10000.0 ** (-np.arange(n_pairs) / n_pairs)
    arguments = {
        "positions": np.int32([5, 0, 99, 5]),
        "table": rope_table(100, frequencies),
        "n_heads": 3,
        "head_dim": head_dim,
        "n_pairs": n_pairs,
    }
    x, expected = before.copy(), before.astype(np.float64)
    run(library, Rope(adjacent), 4, x=x, **arguments)
    Rope(adjacent).reference(x=expected, **arguments)
    assert np.allclose(x, expected, rtol=0, atol=2e-6)
    heads, old = x.reshape(4, 3, head_dim), before.reshape(4, 3, head_dim)
    assert np.array_equal(heads[..., 2 * n_pairs :], old[..., 2 * n_pairs :])
    assert np.array_equal(x[1], before[1])  # position 0 turns nothing
    assert not np.array_equal(x[0], before[0])


def test_rope_keeps_lengths_and_turns_by_the_difference_of_positions() -> None:
    """What it is for, of its reference: q @ k depends on how far apart they are."""
    table = rope_table(64, 10000.0 ** (-np.arange(16) / 16))
    q, k = np.random.default_rng(9).standard_normal((2, 1, 32))
    for adjacent in (True, False):
        products = []
        for positions in ([3, 7], [33, 37], [59, 63]):
            x = np.concatenate([q, k])
            Rope(adjacent).reference(
                x=x, positions=np.int32(positions), table=table, n_heads=1, head_dim=32, n_pairs=16
            )
            assert np.allclose(np.linalg.norm(x, axis=1), np.linalg.norm([q[0], k[0]], axis=1))
            products.append(x[0] @ x[1])
        assert np.allclose(products, products[0], rtol=1e-5)


# ---- one by one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 15, 64, 255, 256, 257, 1100])
def test_sums_and_scaled_numbers_are_those_of_numpy(library: Library, width: int) -> None:
    rng = np.random.default_rng(width)
    x, y = rng.standard_normal((2, 3, width)).astype(np.float32)
    cases: list[tuple[Op, Any, Array]] = [
        (Add(), y, x + y),
        (AddRow(), y[0].copy(), x + y[0]),
        (Scale(), 0.3, x * np.float32(0.3)),
    ]
    for op, second, expected in cases:
        out = unwritten(3, width)
        run(library, op, 3, x=x, y=second, out=out, width=width)
        assert np.array_equal(out, expected)
        op.reference(x=x, y=second, out=out, width=width)
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("width", [1, 172, 256, 1100])
def test_silu_multiply(library: Library, width: int) -> None:
    rng = np.random.default_rng(width)
    x, y = rng.standard_normal((2, 3, width)).astype(np.float32) * 5
    out, expected = unwritten(3, width), np.zeros((3, width))
    run(library, SiluMultiply(), 3, x=x, y=y, out=out, width=width)
    SiluMultiply().reference(x=x, y=y, out=expected, width=width)
    assert np.allclose(out, expected, rtol=1e-6, atol=0)


def test_silu_multiply_of_extremes(library: Library) -> None:
    x = np.float32(
        [[0, -0.0, 20, 87, 89, 1e4, -20, -87, -89, -104, -1e4, -1e30, -3e38, 1e-30, -1e-30]]
    )
    for factor in (1.0, -1e4, 0.0):
        y, out = np.full_like(x, factor), unwritten(*x.shape)
        run(library, SiluMultiply(), 1, x=x, y=y, out=out, width=x.size)
        with np.errstate(over="ignore"):
            sigmoid = 1 / (1 + np.exp(-x.astype(np.float64)))
        assert np.allclose(out, x * sigmoid * factor, rtol=1e-6, atol=1e-29)


def test_silu_multiply_of_nan_is_nan(library: Library) -> None:
    x = np.zeros((1, 40), np.float32)
    y = np.ones((1, 40), np.float32)
    x[0, [3, 39]] = np.nan
    y[0, [7, 36]] = np.nan
    out = np.zeros((1, 40), np.float32)
    run(library, SiluMultiply(), 1, x=x, y=y, out=out, width=40)
    assert np.flatnonzero(np.isnan(out)).tolist() == [3, 7, 36, 39]


UNARY = [Gelu(), Silu(), Sigmoid()]
BINARY = [GeluMultiply(), SigmoidMultiply(), ClampedSwiGlu(), Multiply()]
EXTREMES = [0, -0.0, 20, 87, 89, 1e4, -20, -87, -89, -104, -1e4, 1e-30, -1e-30, 6.9, 7.1, -7.1]


@pytest.mark.parametrize("op", [*UNARY, *BINARY], ids=lambda op: type(op).__name__)
@pytest.mark.parametrize("width", [1, 172, 1100])
def test_gates_and_activations(library: Library, op: Op, width: int) -> None:
    rng = np.random.default_rng(width)
    x, y = (rng.standard_normal((3, width)).astype(np.float32) * 5 for _ in range(2))
    x[0, : len(EXTREMES)] = EXTREMES[:width]
    operands = {"x": x, "y": y} if op in BINARY else {"x": x}
    out, expected = unwritten(3, width), np.zeros((3, width))
    run(library, op, 3, **operands, out=out, width=width)
    op.reference(**operands, out=expected, width=width)
    assert np.allclose(out, expected, rtol=3e-6, atol=1e-7)
    x[1, width // 2] = np.nan
    run(library, op, 3, **operands, out=out, width=width)
    assert np.flatnonzero(np.isnan(out)).tolist() == [width + width // 2]


def test_numbers_are_capped(library: Library) -> None:
    x = np.float32([[0, 1e-3, 0.5, 3, -3, 30, -1e30, 1e30]])
    out = unwritten(*x.shape)
    run(library, SoftCap(), 1, x=x, y=2.0, out=out, width=8)
    assert np.allclose(out, 2 * np.tanh(x.astype(np.float64) / 2), rtol=1e-6, atol=0)


def test_rows_are_scaled_by_factors_of_their_own_and_of_their_positions(library: Library) -> None:
    x = np.random.default_rng(0).standard_normal((3, 40)).astype(np.float32)
    factors, positions = np.float32([2, 3, 5, 7]), np.int32([3, 0, 3])
    arguments = {"x": x, "width": 40}
    for op, more, expected in (
        (ScaleRows(), {"y": factors[:3].copy()}, x * factors[:3, None]),
        (ScaleByPosition(), {"y": factors, "positions": positions}, x * factors[[3, 0, 3], None]),
    ):
        for result in (unwritten(3, 40), np.zeros((3, 40), np.float32)):
            if np.isnan(result).any():
                run(library, op, 3, **arguments, **more, out=result)
            else:
                op.reference(**arguments, **more, out=result)
            assert np.array_equal(result, expected)


def test_columns_are_picked(library: Library) -> None:
    """Two heads of a query and a gate each: both of a token's gates."""
    x = np.arange(3 * 2 * 20, dtype=np.float32).reshape(3, 40)
    sizes = {"start": 7, "width": 13, "stride": 20, "n_parts": 2}
    for native in (True, False):
        out = unwritten(3, 26)
        if native:
            run(library, PickColumns(), 3, x=x, out=out, **sizes)
        else:
            PickColumns().reference(x=x, out=out, **sizes)
        assert np.array_equal(out, np.hstack([x[:, 7:20], x[:, 27:40]]))


def test_columns_are_joined(library: Library) -> None:
    """Two heads of each token, of 3 and 17 numbers."""
    x, y = np.arange(12, dtype=np.float32).reshape(2, 6), -np.arange(68, dtype="f4").reshape(2, 34)
    expected = np.hstack([x[:, :3], y[:, :17], x[:, 3:], y[:, 17:]])
    sizes = {"n_x": 3, "n_y": 17, "n_parts": 2}
    for native in (True, False):
        out = unwritten(2, 40)
        if native:
            run(library, JoinColumns(), 2, x=x, y=y, out=out, **sizes)
        else:
            JoinColumns().reference(x=x, y=y, out=out, **sizes)
        assert np.array_equal(out, expected)


@pytest.mark.parametrize(("width", "n_weights"), [(8, 1), (13, 3), (64, 2), (300, 1)])
def test_layer_norm(library: Library, width: int, n_weights: int) -> None:
    rng = np.random.default_rng(width)
    x = rng.standard_normal((4, 2 * n_weights * width)).astype(np.float32) + 5
    weight, bias = rng.standard_normal((2, n_weights, width)).astype(np.float32)
    arguments = {"x": x, "weight": weight, "bias": bias, "width": width, "n_weights": n_weights}
    out, expected = unwritten(*x.shape), np.zeros(x.shape)
    run(library, LayerNorm(), 4, **arguments, eps=1e-3, out=out)
    LayerNorm().reference(**arguments, eps=1e-3, out=expected)
    assert nmse(out, expected) <= 1e-11
    heads = x.astype(np.float64).reshape(4, 2, n_weights, width)
    normal = (heads - heads.mean(-1)[..., None]) / np.sqrt(heads.var(-1)[..., None] + 1e-3)
    assert nmse(expected, (normal * weight + bias).reshape(x.shape)) <= 1e-12


def test_logarithms_and_softplus_are_accurate(library: Library) -> None:
    x = np.geomspace(1e-30, 1e30, 80_000).astype(np.float32)
    x[:40_000] = np.linspace(0.4, 2.5, 40_000)
    result, truth = map_vectors(library, log, x, np.float32, 8), np.log(x.astype(np.float64))
    assert np.allclose(result, truth, rtol=3e-7, atol=1e-7)
    x = np.linspace(-86, 100, 80_000).astype(np.float32)
    result = map_vectors(library, softplus, x, np.float32, 8)
    assert np.allclose(result, np.logaddexp(0, x.astype(np.float64)), rtol=1e-6, atol=0)


def test_exp_is_accurate_to_two_units_in_the_last_place(library: Library) -> None:
    near_zero = np.geomspace(1e-30, 1, 5000)
    x = np.concatenate([np.linspace(-87, 88, 200_000), near_zero, -near_zero, [0.0] * 8])
    x = x.astype(np.float32)
    result = map_vectors(library, exp, x, np.float32, 8)
    truth = np.exp(x.astype(np.float64))
    assert (np.abs(result - truth) / np.spacing(truth.astype(np.float32))).max() <= 2
    assert (result[-8:] == 1).all()


def test_tanh_is_accurate(library: Library) -> None:
    near_zero = np.geomspace(1e-30, 2, 5000)
    x = np.concatenate([np.linspace(-90, 90, 100_000), near_zero, -near_zero]).astype(np.float32)
    result = map_vectors(library, tanh, x, np.float32, 8)
    assert np.allclose(result, np.tanh(x.astype(np.float64)), rtol=3e-7, atol=0)
    x = np.float32([-1e30, -np.inf, 1e30, np.inf, 0, -0.0, np.nan, np.nan])
    result = map_vectors(library, tanh, x, np.float32, 8)
    assert result[:6].tolist() == [-1, -1, 1, 1, 0, 0]
    assert np.isnan(result[6:]).all()


def test_exp_stays_within_its_bounds(library: Library) -> None:
    x = np.float32([-1e30, -np.inf, -88, -87, 88, 89, np.inf, np.nan])
    result = map_vectors(library, exp, x, np.float32, 8)
    assert (result[:4] == result[3]).all()
    assert (result[4:7] == result[4]).all()
    assert np.isnan(result[7])
