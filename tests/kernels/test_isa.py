"""Instruction sets: which one is chosen, and that its dot product is exact at the extremes."""

from __future__ import annotations

import numpy as np
import pytest
from support.kernel_harness import QUANT_TYPES, by_name, evaluate

from linnet.kernels.compiler import host
from linnet.kernels.compiler.host import available_isas, choose_isa
from linnet.kernels.compiler.jit import Library, host_features, target
from linnet.kernels.ir import Kernel, Value
from linnet.kernels.isa import ISAS, ISAError
from linnet.kernels.quants import QuantType

# ---- choice --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [isa.name for isa in available_isas()])
def test_an_isa_is_chosen_by_name_or_environment(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert choose_isa(name).name == name
    monkeypatch.setenv("LINNET_ISA", name)
    assert choose_isa().name == name


def test_a_name_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINNET_ISA", "abacus")
    assert choose_isa("generic").name == "generic"


def test_by_default_the_fastest_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINNET_ISA", "")
    assert choose_isa().name == available_isas()[0].name


def test_an_unknown_isa_is_an_error_that_says_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LINNET_ISA", "abacus")
    with pytest.raises(ISAError, match=r"'abacus': unknown; available here: .*generic"):
        choose_isa()


def test_an_isa_this_cpu_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    generic = ISAS[-1]
    monkeypatch.delenv("LINNET_ISA", raising=False)
    monkeypatch.setattr(host, "available_isas", lambda: (generic,))
    with pytest.raises(ISAError, match="'avx2': this CPU lacks it; available here: generic"):
        choose_isa("avx2")
    assert choose_isa().name == "generic"


def test_available_isas_are_those_whose_features_the_cpu_has() -> None:
    assert available_isas() == tuple(isa for isa in ISAS if isa.needs <= host_features())
    assert available_isas()[-1].name == "generic"


def test_the_fastest_is_compiled_for_this_cpu_and_others_for_what_they_need() -> None:
    fastest, *others = available_isas()
    cpu, features = target(fastest)
    assert cpu
    assert host_features() <= {f[1:] for f in features.split(",") if f.startswith("+")}
    assert set(fastest.attributes) <= set(features.split(","))
    for isa in others:
        assert target(isa) == ("", isa.target_attributes)


def test_names_are_distinct_and_attributes_in_a_fixed_order() -> None:
    assert len({isa.name for isa in ISAS}) == len(ISAS)
    for isa in ISAS:
        enabled = [a[1:] for a in isa.target_attributes.split(",") if a.startswith("+")]
        assert enabled == sorted(isa.needs)


# ---- dot products --------------------------------------------------------------------------------


@pytest.mark.parametrize("largest", sorted({type.largest for type in QUANT_TYPES}))
@pytest.mark.parametrize("n_registers", [1, 2, 4])
def test_dot_products_are_exact_at_the_extremes(
    library: Library, largest: int, n_registers: int
) -> None:
    """Each weight beside each activation, in every order that could make a sum saturate."""
    n = library.isa.bits // 8 * n_registers
    rng = np.random.default_rng(largest)
    cases = [
        (weights, activations, accumulator)
        for weights in (
            np.full(n, largest),
            rng.choice([0, largest], n),
            rng.integers(0, largest, n),
        )
        for activations in (np.full(n, 127), np.full(n, -127), rng.integers(-127, 128, n))
        for accumulator in (0, 2**30, -(2**30))
    ]
    for weights, activations, accumulator in cases:
        (result,) = evaluate(
            library,
            lambda k, start, w, x: [k.isa.dot(start, w, x, largest)],
            np.full(n // 4, accumulator, np.int32),
            weights.astype(np.uint8),
            activations.astype(np.int8),
        )
        expected = (weights * activations).reshape(-1, 4).sum(axis=1) + accumulator
        assert result.tolist() == expected.tolist()


@pytest.mark.parametrize("largest", sorted({type.largest for type in QUANT_TYPES}))
@pytest.mark.parametrize("n_bytes", [32, 64])
def test_dot_products_of_several_vectors_are_summed_exactly(
    library: Library, largest: int, n_bytes: int
) -> None:
    """Of as many vectors as a span has runs: no sum of theirs may saturate, nor wrap around."""
    weights = np.full((4, n_bytes), largest, np.uint8)
    for activation in (127, -127):
        activations = np.full((4, n_bytes), activation, np.int8)
        (result,) = evaluate(
            library,
            lambda k, *pairs: [k.isa.dots(pairs[:4], pairs[4:], largest)],
            *weights,
            *activations,
        )
        assert result.tolist() == [16 * largest * activation] * (n_bytes // 4)


@pytest.mark.parametrize("largest", [127, 128, 255])
def test_dot_products_of_32_bytes_need_no_full_register(library: Library, largest: int) -> None:
    """As the blocks of 32 weights at the end of a row are."""
    weights, activations = np.full(32, largest, np.uint8), np.full(32, -127, np.int8)
    zero = np.zeros(8, np.int32)
    (result,) = evaluate(
        library,
        lambda k, start, w, x: [k.isa.dot(start, w, x, largest)],
        zero,
        weights,
        activations,
    )
    assert result.tolist() == [4 * largest * -127] * 8


@pytest.mark.parametrize("n_products", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("largest", sorted({type.largest for type in QUANT_TYPES}))
def test_sums_of_dot_products_are_exact_at_the_extremes(
    library: Library, largest: int, n_products: int
) -> None:
    """As many as a group has, and one more than words hold of some weights."""
    shape, rng = (n_products, library.isa.bits // 8), np.random.default_rng(largest)

    def add(k: Kernel, start: Value, *vectors: Value) -> list[Value]:
        total = library.isa.dot_sum(start, largest)
        for weights, activations in zip(vectors[:n_products], vectors[n_products:], strict=True):
            total.add(weights, activations)
        return [total.total()]

    for weights in np.full(shape, largest), rng.integers(0, largest + 1, shape):
        for x in np.full(shape, 127), np.full(shape, -127), rng.integers(-127, 128, shape):
            start = rng.integers(-(2**30), 2**30, shape[1] // 4).astype(np.int32)
            vectors = *weights.astype(np.uint8), *x.astype(np.int8)
            (result,) = evaluate(library, add, start, *vectors)
            products = (weights * x).reshape(n_products, -1, 4).sum(axis=(0, 2))
            assert result.tolist() == (start + products).tolist()


@pytest.mark.parametrize("type", [type for type in QUANT_TYPES if type.folded], ids=by_name)
def test_sums_are_multiplied_exactly_at_the_extremes(library: Library, type: QuantType) -> None:
    """Those of a group of 16, which begin with what its zero adds up to."""
    n, rng = library.isa.bits // 8, np.random.default_rng(1)

    def add(k: Kernel, start: Value, factors: Value, *vectors: Value) -> list[Value]:
        total = library.isa.dot_sum(start, type.largest)
        for weights, activations in zip(vectors[:4], vectors[4:], strict=True):
            total.add(weights, activations)
        return [total.times(factors)]

    for multiplier in (-32, 31):
        for lanes in np.full((4, n), type.largest), rng.integers(0, type.largest + 1, (4, n)):
            for x in np.full((4, n), 127), np.full((4, n), -127):
                start = np.full(n // 4, -type.zero * x[:, 0].sum() * 4, np.int32)
                factors = np.full(n // 2, multiplier, np.int16).view(np.int32)
                vectors = *lanes.astype(np.uint8), *x.astype(np.int8)
                (result,) = evaluate(library, add, start, factors, *vectors)
                products = (lanes * x).reshape(4, -1, 4).sum(axis=(0, 2))
                assert result.tolist() == ((start + products) * multiplier).tolist()


@pytest.mark.parametrize("n", [16, 32, 64, 256])
def test_lookup_finds_each_number_of_a_table(library: Library, n: int) -> None:
    table = np.random.default_rng(0).permutation(256)[:16].tolist()
    indices = np.random.default_rng(1).permutation(np.arange(n) % 16).astype(np.uint8)
    (result,) = evaluate(library, lambda k, i: [k.isa.lookup(table, i)], indices)
    assert result.tolist() == [table[i] for i in indices]
