"""Instruction sets: which one is chosen, and that its dot product is exact at the extremes."""

from __future__ import annotations

import numpy as np
import pytest
from support.kernel_harness import QUANT_TYPES, evaluate

from linnet.kernels.compiler import host
from linnet.kernels.compiler.host import available_isas, choose_isa
from linnet.kernels.compiler.jit import Library, host_features
from linnet.kernels.isa import ISAS, ISAError

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
    monkeypatch.setattr(host, "available_isas", lambda: (generic,))
    with pytest.raises(ISAError, match="'avx2': this CPU lacks it; available here: generic"):
        choose_isa("avx2")
    assert choose_isa().name == "generic"


def test_available_isas_are_those_whose_features_the_cpu_has() -> None:
    assert available_isas() == tuple(isa for isa in ISAS if isa.needs <= host_features())
    assert available_isas()[-1].name == "generic"


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


@pytest.mark.parametrize("n", [16, 32, 64, 256])
def test_lookup_finds_each_number_of_a_table(library: Library, n: int) -> None:
    table = np.random.default_rng(0).permutation(256)[:16].tolist()
    indices = np.random.default_rng(1).permutation(np.arange(n) % 16).astype(np.uint8)
    (result,) = evaluate(library, lambda k, i: [k.isa.lookup(table, i)], indices)
    assert result.tolist() == [table[i] for i in indices]
