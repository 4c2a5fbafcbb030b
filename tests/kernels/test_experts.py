"""Mixtures of experts: who is chosen, and products with the chosen ones' weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.kernel_harness import (
    IN_TURN,
    Array,
    by_name,
    nmse,
    random_weights,
    run,
    unwritten,
)

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
from linnet.kernels.products.base import ExpertProduct
from linnet.kernels.products.expert_matmul import TOGETHER
from linnet.kernels.products.experts import ExpertLinear, FloatExpertLinear
from linnet.kernels.products.matmul import FloatMatMul, MatMul
from linnet.kernels.quants import WEIGHT_TYPES, QuantType, WeightType

types_in_turn = pytest.mark.parametrize(
    ("library", "type"), IN_TURN, ids=by_name, indirect=["library"]
)


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


@dataclass(frozen=True, eq=False)
class Mixture:
    """Tokens that take 2 of 5 experts each, and never expert 3; `x`: their rows, or theirs for each
    expert, packed where not `exact`."""

    type: WeightType
    exact: bool
    weights: Array
    experts: Array
    x: Array
    n_sharing: int
    n_columns: int

    @classmethod
    def of(
        cls, type: WeightType, experts: Array, *, exact: bool, n_sharing: int = 2,
        n_columns: int = 256, n_out: int = 11,
    ) -> Mixture:  # fmt: skip
        rng, n_tokens = np.random.default_rng(2), len(experts)
        weights = random_weights(type, 5 * n_out, n_columns, rng).reshape(5, n_out, -1)
        weights[3] = 0xFF
        x = rng.standard_normal((n_tokens, n_columns * 2 // n_sharing)).astype(np.float32)
        if not exact:
            packed = np.zeros((n_tokens, 2 // n_sharing * packed_bytes(n_columns)), np.uint8)
            Quantize().reference(x=x, out=packed, width=n_columns)
            x = packed
        return cls(type, exact, weights, experts, x, n_sharing, n_columns)

    @property
    def n_out(self) -> int:
        return self.weights.shape[1]

    @property
    def single(self) -> ExpertProduct:
        return (FloatExpertLinear if self.exact else ExpertLinear)(self.type, self.n_columns)

    def arguments(self, tokens: slice = slice(None)) -> dict[str, Any]:
        return {
            "weights": self.weights, "experts": self.experts[tokens], "n_columns": self.n_columns,
            "n_out": self.n_out, "n_used": 2, "n_sharing": self.n_sharing, "x": self.x[tokens],
            "expert_bytes": self.weights.strides[0], **grouped(self.experts[tokens], 5),
        }  # fmt: skip

    def run(
        self, library: Library, op: Op, tokens: slice = slice(None), items: Any = None
    ) -> Array:
        """Those of some tokens: (n_tokens, 2, n_out)."""
        out = unwritten(len(self.experts[tokens]), 2 * self.n_out)
        run(library, op, len(out), items=items, **self.arguments(tokens), out=out)
        return out.reshape(-1, 2, self.n_out)

    def many(self, library: Library, tokens: slice = slice(None), items: Any = None) -> Array:
        return self.run(library, self.single.lowered(None, library.isa), tokens, items)

    @property
    def truth(self) -> Array:
        out = np.zeros((len(self.experts), 2 * self.n_out), np.float32)
        self.single.reference(**self.arguments(), out=out)
        return out.reshape(-1, 2, self.n_out)


def in_turn(n_tokens: int) -> Array:
    """Experts 4, 0, 2 and 1, the last for one product in six."""
    return np.resize(np.int32([4, 0, 2, 4, 0, 1]), (n_tokens, 2))


@pytest.mark.parametrize("exact", [True, False], ids=["f32", "int8"])
@pytest.mark.parametrize("n_sharing", [1, 2])
@pytest.mark.parametrize("type_name", ["Q4_K", "Q8_0", "Q6_K"])
def test_only_the_chosen_experts_multiply(
    best_library: Library, type_name: str, n_sharing: int, exact: bool
) -> None:
    m = Mixture.of(WEIGHT_TYPES[type_name], in_turn(3), exact=exact, n_sharing=n_sharing)
    assert nmse(m.run(best_library, m.single), m.truth) <= 1e-11
    assert nmse(m.many(best_library), m.truth) <= 1e-11


@types_in_turn
def test_many_products_are_those_of_each_experts_matrix(library: Library, type: WeightType) -> None:
    """Bit for bit the GEMM's; of one token, of two, of few and of many for an expert, however a
    prompt is cut; rows and columns around whole panels and chunks."""
    exact, n_columns = not isinstance(type, QuantType), 512 + type.block * (type.block < 256)
    experts = in_turn(27)
    experts[9:] = [4, 0]  # so that 1 and 2 have 3 and 6
    m = Mixture.of(type, experts, exact=exact, n_columns=n_columns, n_out=53)
    together = m.many(library)
    assert nmse(together, m.truth) <= 1e-10
    gemm = (FloatMatMul if exact else MatMul)(type)  # type: ignore[arg-type]
    for expert in (0, 1, 2, 4):
        alone = unwritten(27, 53)
        run(
            library, gemm, 27, weights=m.weights[expert], x=m.x, out=alone,
            n_columns=n_columns, n_out=53,
        )  # fmt: skip
        token, place = np.nonzero(m.experts == expert)
        assert together[token, place].tobytes() == alone[token].tobytes()
    for cut in (slice(1), slice(1, 4), slice(4, 13), slice(13, 27)):
        assert m.many(library, cut).tobytes() == together[cut].tobytes()


@pytest.mark.parametrize("exact", [True, False], ids=["f32", "int8"])
def test_more_tokens_of_an_expert_than_are_taken_together(
    best_library: Library, exact: bool
) -> None:
    experts = np.int32([[1, 1]] * (TOGETHER // 2 + 2))  # as logits of NaN may choose
    m = Mixture.of(WEIGHT_TYPES["Q4_K"], experts, exact=exact)
    out = m.many(best_library)
    assert nmse(out, m.truth) <= 1e-11
    assert out[:, 0].tobytes() == out[:, 1].tobytes()


@pytest.mark.parametrize("exact", [True, False], ids=["f32", "int8"])
@pytest.mark.parametrize("n_sharing", [1, 2])
def test_panels_of_any_experts_may_be_taken_alone(
    best_library: Library, n_sharing: int, exact: bool
) -> None:
    """A call writes what belongs to its items, and nothing else."""
    type, n_out = WEIGHT_TYPES["Q4_K"], 200
    m = Mixture.of(type, in_turn(40), exact=exact, n_sharing=n_sharing, n_out=n_out)
    whole, width = m.many(best_library), FloatMatMul(type).width(best_library.isa)
    n_panels = -(-n_out // width)
    for first, last in ((0, 1), (3 * n_panels + 1, 5 * n_panels - 1)):
        part = m.many(best_library, items=(first, last))
        for (token, place), expert in np.ndenumerate(m.experts):
            ends = (np.array([first, last]) - expert * n_panels) * width
            own = slice(*np.clip(ends, 0, n_out))
            row = part[token, place]
            assert row[own].tobytes() == whole[token, place][own].tobytes()
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
    m = Mixture.of(WEIGHT_TYPES["Q4_K"], in_turn(3), exact=False)
    out = m.run(best_library, m.single, items=(7, 50)).reshape(-1)
    assert nmse(out[7:50], m.truth.reshape(-1)[7:50]) <= 1e-11
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
