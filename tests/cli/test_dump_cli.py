"""`linnet dump`: every kernel there is, for every instruction set, and what is refused."""

from __future__ import annotations

import platform
from typing import get_type_hints

import pytest

from linnet.engine.cli import main as cli
from linnet.engine.cli.dump import IN_TILES, kernel, kernels
from linnet.kernels.compiler.jit import Compiler
from linnet.kernels.isa import ISAS
from linnet.kernels.ops.cache_types import CacheType


def dump(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Status, stdout, stderr of `linnet dump`."""
    status = cli.main(["dump", *argv])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("name", kernels())
def test_every_kernel_can_be_named(name: str) -> None:
    """With its IR for the fastest of all instruction sets, which this CPU need not have."""
    isa, of = ISAS[0], get_type_hints(kernels()[name]).get("type")
    words = [] if of is None else ["f16" if of is CacheType else "Q4_K"]
    op = kernel(name, words, isa)
    assert f'define void @"{op.symbol}"' in Compiler(isa).text(op, "ir")
    if issubclass(kernels()[name], IN_TILES):
        with pytest.raises(ValueError, match="needs matrix registers, which generic lacks"):
            kernel(name, words, ISAS[-1])


MADE_OF = {
    "amx": "vpdpbusd", "avx512vnni": "vpdpbusd", "avx512": "zmm", "avxvnni": "vpdpbusd",
    "avx2": "vpmaddubsw", "generic": "xmm",
}  # fmt: skip


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of other CPUs")
@pytest.mark.parametrize("isa", MADE_OF)
def test_assembly_is_that_of_the_instruction_set(
    capsys: pytest.CaptureFixture[str], isa: str
) -> None:
    status, out, err = dump(capsys, "matvec", "Q4_K", "--isa", isa)
    assert (status, err) == (0, "")
    assert "\nmatvec_q4_k_1:\n" in out
    assert MADE_OF[isa] in out
    assert ("zmm" in out) == (isa in ("amx", "avx512vnni", "avx512"))


def test_what_a_kernel_is_made_for_is_given_in_order_or_by_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    outs = {
        dump(capsys, "matvec", *values, "--emit", "ir", "--isa", "avx2")[1]
        for values in (["q6_k", "4"], ["n_rows=4", "type=Q6_K"], ["Q6_K", "n_rows=4"])
    }
    (out,) = outs
    assert out.startswith("; matvec_q6_k_4 for avx2: -mtriple=x86_64-")
    assert 'define void @"matvec_q6_k_4"' in out


def test_optimised_ir_is_what_llvm_makes_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = dump(capsys, "add", "--emit", "opt")
    assert "define void @add(" in out


def test_help_lists_kernels_and_types(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = dump(capsys, "--help")
    assert status == 0
    assert "\n  matvec TYPE n_rows=1\n" in out
    assert "Q4_K, Q5_K" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: KERNEL"),
        (["matvek", "Q4_K"], "kernel 'matvek' is unknown; known: add, "),
        (["matvec"], "matvec needs a type: F32, "),
        (["matvec", "Q9_K"], "type 'Q9_K' is unknown; known: F32, "),
        (["matvec", "F16"], "type is F16, whose weights are not packed; see float"),
        (["matvec", "Q4_K", "9"], "n_rows: '9' is not a whole number from 1 to 8"),
        (["matvec", "Q4_K", "1", "2"], "'2' has no place; usage: matvec TYPE n_rows=1"),
        (["matvec", "Q4_K", "rows=2"], "'rows=2' has no place"),
        (["matvec", "Q4_K", "type=Q5_K"], "'type=Q5_K' has no place"),
        (["attend", "q4_0"], "key_type is 'q4_0'; it must be one of f16, f32, q8_0"),
        (["rope", "yes"], "adjacent is 'yes'; it must be one of true, false"),
        (["expertmatmul", "Q4_K", "gemm=matvec"], "gemm is 'matvec'; it must be one of matmul, "),
        (["topexperts", "tanh"], "scores is 'tanh'; it must be one of softmax, sigmoid"),
        (["add", "--isa", "abacus"], "argument --isa: invalid choice: 'abacus'"),
    ],
)
def test_bad_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    status, out, err = dump(capsys, *argv)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
