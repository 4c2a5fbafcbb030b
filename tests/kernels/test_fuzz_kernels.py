"""A short run of the kernel fuzzer, and that it finds what it is to find."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import fuzz_kernels
import numpy as np
import pytest
from support import ROOT
from support.guarded_memory import Stretch
from support.isas import isas_to_test
from support.kernel_harness import LocalOp
from support.random_calls import Caller, alike, make_case
from support.random_cases import Case, close, exact, tolerance

from linnet.kernels.compiler.host import available_isas
from linnet.kernels.ir import f32, i64, pointer
from linnet.kernels.isa import ISA, ISAS
from linnet.kernels.ops.base import Op, OpKernel
from linnet.kernels.ops.peak import Peak, PeakDot, PeakFMA, PeakTiles
from linnet.kernels.ops.rope import Rope
from linnet.kernels.ops.split_attention import JoinSplits, SplitAttend
from linnet.kernels.products.matmul import MatMul
from linnet.kernels.products.matvec import FloatMatVec, MatVec
from linnet.kernels.products.tilemul import TileMatMul
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.kernels.quants.q4_k import Q4_K
from linnet.kernels.runtime.probe import Probe

TYPES = ["Q4_K", "Q5_1", "F16"]


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(Path(fuzz_kernels.__file__)), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_random_calls_of_kernels_are_those_of_numpy() -> None:
    """Of a few types, on the fastest instruction set without tiles, which round the smallest
    numbers to zero, and the plainest."""
    options = [part for type in TYPES for part in ("--type", type)]
    fastest = next(isa.name for isa in available_isas() if isa.tiles is None)
    for isa in {fastest, "generic"}:
        options += ["--isa", isa]
    done = fuzz("--calls", "12000", "--seed", "5", "--jobs", "2", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 finds" in done.stdout
    assert done.stderr == ""
    for kernel in ("MatVec", "MatMul", "Quantize", "PickRows", "Attend", "Rope"):
        assert f"\n{kernel} " in done.stdout


def test_a_case_is_the_same_whenever_it_is_made() -> None:
    for number in range(50):
        one, other = (make_case(3, number, TYPES) for _ in range(2))
        assert one.op == other.op
        assert one.arguments.keys() == other.arguments.keys()
        for name, argument in one.arguments.items():
            if isinstance(argument, np.ndarray) and name not in one.blank:
                assert argument.tobytes() == other.arguments[name].tobytes()


def ops_of(base: type[Op]) -> set[type[Op]]:
    """Those of the package that have code of their own."""
    found = {op for child in base.__subclasses__() for op in {child, *ops_of(child)}}
    return {
        op for op in found
        if op.__module__.startswith("linnet.") and op.emit is not Op.emit and is_dataclass(op)
    }  # fmt: skip


def test_every_kernel_is_called() -> None:
    """Whoever adds an op adds a random case of it."""
    types = list(WEIGHT_TYPES)
    cases = [make_case(1, number, types) for number in range(2000)]
    # Clocks; rooflines, which read nothing; matrix registers, which this CPU may lack; attention in
    # splits, whose parts are held against the whole where that is tested.
    others = {Probe, PeakDot, PeakFMA, PeakTiles, Peak, TileMatMul, SplitAttend, JoinSplits}
    names = "Elementwise", "Unary", "WithNumber", "Gemv", "Gemm", "Pack"  # Pack is always lowered
    abstract = {op for op in ops_of(Op) if op.__name__ in names}
    assert {type(case.op) for case in cases} == ops_of(Op) - others - abstract
    weights = {case.op.type.name for case in cases if isinstance(case.op, MatVec | FloatMatVec)}
    assert weights == set(types)


def test_one_case_is_run_again_by_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert fuzz_kernels.main(["--seed", "3", "--case", "7", "--isa", "generic"]) == 0
    said = capsys.readouterr().out
    assert "on generic in pieces" in said
    assert "no find" in said


# ---- finds ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copy(LocalOp):
    """out[i] = x[i] for `n` items, with something wrong."""

    wrong: str

    parameters = {"x": pointer, "out": pointer, "n": i64}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n"], 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        for i in k.items():
            number = a["x"].load(f32, i * 4)
            if self.wrong == "a bit":
                number = (i > 5).select(number * 1.00001, number)
            elif self.wrong == "pieces":
                number = (k.first > 0).select(number * 1.0000001, number)
            elif self.wrong == "reads on":
                number = (i > a["n"] - 2).select(a["x"].load(f32, i * 4 + 4), number)
            elif self.wrong == "writes input":
                a["x"].store(number * 2.0, i * 4)
            elif self.wrong == "writes on":
                a["out"].store(number, i * 4 + 4)
            elif self.wrong == "leaves some":
                number = (i < 3).select(number, a["out"].load(f32, i * 4))
            elif self.wrong == "instruction set" and k.isa.bits > 128:
                number = number * 1.0000001
            a["out"].store(number, i * 4)


def copying(wrong: str, *, loose: bool = False) -> Case:
    x = np.linspace(1, 2, 37, dtype=np.float32)
    check = close(x, 1e-6) if loose else exact(x)
    arguments: dict[str, Any] = {"x": x, "out": np.empty_like(x), "n": x.size}
    return Case(Copy(wrong), 1, arguments, check)


def finds(case: Case, isas: list[str], seed: int = 1, n: int = 20) -> list[str]:
    caller = Caller(isas)
    return [find for number in range(n) for find in caller.call(case, seed, number)]


def test_a_right_kernel_is_no_find() -> None:
    assert finds(copying("nothing"), ["generic"]) == []


@pytest.mark.parametrize("wrong", ["a bit", "leaves some"])
def test_a_wrong_number_is_a_find(wrong: str) -> None:
    assert len(finds(copying(wrong), ["generic"])) >= 40  # each of 20 cases, whole and in pieces


def test_bits_that_depend_on_pieces_are_a_find() -> None:
    assert any(
        "places or pieces" in find for find in finds(copying("pieces", loose=True), ["generic"])
    )


def test_bits_that_depend_on_the_instruction_set_are_a_find(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    isas = [isa.name for isa in isas_to_test() if isa.tiles is None]
    if len(isas) < 2:
        pytest.skip("this CPU has one instruction set")
    monkeypatch.setattr("support.random_calls.UNFUSED", (Copy,))
    found = finds(copying("instruction set", loose=True), isas, n=1)
    assert found == [
        f"{Copy('instruction set').symbol}: instruction sets that are alike, all, differ"
    ]


def test_a_byte_beside_an_array_is_a_find() -> None:
    """Where there is no guard page, a mark."""
    stretch = Stretch(1000)
    for at_end in (True, False):
        address = stretch.put(np.zeros(10, np.uint8), at_end=at_end, shift=7)
        assert not stretch.spoiled()
        for beside in (address - 1, address + 10):
            ctypes.c_uint8.from_address(beside).value ^= 1
            assert stretch.spoiled()
            ctypes.c_uint8.from_address(beside).value ^= 1
        ctypes.c_uint8.from_address(address).value = 1
        assert not stretch.spoiled()


@pytest.mark.parametrize("wrong", ["reads on", "writes on", "writes input"])
def test_a_signal_is_a_find(wrong: str) -> None:
    code = f"import test_fuzz_kernels as t; t.finds(t.copying({wrong!r}), ['generic'])"
    paths = [str(Path(__file__).parent), str(Path(fuzz_kernels.__file__).parent)]
    paths += [str(ROOT / "tests"), str(ROOT)]
    child = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}; {code}"],
        check=False,
        timeout=60,
    )
    assert child.returncode == -11


def test_the_looking_process_tells_of_a_signal_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "fuzz.py"
    script.write_text(
        "import os, sys; sys.path[:0] = %r\n"
        "import fuzz_kernels\n"
        "make = fuzz_kernels.make_case\n"
        "def bad(seed, number, types):\n"
        "    if number == 4: os.kill(os.getpid(), 11)\n"
        "    return make(seed, number, types)\n"
        "fuzz_kernels.make_case = bad\n"
        "fuzz_kernels.main()\n" % [str(Path(fuzz_kernels.__file__).parent)]
    )
    monkeypatch.setattr(fuzz_kernels, "__file__", str(script))
    options = ["--isa", "generic", "--type", "F16", "--calls", "60", "--seed", "9"]
    assert fuzz_kernels.main(options) == 1
    said = capsys.readouterr().out
    assert "FIND --seed 9 --case 4 --type F16: the process ended with -11" in said
    assert "1 finds" in said


def test_what_may_differ_is_what_the_data_allow() -> None:
    truth = np.array([1.0, np.nan, np.inf, 5.0])
    within = tolerance(np.array([1.0, 1.0, 1.0, 1e38]), 4)
    right = np.float32([1, np.inf, np.nan, np.nan])
    assert close(truth, within)({"out": right}) == ""
    for at, wrong in ((0, 1 + 1e-6), (0, np.nan), (1, 3.0), (2, 0.0)):
        changed = right.copy()
        changed[at] = wrong
        assert "1 of 4 out differ" in close(truth, within)({"out": changed})


def test_instruction_sets_are_alike_where_sums_are_in_the_same_order() -> None:
    by_name = {isa.name: isa for isa in ISAS}
    wide, narrow, plain = (by_name[name] for name in ("avx512vnni", "avx2", "generic"))
    assert len({alike(Rope(True), isa) for isa in ISAS}) == 1
    floats = FloatMatVec(Q4_K(), 1)
    assert alike(floats, wide) == alike(floats, by_name["avx512"]) != alike(floats, narrow)
    few, many = MatVec(Q4_K(), 1), MatMul(Q4_K())
    assert alike(few, narrow) == alike(few, by_name["avx512"]) != alike(few, wide)
    assert alike(few, wide) == alike(few, by_name["avxvnni"])
    assert alike(many, wide) == alike(many, narrow) != alike(many, plain)
    for op in floats, few, many:
        assert len({alike(op, by_name[name]) for name in ("neon", "neondot", "neoni8mm")}) == 1
    assert alike(floats, by_name["neon"]) != alike(floats, narrow)
    assert alike(many, by_name["neon"]) == alike(many, narrow)
