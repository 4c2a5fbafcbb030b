"""Mixtures of experts: who is chosen, and products with the chosen ones' weights alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.kernel_harness import Array, by_name, nmse, random_weights, run, unwritten

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.base import Op
from linnet.kernels.ops.routing import (
    GroupByExpert,
    PerExpert,
    SumExperts,
    TopExperts,
)
from linnet.kernels.ops.work import Work
from linnet.kernels.products.activations import Quantize, packed_bytes
from linnet.kernels.products.experts import ExpertLinear, FloatExpertLinear
from linnet.kernels.quants import WEIGHT_TYPES


def choose(library: Library, op: TopExperts, logits: Array, n_used: int, **options: Any) -> Any:
    """What is chosen natively and by the reference: ((experts, weights), (experts, weights))."""
    n_tokens, n_experts = logits.shape
    arguments = {"logits": logits, "bias": np.zeros(n_experts, np.float32), "scale": 1.0}
    arguments |= {"n_experts": n_experts, "n_used": n_used, **options}
    native = unwritten(n_tokens, n_used, dtype=np.int32), unwritten(n_tokens, n_used)
    reference = np.zeros((n_tokens, n_used), np.int32), np.zeros((n_tokens, n_used))
    run(library, op, n_tokens, **arguments, experts=native[0], weights=native[1])
    op.reference(**arguments, experts=reference[0], weights=reference[1])
    return native, reference


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
@pytest.mark.parametrize(("n_experts", "n_used"), [(2, 2), (7, 1), (40, 8), (128, 5)])
def test_the_best_experts_are_chosen(
    library: Library, scores: str, normalised: bool, n_experts: int, n_used: int
) -> None:
    rng = np.random.default_rng(n_experts)
    logits, bias = (
        rng.standard_normal(shape).astype(np.float32) * 3 for shape in ((5, n_experts), n_experts)
    )
    op = TopExperts(scores, normalised)
    native, reference = choose(library, op, logits, n_used, bias=bias, scale=2.5)
    assert np.array_equal(native[0], reference[0])
    assert np.allclose(native[1], reference[1], rtol=2e-6, atol=0)
    if normalised:
        assert np.allclose(native[1].sum(axis=1), 2.5, rtol=1e-5)


def test_the_bias_chooses_and_does_not_weigh(library: Library) -> None:
    """Written out: by their scores alone 0 and 1 would be chosen."""
    logits = np.log(np.float32([[4, 3, 2, 1]]))
    bias = np.float32([0, 0, 0.5, 0.5])
    native, _ = choose(library, TopExperts("softmax", False), logits, 2, bias=bias)
    assert native[0].tolist() == [[2, 3]]
    assert np.allclose(native[1], [[0.2, 0.1]])


def test_of_equals_the_first_are_chosen_once_each(library: Library) -> None:
    native, reference = choose(library, TopExperts("softmax", True), np.ones((1, 9), "f4"), 4)
    assert native[0].tolist() == reference[0].tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_choose_experts_that_there_are(
    library: Library, value: float
) -> None:
    logits = np.full((3, 10), value, np.float32)
    logits[1, 5] = 0
    for scores in ("softmax", "sigmoid"):
        experts, weights = unwritten(3, 4, dtype=np.int32), unwritten(3, 4)
        sizes = {"n_experts": 10, "n_used": 4, "scale": 1.0}
        run(
            library, TopExperts(scores, True), 3,
            logits=logits, bias=np.zeros(10, np.float32), experts=experts, weights=weights, **sizes,
        )  # fmt: skip
        assert ((experts >= 0) & (experts < 10)).all()
        if np.isnan(value):
            assert np.isnan(weights).all()


def grouped(experts: Array, n_experts: int) -> dict[str, Any]:
    """The arguments that list products by expert."""
    order, starts = np.zeros_like(experts), np.zeros(n_experts + 1, np.int64)
    lists = {"order": order, "starts": starts, "n_experts": n_experts}
    GroupByExpert().reference(experts=experts, n_used=experts.shape[1], **lists)
    return lists


@pytest.mark.parametrize("n_tokens", [1, 5, 300])
def test_products_are_listed_by_expert(library: Library, n_tokens: int) -> None:
    experts = np.random.default_rng(0).integers(0, 9, (n_tokens, 3), np.int32)
    experts[experts == 4] = 3  # whom nobody takes
    order, starts = unwritten(n_tokens, 3, dtype=np.int32), unwritten(11, dtype=np.int64)
    sizes = {"n_used": 3, "n_experts": 10}
    run(library, GroupByExpert(), n_tokens, experts=experts, order=order, starts=starts, **sizes)
    for expert in range(10):
        own = order.reshape(-1)[starts[expert] : starts[expert + 1]]
        assert own.tolist() == np.flatnonzero(experts == expert).tolist()
    lists = grouped(experts, 10)
    assert np.array_equal(lists["order"], order)
    assert np.array_equal(lists["starts"], starts)


def products(
    library: Library, type_name: str, n_sharing: int, *, exact: bool, n_tokens: int = 3,
    many: bool = False, items: Any = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Products of tokens with 2 of 5 experts each, natively and by the reference."""
    type, rng = WEIGHT_TYPES[type_name], np.random.default_rng(2)
    n_columns, n_out, n_used = 256, 200 if many else 11, 2
    weights = random_weights(type, 5 * n_out, n_columns, rng).reshape(5, n_out, -1)
    experts = np.resize(np.int32([4, 0, 2, 4, 0, 1]), (n_tokens, 2))
    weights[3] = 0xFF  # whose expert nobody takes
    x = rng.standard_normal((n_tokens, n_columns * n_used // n_sharing)).astype(np.float32)
    arguments: dict[str, Any] = {
        "weights": weights, "experts": experts, "n_columns": n_columns, "n_out": n_out,
        "n_used": n_used, "n_sharing": n_sharing, "expert_bytes": weights.strides[0], "x": x,
        **grouped(experts, 5),
    }  # fmt: skip
    op: Op = FloatExpertLinear(type, n_columns) if exact else ExpertLinear(type, n_columns)
    op = op.lowered(None, library.isa) if many else op
    if not exact:
        n_bytes = n_used // n_sharing * packed_bytes(n_columns)
        arguments["x"] = np.zeros((n_tokens, n_bytes), np.uint8)
        Quantize().reference(x=x, out=arguments["x"], width=n_columns)
    shape = n_tokens, n_used * n_out
    out, expected = unwritten(*shape), np.zeros(shape, np.float32)
    run(library, op, n_tokens, items=items, **arguments, out=out)
    op.reference(**arguments, out=expected)
    return out, expected


@pytest.mark.parametrize("exact", [True, False], ids=["f32", "int8"])
@pytest.mark.parametrize("n_sharing", [1, 2])
@pytest.mark.parametrize("type_name", ["Q4_K", "Q8_0", "Q6_K"])
def test_only_the_chosen_experts_multiply(
    best_library: Library, type_name: str, n_sharing: int, exact: bool
) -> None:
    out, expected = products(best_library, type_name, n_sharing, exact=exact)
    assert nmse(out, expected) <= 1e-11


@pytest.mark.parametrize("exact", [True, False], ids=["f32", "int8"])
@pytest.mark.parametrize("n_sharing", [1, 2])
def test_many_products_are_those_that_each_is_alone(
    best_library: Library, n_sharing: int, exact: bool
) -> None:
    """Bit for bit: groups of one and two, of eight, and of more."""
    for n_tokens in (2, 5, 40):
        options: Any = {"exact": exact, "n_tokens": n_tokens}
        out, expected = products(best_library, "Q4_K", n_sharing, many=True, **options)
        assert nmse(out, expected) <= 1e-11
        experts = [4, 0, 2, 4, 0, 1]
        for first, last in ((0, 1000), (3 * 200 + 7, 4 * 200 + 190)):
            part, _ = products(
                best_library, "Q4_K", n_sharing, many=True, items=(first, last), **options
            )
            for product, (row, whole) in enumerate(
                zip(part.reshape(-1, 200), out.reshape(-1, 200), strict=True)
            ):
                start = experts[product % 6] * 200
                own = slice(*np.clip([first - start, last - start], 0, 200))
                assert row[own].tobytes() == whole[own].tobytes()
                assert np.isnan(np.delete(row, np.r_[own])).all()


@pytest.mark.parametrize(("n_tokens", "n_read"), [(0, 0), (1, 2), (2, 4), (3, 5), (9, 5)])
@pytest.mark.parametrize("exact", [True, False], ids=["f32", "int8"])
def test_products_read_the_weights_of_as_many_experts_as_they_may_take(
    exact: bool, n_tokens: int, n_read: int
) -> None:
    type = WEIGHT_TYPES["Q8_0"]
    op = ExpertLinear.of(type, 64, activations="f32" if exact else "int8")
    weights = np.zeros((5, 3, type.row_bytes(64)), np.uint8)
    experts, n_used = np.zeros((n_tokens, 2), np.int32), 2
    arguments: Any = {
        "weights": weights, "x": np.zeros((n_tokens, 64), np.float32), "n_columns": 64, "n_out": 3,
        "out": np.zeros((n_tokens, 6), np.float32), "experts": experts, "n_used": n_used,
        "n_sharing": 2, "expert_bytes": weights.strides[0], **grouped(experts, 5),
    }  # fmt: skip
    n_bytes = n_read * 3 * type.row_bytes(64)
    assert op.work(**arguments) == Work(n_tokens * n_used * 2 * 64 * 3, n_bytes)
    assert op.read(max(n_tokens, 1), **arguments).nbytes == max(n_read, 2) * 3 * type.row_bytes(64)


def test_rows_of_any_product_may_be_taken_alone(best_library: Library) -> None:
    """The items of a thread begin and end within products."""
    _, expected = products(best_library, "Q4_K", 2, exact=False)
    out, _ = products(best_library, "Q4_K", 2, exact=False, items=(7, 50))
    out, expected = out.reshape(-1), expected.reshape(-1)
    assert nmse(out[7:50], expected[7:50]) <= 1e-11
    assert np.isnan(out[:7]).all()
    assert np.isnan(out[50:]).all()


def test_weights_of_experts_may_lie_apart(best_library: Library) -> None:
    """As halves of fused matrices do."""
    rng = np.random.default_rng(3)
    fused = rng.standard_normal((4, 2, 6, 32)).astype(np.float32)
    x, experts = rng.standard_normal((1, 32)).astype(np.float32), np.int32([[3, 1]])
    sizes = {"n_columns": 32, "n_out": 6, "n_used": 2, "n_sharing": 2, **grouped(experts, 4)}
    for half in (0, 1):
        part = fused.view(np.uint8)[:, half]
        single = FloatExpertLinear(WEIGHT_TYPES["F32"], 32)
        for op in (single, single.lowered(None, best_library.isa)):
            out = unwritten(1, 12)
            run(
                best_library, op, 1, weights=part, x=x, out=out, experts=experts,
                expert_bytes=part.strides[0], **sizes,
            )  # fmt: skip
            assert np.allclose(out.reshape(2, 6), fused[[3, 1], half] @ x[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1, 16, 33])
def test_biases_and_sums_of_experts(library: Library, width: int) -> None:
    rng = np.random.default_rng(width)
    x = rng.standard_normal((3, 2 * width)).astype(np.float32)
    experts, sizes = np.int32([[1, 0], [3, 3], [2, 1]]), {"n_used": 2, "width": width}
    scales, biases, weights = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((4,), (4, width), (3, 2))
    )
    out, total = unwritten(3, 2 * width), unwritten(3, width)
    per_expert = {"scales": scales, "biases": biases, "experts": experts}
    run(library, PerExpert(), 3, x=x, **per_expert, out=out, **sizes)
    run(library, SumExperts(), 3, x=x, weights=weights, out=total, **sizes)
    pairs = x.reshape(3, 2, width)
    expected = pairs * scales[experts][..., None] + biases[experts]
    assert np.allclose(out.reshape(expected.shape), expected, rtol=1e-6, atol=1e-6)
    assert np.allclose(total, np.einsum("tj,tjw->tw", weights, pairs), rtol=1e-5, atol=1e-6)
    for op, arguments, result in (
        (PerExpert(), {"x": x, **per_expert}, out),
        (SumExperts(), {"x": x, "weights": weights}, total),
    ):
        reference = np.zeros_like(result)
        op.reference(**arguments, out=reference, **sizes)
        assert np.allclose(result, reference, rtol=1e-5, atol=1e-6), by_name(op)
