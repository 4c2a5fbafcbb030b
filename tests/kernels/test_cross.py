"""Kernels compiled for machines that this one is not: what they call, and what objects want."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from support.fake_libraries import LibSystem
from support.kernel_harness import TYPES, by_name, few_row_ops, many_row_ops
from support.random_attention import OF_ATTENTION
from support.random_blocks import BLOCKS
from support.random_products import OF_ACTIVATIONS

from linnet.kernels.compiler import cpu_features
from linnet.kernels.compiler.cpu_features import system_features
from linnet.kernels.compiler.jit import ALLOWED_SYMBOLS, Compiler, Source
from linnet.kernels.compiler.symbols import undefined_symbols
from linnet.kernels.ir import Family
from linnet.kernels.isa import ISAS
from linnet.kernels.isa.generic import Generic
from linnet.kernels.ops.peak import PeakDot, PeakFMA
from linnet.kernels.ops.rows import PickRows
from linnet.kernels.products.experts import ExpertLinear, FloatExpertLinear
from linnet.kernels.quants import QuantType, WeightType
from linnet.kernels.runtime.team import _Lead, _Publish, _Serve

OF_ISA = {isa.name: isa for isa in ISAS}
EVERY = os.environ.get("LINNET_TEST_EVERY") == "1"


class Elsewhere(Generic):
    """Plain IR of a CPU whose family is not known."""

    family = Family()


MACHINES = (
    Compiler(OF_ISA["neon"], "aarch64-linux-gnu"),
    Compiler(OF_ISA["neoni8mm"], "aarch64-apple-darwin"),
    Compiler(OF_ISA["avx2"], "x86_64-pc-windows-msvc-elf"),
    Compiler(Elsewhere(), "riscv64-linux-gnu", "spacemit-x60"),
)


def of_machine(value: object) -> str:
    return getattr(value, "triple", None) or by_name(value)


# ---- what kernels call ---------------------------------------------------------------------------


def kernels_of(type: WeightType) -> list[Source]:
    experts = [ExpertLinear, FloatExpertLinear] if isinstance(type, QuantType) else []
    ops: list[Any] = [op(type, 1) for op in few_row_ops(type)]
    ops += [PickRows(type), *(op(type) for op in many_row_ops(type))]
    for expert in experts:
        single = expert(type, 512)  # type: ignore[arg-type]
        ops += [single, single.lowered(None, Generic())]
    return ops


def other_kernels() -> Iterator[Source]:
    for make in (OF_ACTIVATIONS | OF_ATTENTION | BLOCKS).values():
        with np.errstate(all="ignore"):
            yield make(np.random.default_rng(0)).op
    yield from (_Publish(), _Lead(), _Serve())


@pytest.mark.parametrize("machine", MACHINES, ids=of_machine)
def test_kernels_call_nothing_that_is_not_there(machine: Compiler) -> None:
    """Kernels of a type are each compiled for one machine, in turn, others for two, and with
    LINNET_TEST_EVERY=1 all for all, which takes minutes."""
    number, n = MACHINES.index(machine), len(MACHINES)
    of_types = [kernel for type in TYPES for kernel in kernels_of(type)]
    others = [*other_kernels()]
    sources = [*of_types, *others] if EVERY else [*of_types[number::n], *others[number % 2 :: 2]]
    if machine.isa.family.vector_register:
        sources += [PeakFMA(), PeakDot(15)]
    called = {source.symbol: undefined_symbols(machine.object_code(source)) for source in sources}
    assert {name: calls - ALLOWED_SYMBOLS for name, calls in called.items() if calls} == {
        name: set() for name, calls in called.items() if calls
    }


# ---- object files --------------------------------------------------------------------------------

CALLS = """
declare void @first(ptr)
declare void @a_second_one(ptr)
declare void @never_called()
define void @known(ptr %p) {
 call void @first(ptr %p)
 call void @a_second_one(ptr %p)
 call void @known(ptr %p)
 ret void
}"""


class Calls:
    symbol = "known"

    def ir(self, isa: Any) -> str:
        return CALLS


@pytest.mark.parametrize(
    "triple",
    ["x86_64-linux-gnu", "aarch64-linux-gnu", "aarch64-apple-darwin", "x86_64-apple-darwin",
     "x86_64-pc-windows-msvc", "aarch64-pc-windows-msvc"],
)  # fmt: skip
def test_undefined_symbols_are_read_from_objects_of_each_format(triple: str) -> None:
    code = Compiler(Generic(), triple).object_code(Calls())
    assert undefined_symbols(code) == {"first", "a_second_one"}


def test_what_is_no_object_wants_nothing() -> None:
    for code in (b"", b"MZ" + bytes(100), b"\x64\x86" + bytes(30)):
        assert undefined_symbols(code) == set()


# ---- features ------------------------------------------------------------------------------------


class Words(LibSystem):
    """A C library on a machine that knows these words, and nothing else."""

    @staticmethod
    def getauxval(word: int) -> int:
        return {16: 1 << 1 | 1 << 8 | 1 << 20, 26: 1 << 13}.get(word, 0)


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    words = Words({"hw.optional.arm.FEAT_DotProd": 1, "hw.optional.arm.FEAT_I8MM": 0})
    words.getauxval = lambda word: Words.getauxval(word)  # type: ignore[method-assign]
    monkeypatch.setattr(ctypes, "CDLL", lambda _: words)
    return monkeypatch


def test_linux_says_by_bits_what_an_arm_cpu_has(arm: pytest.MonkeyPatch) -> None:
    arm.setattr(sys, "platform", "linux")
    found = system_features()
    assert {name for name, there in found.items() if there} == {"neon", "lse", "dotprod", "i8mm"}
    assert found["sve"] is False


def test_macos_says_by_name_what_an_arm_cpu_has(arm: pytest.MonkeyPatch) -> None:
    arm.setattr(sys, "platform", "darwin")
    found = system_features()
    assert {name for name, there in found.items() if there} == {"neon", "dotprod"}
    assert found["i8mm"] is False


def test_other_systems_and_cpus_are_left_to_llvm(arm: pytest.MonkeyPatch) -> None:
    arm.setattr(sys, "platform", "win32")
    assert system_features() == {}
    arm.setattr(platform, "machine", lambda: "x86_64")
    arm.setattr(sys, "platform", "linux")
    assert system_features() == {}


def test_llvm_knows_every_feature_that_is_asked_for() -> None:
    """An unknown one would be passed over, and its instruction set never chosen."""
    names = {name for bits in cpu_features.HWCAPS.values() for name in bits.values()}
    names |= {"neon", *cpu_features.SYSCTLS}
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("aarch64-linux-gnu")
    for isa in ISAS:
        if isa.name.startswith("neon"):
            assert isa.needs <= names
            features = isa.target_attributes
            text = f'target triple = "aarch64-linux-gnu"\n{PeakDot(255).ir(isa)}'
            machine = target.create_target_machine(features=features)
            mnemonic = {"neon": "smull", "neondot": "sdot", "neoni8mm": "usdot"}[isa.name]
            assert f"\t{mnemonic}\t" in machine.emit_assembly(llvm.parse_assembly(text))
