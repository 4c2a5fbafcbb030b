"""`linnet bench`: its arithmetic, its formats and its errors; never how fast anything is."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import shutil
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.kernel_harness import run as run_op
from support.model_runner import BOTH
from support.systems import needs_links
from support.tiny_architectures import N_EXPERTS, N_KV, N_USED
from support.tiny_architectures import TINY as ARCHITECTURES
from support.tiny_llama import TinyLlama

import linnet
from linnet import LLM
from linnet.engine.cli import main as cli
from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.measure.bench import layers as layers_module
from linnet.engine.measure.bench import measure as measure_module
from linnet.engine.measure.bench import ops as ops_module
from linnet.engine.measure.bench import plot, report, tables
from linnet.engine.measure.bench.build import build
from linnet.engine.measure.bench.layers import OUTSIDE, group_of, layers, timeline
from linnet.engine.measure.bench.measure import (
    BenchModel,
    BenchTest,
    all_tests,
    measure,
    statistics_of,
)
from linnet.engine.measure.bench.spread import spread
from linnet.engine.measure.bench.workload import Workload
from linnet.engine.measure.roofline import peak_rate, weights_read
from linnet.kernels.compiler.jit import Library
from linnet.kernels.isa import ISA, ISAS
from linnet.kernels.isa.generic import Generic
from linnet.kernels.ops import peak
from linnet.kernels.ops.peak import PeakDot, PeakFMA, PeakTiles
from linnet.kernels.ops.work import Work
from linnet.kernels.products.linear import FloatLinear, Linear
from linnet.kernels.quants.q4_k import Q4_K
from linnet.kernels.runtime.probe import Entries, Probed
from linnet.kernels.runtime.team import Team
from linnet.models import load_model
from linnet.models.parts.numerics import Numerics

TINY = TinyLlama(type="Q8_0", n_layers=2, n_ctx=64)
EXPERTS = ARCHITECTURES["qwen3moe"]
KV_BYTES = 2 * 2 * 2 * 64 * 2  # of a position: layers, keys and values, KV heads, head, f16
LLAMA_BENCH = {
    "build_commit", "build_number", "cpu_info", "gpu_info", "backends", "model_filename",
    "model_type", "model_size", "model_n_params", "n_batch", "n_ubatch", "n_threads", "cpu_mask",
    "cpu_strict", "poll", "type_k", "type_v", "n_gpu_layers", "n_cpu_moe", "split_mode", "main_gpu",
    "no_kv_offload", "flash_attn", "devices", "tensor_split", "tensor_buft_overrides", "use_mmap",
    "use_direct_io", "load_mode", "embeddings", "no_op_offload", "no_host", "repack", "fit_target",
    "fit_min_ctx", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts",
    "stddev_ts",
}  # fmt: skip
SAMPLES = {"samples_ns", "samples_ts"}
OURS = {
    "version", "isa", "synthetic", "n_parallel", "test", "gb_s", "read_gb_s", "roofline", "load_s",
    "compile_s", "first_token_s",
}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(TINY.write(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture
def workload_of(path: str, best_library: Library) -> Iterator[Callable[..., Workload]]:
    """Makes workloads of the tiny model, and closes them."""
    made: list[Workload] = []
    file = GGUFFile(path)

    def make(**options: Any) -> Workload:
        options = {"n_threads": 1, "n_ctx": 32, "n_batch": 8} | options
        made.append(Workload(load_model(file.metadata, file.tensors), best_library, **options))
        return made[-1]

    yield make
    for workload in made:
        workload.close()


def bench(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """Status, stdout, stderr of `linnet bench`."""
    capsys.readouterr()
    status = cli.main(["bench", *map(str, argv)])
    return status, *capsys.readouterr()


# ---- passes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_parallel", [1, 3])
def test_a_workload_computes_what_a_session_does(
    workload_of: Callable[..., Workload], path: str, n_parallel: int
) -> None:
    """Bit for bit, in each of its sequences: so it is the same work that is measured."""
    workload = workload_of(n_parallel=n_parallel, n_batch=8)
    prompt = [int(i) for i in [*workload.ids[:8], *workload.ids[:3]]]  # in passes of 8 and 3
    workload.prompt(11)
    with LLM(path, n_ctx=32, n_threads=1) as llm:
        session = llm.session()
        assert np.array_equal(workload.logits[0], session.prompt(prompt))
        workload.generate()
        for row in range(n_parallel):
            session.prompt(prompt)
            assert np.array_equal(workload.logits[row], session.extend(int(workload.ids[row])))
        session.close()


def test_depth_is_what_was_filled(workload_of: Callable[..., Workload]) -> None:
    workload = workload_of()
    workload.prompt(5)
    workload.generate()
    assert workload.n_filled == 6
    logits = np.array(workload.logits[0])
    workload.n_filled = 5  # what comes after is overwritten
    workload.generate()
    assert np.array_equal(workload.logits[0], logits)


@pytest.mark.parametrize(
    ("options", "filled", "n_prompt", "n_gen", "passes", "positions"),
    [
        ({}, 0, 0, 1, 1, [1]),
        ({}, 5, 0, 3, 3, [6, 7, 8]),
        ({}, 0, 8, 0, 1, [8]),
        ({}, 2, 20, 1, 4, [10, 18, 22, 23]),  # prompts in passes of 8
        ({"n_parallel": 3}, 5, 0, 2, 2, [6] * 3 + [7] * 3),  # weights are read for all at once
        ({"n_parallel": 3}, 0, 8, 0, 3, [8] * 3),
    ],
)
def test_bytes_read(
    workload_of: Callable[..., Workload], options: dict[str, int], filled: int, n_prompt: int,
    n_gen: int, passes: int, positions: list[int],
) -> None:  # fmt: skip
    workload = workload_of(**options)
    workload.n_filled = filled
    tensors = TINY.tensors()
    output = tensors["output.weight"].data.nbytes
    matrices = [t for name, t in tensors.items() if name.startswith("blk") and len(t.shape) == 2]
    weights = sum(t.data.nbytes for t in matrices)
    without_logits = (-(-n_prompt // 8) - 1 if n_prompt else 0) * options.get("n_parallel", 1)
    expected = passes * weights + (passes - without_logits) * output + KV_BYTES * sum(positions)
    assert workload.bytes_read(n_prompt, n_gen) == expected


@pytest.fixture
def workload_of_experts(best_library: Library) -> Iterator[Callable[..., Workload]]:
    made: list[Workload] = []

    def make(n_parallel: int) -> Workload:
        model = load_model(EXPERTS.metadata(), EXPERTS.tensors())
        options = {"n_threads": 1, "n_ctx": 16, "n_batch": 8, "n_parallel": n_parallel}
        made.append(Workload(model, best_library, **options))
        return made[-1]

    yield make
    for workload in made:
        workload.close()


@pytest.mark.parametrize(
    ("n_parallel", "n_prompt", "n_gen", "experts", "positions"),
    [
        (1, 0, 2, [N_USED, N_USED], [1, 2]),
        (2, 0, 1, [2 * N_USED], [1, 1]),
        (3, 0, 1, [N_EXPERTS], [1, 1, 1]),  # there are no more
        (1, 9, 0, [N_EXPERTS, N_USED], [8, 9]),  # in passes of 8 and 1
    ],
)
def test_of_experts_as_many_are_read_as_the_tokens_of_a_pass_can_take(
    workload_of_experts: Callable[..., Workload], n_parallel: int, n_prompt: int, n_gen: int,
    experts: list[int], positions: list[int],
) -> None:  # fmt: skip
    workload = workload_of_experts(n_parallel)
    sizes = {
        name: tensor.data.nbytes
        for name, tensor in EXPERTS.tensors().items()
        if len(tensor.shape) > 1 and name != "token_embd.weight"
    }
    of_experts = sum(n for name, n in sizes.items() if "exps" in name) // N_EXPERTS
    others = sum(n for name, n in sizes.items() if "exps" not in name)
    weights = len(experts) * others + sum(experts) * of_experts
    weights -= sizes["output.weight"] * (n_prompt > 8)  # the first of two passes has no logits
    cached = 2 * EXPERTS.n_layers * N_KV * 2 * sum(positions)
    assert workload.bytes_read(n_prompt, n_gen) == weights + cached
    assert sum(array.nbytes for array in weights_read(workload.runner.program)) == (
        others + N_USED * of_experts
    )


def test_too_long_a_context_is_an_error_before_any_work(
    workload_of: Callable[..., Workload], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linnet.engine.running.runner.available_memory", lambda: KV_BYTES * 99)
    with pytest.raises(MemoryError, match=r"a cache of 100 tokens with passes of 8 needs .*\(-b\)"):
        workload_of(n_ctx=50, n_parallel=2)


# ---- arithmetic ----------------------------------------------------------------------------------


def test_statistics() -> None:
    row = statistics_of([10**9, 2 * 10**9], n_tokens=100, n_bytes=4 * 10**9, bandwidth=5e9)
    assert row["samples_ts"] == [100, 50]
    assert (row["avg_ns"], row["stddev_ns"]) == (15 * 10**8, round(statistics.stdev([1e9, 2e9])))
    assert row["avg_ts"] == 75
    assert row["stddev_ts"] == pytest.approx(statistics.stdev([100, 50]))
    assert row["gb_s"] == pytest.approx(3)  # the mean of 4 and 2
    assert (row["read_gb_s"], row["roofline"]) == (5, pytest.approx(0.6))


def test_a_single_sample_has_no_deviation() -> None:
    row = statistics_of([10], n_tokens=1, n_bytes=1, bandwidth=1e9)
    assert (row["stddev_ns"], row["stddev_ts"]) == (0, 0)


def test_tests_are_named_and_ordered_as_llama_bench_does() -> None:
    tests = all_tests(
        prompts=[512, 0], gens=[128], both=[(512, 128)], depths=[0, 8192], batches=[512],
        threads=[1, 2], parallel=[1],
    )  # fmt: skip
    names = [(test.n_threads, test.name) for test in tests]
    kinds = ["pp512", "tg128", "pp512+tg128"]
    assert names == [
        (n, kind + depth) for n in (1, 2) for depth in ("", " @ d8192") for kind in kinds
    ]
    many = BenchTest(n_prompt=0, n_gen=128, n_parallel=4, n_depth=16)
    assert (many.name, many.n_tokens) == ("tg128 x4 @ d16", 512)


def test_a_row_is_consistent(path: str) -> None:
    test = BenchTest(n_prompt=6, n_gen=2, n_depth=3, n_parallel=2)
    ticks: list[None] = []
    row = measure(BenchModel(path), test, repetitions=3, tick=lambda: ticks.append(None))
    assert len(ticks) == 3
    assert row.keys() == LLAMA_BENCH | SAMPLES | OURS
    assert (row["synthetic"], row["use_mmap"], row["load_mode"]) == (False, True, "mmap")
    assert row["samples_ts"] == [1e9 * 16 / ns for ns in row["samples_ns"]]
    assert row["roofline"] == pytest.approx(row["gb_s"] / row["read_gb_s"])
    assert row["first_token_s"] > row["load_s"] > 0
    tensors = TINY.tensors().values()
    assert row["model_size"] == sum(tensor.data.nbytes for tensor in tensors)
    assert row["model_n_params"] == sum(int(np.prod(tensor.shape)) for tensor in tensors)
    assert row["model_type"].endswith(" Q8_0")


def test_work_of_steps(workload_of: Callable[..., Workload]) -> None:
    workload = workload_of()
    workload.n_filled = 4
    workload.runner.fill(workload.prompt_batch(4, 3, n_outputs=0))
    done = {step.name: workload.runner.program.work(step) for step in workload.runner.program.steps}
    weights = TINY.tensors()["blk.0.ffn_up.weight"].data.nbytes
    assert done["blk.0.ffn_up.weight"] == Work(2 * 3 * 512 * 256, weights)
    # Tokens at positions 4, 5 and 6 see 5, 6 and 7; the last one's keys and values are read.
    assert done["attend"] == Work(4 * (5 + 6 + 7) * 256, 7 * KV_BYTES // 2)
    assert done["add"] == Work(3 * 256, 3 * 3 * 256 * 4)
    assert done["output.weight"] == Work(0, 0)  # no logits are wanted


@pytest.mark.parametrize(("n_rows", "n_read"), [(1, N_USED), (3, N_EXPERTS)])
def test_work_of_experts(
    workload_of_experts: Callable[..., Workload], n_rows: int, n_read: int
) -> None:
    workload = workload_of_experts(1)
    workload.runner.fill(workload.prompt_batch(0, n_rows, n_outputs=1))
    (step,) = (
        step for step in workload.runner.program.steps if step.name == "blk.0.ffn_up_exps.weight"
    )
    weights = EXPERTS.tensors()[step.name]
    n_bytes = weights.data.nbytes // N_EXPERTS * n_read
    n_of_one = weights.shape[1] * weights.shape[2]
    assert workload.runner.program.work(step) == Work(2 * n_rows * N_USED * n_of_one, n_bytes)


# ---- the probes ----------------------------------------------------------------------------------


def entries(*rows: tuple[int, int, int, int]) -> Entries:
    """From (step, begin, end, thread)."""
    table = np.array(sorted(rows, key=lambda row: row[1]), np.int64)
    return Entries(*table.T)


def test_waiting_is_for_the_step_that_others_work_on() -> None:
    line = timeline(
        entries(
            (0, 100, 110, 7),  # the other thread waits 10 for step 0,
            (1, 112, 120, 7), (1, 114, 118, 8),  # both 2 for step 1 to begin, one 2 more and 2 at
            (3, 118, 126, 8), (3, 121, 125, 7),  # its end: no barrier between 1 and 3
        ),
        n_steps=4,
    )  # fmt: skip
    assert line.total == 26
    assert list(line.worked) == [5, 6, 0, 6]
    # step 1: 2 + 2 (both), 2 (thread 8); step 3: 1 (thread 7, 120 to 121), 1 (thread 7, at the end)
    assert list(line.waited) == [5, 3, 0, 1]
    assert line.worked.sum() + line.waited.sum() == line.total


def test_the_earliest_step_is_waited_for() -> None:
    """Thread 9 has nothing to do until step 2, while 7 works on step 0 and 8 goes on to step 1."""
    line = timeline(
        entries((0, 0, 20, 7), (0, 0, 10, 8), (1, 12, 18, 8), (2, 20, 23, 9)), n_steps=3
    )
    assert list(line.waited * 3) == [20 + 2 + 2, 0, 3 + 3]  # threads 9 and 8; then 7 and 8


def test_a_probed_program_computes_the_same(workload_of: Callable[..., Workload]) -> None:
    workload = workload_of(n_threads=2)
    workload.prompt(9)
    workload.generate()
    expected = np.array(workload.logits[0])
    workload.n_filled = 9
    batch = workload.token_batch()
    workload.runner.fill(batch)
    probed = Probed(workload.runner.lowered(batch), workload.runner.library)
    workload.runner.team.run(probed.lowered)
    assert np.array_equal(workload.logits[0], expected)
    found = probed.take()
    assert set(found.step) == set(range(len(workload.runner.program.steps)))
    assert (found.begin <= found.end).all()
    assert len(set(found.thread)) <= 2
    assert len(probed.take().step) == 0


def test_a_log_that_is_too_small_is_told(workload_of: Callable[..., Workload]) -> None:
    workload = workload_of()
    batch = workload.token_batch()
    workload.runner.fill(batch)
    probed = Probed(workload.runner.lowered(batch), workload.runner.library, capacity=4)
    workload.runner.team.run(probed.lowered)
    with pytest.raises(RuntimeError, match="the log holds 4"):
        probed.take()


@pytest.mark.parametrize("op", [PeakDot(15), PeakDot(255), PeakFMA(), PeakTiles()], ids=str)
def test_the_compute_probe_leaves_nothing_out(op: Any, library: Library) -> None:
    """All its products are in its sums."""
    if isinstance(op, PeakTiles) and library.isa.tiles is None:
        pytest.skip("the instruction set has no tiles")
    rng, n_items, lanes = np.random.default_rng(0), 3, library.isa.lanes
    n = op.n_data(library.isa)
    if isinstance(op, PeakFMA):
        data, kind = rng.integers(-3, 4, n // 4).astype(np.float32), np.float32
    elif isinstance(op, PeakTiles):
        numbers = rng.integers(-3, 4, n // 2).astype(np.float32)
        data, kind = (numbers.view(np.uint32) >> 16).astype(np.uint16).view(np.int8), np.float32
    else:
        data, kind = rng.integers(-127, 128, n).astype(np.int8), np.int32
    out, expected = (np.zeros(n_items * lanes, kind) for _ in range(2))
    run_op(library, op, data=data, out=out, n_items=n_items)
    op.reference(data=data, out=expected, n_items=n_items)
    assert np.array_equal(out, expected)
    assert expected.any()


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
def test_the_compute_probe_fits_the_registers(isa: ISA) -> None:
    n_factors = PeakFMA().n_factors(isa)
    n_sums = PeakFMA().operations(isa) // (2 * isa.lanes * peak.ROUNDS)
    assert 9 <= n_sums <= 12
    assert n_sums + n_factors <= isa.registers


def test_an_instruction_set_of_another_width_has_a_compute_probe() -> None:
    class Wide(Generic):
        bits, registers = 1024, 12

    assert PeakFMA().n_data(Wide()) == (3 + 2) * 128
    sums = PeakFMA().ir(Wide()).count("fadd <32 x float>")
    assert sums == 3 * 2 + 5  # in a round, and to have one in the end


def test_products_name_the_instruction_they_are_made_of() -> None:
    for isa in ISAS:
        dot = "int8 dot" if isa.tiles is None else "bf16 tiles"
        for n_rows, name in ((1, "int8 dot"), (None, dot)):
            assert Linear(Q4_K()).lowered(n_rows, isa).peak.name == name
            assert FloatLinear(Q4_K()).lowered(n_rows, isa).peak.name == "f32 FMA"


def test_where_llvm_would_leave_work_out_there_is_no_peak(
    monkeypatch: pytest.MonkeyPatch, best_library: Library
) -> None:
    monkeypatch.setenv("LINNET_CACHE", "0")
    team = Team(best_library, 1)
    try:
        assert peak_rate(team, Library(best_library.isa), PeakFMA())
        monkeypatch.setattr(type(best_library.isa.family), "vector_register", "")
        assert peak_rate(team, Library(best_library.isa), PeakFMA()) is None
    finally:
        team.close()


def test_layers(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_module, "LEAST_SECONDS", 0.0)
    with LLM(path) as llm:
        steps = llm.session().runner.program.steps
    for test, name in (
        (BenchTest(n_prompt=9, n_gen=0, n_batch=8), "pp8"),
        (BenchTest(n_prompt=0, n_gen=5, n_depth=3, n_parallel=2), "tg1 x2 @ d3"),
    ):
        rows = layers(BenchModel(path), test, repetitions=3)
        assert {row["test"] for row in rows} == {name}
        assert sorted(rows, key=lambda row: -row["us"]) == rows
        assert sum(row["calls"] for row in rows if row["step"] != OUTSIDE) == len(steps)
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        assert all(row["wait_us"] <= row["us"] + 1e-9 for row in rows)
        (ffn_up,) = (row for row in rows if row["step"] == "ffn_up")
        assert ffn_up["gb_s"] == pytest.approx(ffn_up["n_bytes"] / ffn_up["us"] / 1e3)


def test_layers_take_prompts_and_generation_one_by_one(path: str) -> None:
    with pytest.raises(ValueError, match="pp4\\+tg2: --layers takes"):
        layers(BenchModel(path), BenchTest(n_prompt=4, n_gen=2))


def test_steps_of_all_layers_are_one_group() -> None:
    assert group_of("blk.13.attn_q.weight") == "attn_q"
    assert group_of("output.weight") == "output"
    assert group_of("norm") == "norm"


# ---- kernels -------------------------------------------------------------------------------------


@pytest.fixture
def small_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows as ever, of small matrices and short caches."""
    for name, value in {
        "N_EMBD": 256, "N_FF": 256, "N_HEADS": 4, "N_KV_HEADS": 2, "DEPTH": 16, "MANY": 16,
        "LEAST_SECONDS": 0.0, "cache_size": lambda level: 1 << 16,
    }.items():  # fmt: skip
        monkeypatch.setattr(ops_module, name, value)


@pytest.mark.usefixtures("small_kernels")
@BOTH
def test_ops(numerics: Numerics) -> None:
    rows = list(ops_module.ops(["Q8_0"], numerics=numerics, repetitions=1))
    assert [(row["n_rows"], row["from"]) for row in rows] == [
        *((n, "memory") for n in (1, 2, 4, 8, 16)),
        *((n, "cache") for n in (1, 2, 4, 8)),
    ]
    for row in rows:
        n_out = int(row["shape"].split(" x ")[0])
        assert row["n_bytes"] == n_out * 272
        assert row["n_operations"] == 2 * n_out * 256 * row["n_rows"]
        assert row["gb_s"] == pytest.approx(row["n_bytes"] / row["us"] / 1e3)
        limits = row["gb_s"] / row["read_gb_s"], row["gflop_s"] / row["peak_gflop_s"]
        assert row["of_peak"] == pytest.approx(limits[1])
        assert row["roofline"] == pytest.approx(max(limits))
    assert int(rows[-1]["shape"].split(" x ")[0]) * 272 <= 1 << 15  # half the cache


@pytest.mark.usefixtures("small_kernels")
def test_ops_of_shapes_that_are_asked_for() -> None:
    """From cache where they fit into half of it, which has 64 KiB here."""
    rows = list(ops_module.ops(["Q8_0", "F32"], shapes=[(96, 64), (7, 4096)], repetitions=1))
    found = {(row["type"], row["shape"], row["from"]) for row in rows}
    assert found == {
        (type, shape, source)
        for type in ("Q8_0", "F32")
        for shape in ("96 x 64", "7 x 4096")
        for source in ("memory", "cache")
        if (type, shape, source) != ("F32", "7 x 4096", "cache")
    }
    for row in rows:
        n_out, n_columns = map(int, row["shape"].split(" x "))
        assert row["n_operations"] == 2 * n_out * n_columns * row["n_rows"]


@pytest.mark.usefixtures("small_kernels")
def test_ops_without_a_peak_have_no_roofline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops_module, "peak_rate", lambda *_: None)
    for row in ops_module.ops(["Q8_0"], repetitions=1):
        assert row["read_gb_s"] > 0
        assert (row["peak_gflop_s"], row["of_peak"], row["roofline"]) == (None, None, None)


@pytest.mark.usefixtures("small_kernels")
def test_the_other_kernels() -> None:
    rows = list(ops_module.ops(ops_module.OTHERS, repetitions=1))
    assert {(row["op"], row["n_rows"]) for row in rows} == {
        (op, n) for op in ops_module.OTHERS for n in (1, 2, 4, 8, 16)
    }
    assert all(row["us"] > 0 for row in rows)


# ---- the command ---------------------------------------------------------------------------------

FAST = "-p", 4, "-n", 2, "-r", 2, "-t", 1


def test_json(capsys: pytest.CaptureFixture[str], path: str) -> None:
    status, out, err = bench(capsys, "-m", path, *FAST, "-pg", "4,2", "-npl", "1,2", "-o", "json")
    assert (status, err) == (0, "")
    rows = json.loads(out)
    names = ["pp4", "tg2", "pp4+tg2", "pp4 x2", "tg2 x2", "pp4+tg2 x2"]
    assert [row["test"] for row in rows] == names
    assert all(row.keys() >= LLAMA_BENCH | SAMPLES | OURS for row in rows)
    assert all(len(row["samples_ns"]) == 2 for row in rows)


def test_json_lines(capsys: pytest.CaptureFixture[str], path: str) -> None:
    _, out, _ = bench(capsys, "-m", path, *FAST, "-o", "jsonl")
    assert [json.loads(line)["n_prompt"] for line in out.splitlines()] == [4, 0]


def test_csv(capsys: pytest.CaptureFixture[str], path: str) -> None:
    _, out, _ = bench(capsys, "-m", path, *FAST, "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["n_gen"] for row in rows] == ["0", "2"]
    assert rows[0].keys() == LLAMA_BENCH | OURS
    assert (rows[0]["use_mmap"], rows[0]["synthetic"], rows[0]["poll"]) == ("1", "0", "")


@needs_links
def test_sql_is_what_a_database_takes_and_stderr_may_have_another_format(
    capsys: pytest.CaptureFixture[str], path: str, tmp_path: Path
) -> None:
    model = tmp_path / "it's, tiny.gguf"  # with a comma of its own, which no list has
    model.symlink_to(path)
    status, out, err = bench(capsys, "-m", model, *FAST, "-o", "sql", "-oe", "jsonl")
    assert status == 0
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.executescript(out)
        database.row_factory = sqlite3.Row
        found = [dict(row) for row in database.execute("SELECT * FROM llama_bench")]
    expected = [json.loads(line) for line in err.splitlines()]
    assert [row["model_filename"] for row in found] == [str(model)] * 2
    for row in expected:
        for samples in SAMPLES:
            del row[samples]
    assert found == expected


def test_markdown(capsys: pytest.CaptureFixture[str], path: str) -> None:
    status, out, err = bench(capsys, "-m", path, *FAST, "-d", "0-4+4")
    assert (status, err) == (0, "")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()[:6]]
    assert lines[0] == ["model", "size", "threads", "test", "t/s", "GB/s", "roofline"]
    assert len({len(line) for line in out.splitlines()[:6]}) == 1  # columns are straight
    assert max(map(len, out.splitlines()[:-1])) <= 100
    assert [line[3] for line in lines[2:]] == ["pp4", "tg2", "pp4 @ d4", "tg2 @ d4"]
    assert all(float(line[4].split(" ± ")[0]) > 0 for line in lines[2:])
    assert out.splitlines()[-1].startswith(f"build: linnet {linnet.__version__}")


def test_several_models_in_one_flag(capsys: pytest.CaptureFixture[str], path: str) -> None:
    models = f"{path},{path}", "--synthetic", "llama-160m:Q4_0", "--n-layers", 1
    argv = *models, "-p", 1, "-n", 0, "-r", 1, "-t", 1
    status, out, err = bench(capsys, "-m", *argv, "--progress", "--delay", 0)
    assert status == 0
    names = [line.split("|")[1].strip() for line in out.splitlines()[2:5]]
    assert names[0] == names[1] != names[2]
    assert [name.endswith(" random") for name in names] == [False, False, True]
    assert [line.split(": ")[1] for line in err.splitlines()] == ["1/3", "2/3", "3/3"]


class Screen(io.StringIO):
    """stdout and stderr of a terminal, together."""

    def isatty(self) -> bool:
        return True


def test_rows_do_not_run_into_the_bar(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a terminal shows of a line is what follows its last carriage return."""
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    assert cli.main(["bench", "-m", path, *map(str, FAST), "-d", "0,4"]) == 0
    shown = [line.split("\r")[-1] for line in screen.getvalue().split("\n")]
    assert "pp4:" in screen.getvalue()  # there was a bar
    assert [line.startswith("| ") and line.endswith(" |") for line in shown[:6]] == [True] * 6
    assert not any("it/s" in line for line in shown)


def test_flags_come_again_and_several_passes_have_a_column(
    capsys: pytest.CaptureFixture[str], path: str
) -> None:
    argv = "-m", path, "-r", 1, "-t", 1, "-n", 0, "-p", 4, "--n-prompt", "5,6", "-b", 2, "-b", 3
    _, out, _ = bench(capsys, *argv)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()[:8]]
    at = lines[0].index("n_batch")
    found = {(line[at], line[at + 1]) for line in lines[2:8]}
    assert found == {(b, p) for b in "23" for p in ("pp4", "pp5", "pp6")}


def test_passes_have_no_more_tokens_than_a_batch_and_a_ubatch(
    capsys: pytest.CaptureFixture[str], path: str
) -> None:
    argv = "-m", path, "-r", 1, "-t", 1, "-n", 0, "-p", 4, "-o", "jsonl"
    for given, expected in (
        ("-b 3 -ub 2", [2]), ("-b 2,4 -ub 3,1", [2, 1, 3]), ("-ub 3", [3]), ("", [512]),
    ):  # fmt: skip
        _, out, _ = bench(capsys, *argv, *given.split())
        assert [json.loads(line)["n_ubatch"] for line in out.splitlines()] == expected


def test_the_shipped_model_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = bench(capsys, "-p", 0, "-n", 1, "-r", 1, "-t", 1, "-o", "json")
    assert Path(json.loads(out)[0]["model_filename"]).name == "demo-Q4_K_M.gguf"


def test_a_synthetic_model_may_have_fewer_layers(capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--synthetic", "llama-160m:Q4_0", "--n-layers", 2]
    status, out, _ = bench(capsys, *model, "-p", 1, "-n", 0, "-r", 1, "-t", 1, "-o", "json")
    assert status == 0
    per_layer = 4 * 768 * 768 + 3 * 768 * 3072 + 2 * 768
    (row,) = json.loads(out)
    assert row["model_n_params"] == 2 * 32000 * 768 + 768 + 2 * per_layer
    assert (row["synthetic"], row["use_mmap"], row["load_mode"]) == (True, False, "none")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-p", "x"], "argument -p/--n-prompt: 'x' is not a list of whole numbers from 0"),
        (["-p", "4-2"], "'4-2' is no range"),
        (["-p", "0-8*2"], "'0-8*2' is no range"),
        (["-n", "-1"], "argument -n/--n-gen"),
        (["-t", "0"], "'0' is not a whole number from 1 to 1024"),
        (["-r", "1_0"], "'1_0' is not a whole number from 1"),
        (["-r", "\u0663"], "is not a whole number from 1"),
        (["-p", "0-16777216"], "'0-16777216' are more than 10000 numbers"),
        (["-r", "0"], "argument -r/--repetitions: '0' is not a whole number from 1 to"),
        (["-npl", "513"], "'513' is not a whole number from 1 to 512"),
        (["-pg", "512"], "'512' is not two numbers"),
        (["-p", "0", "-n", "0"], "nothing to measure"),
        (["-m", "missing.gguf"], "'missing.gguf': No such file"),
        (["--synthetic", "llama-9b:Q4_K_M"], "model shape 'llama-9b' is unknown"),
        (["--n-layers", "2"], "--n-layers is for synthetic models"),
        (["--ops", "Q9_9"], "kernel 'Q9_9' is unknown; known: F32, "),
        (["--ops", "norm", "--layers"], "--ops measures kernels alone"),
        (["-pg", "4,2", "-p", "0", "-n", "0", "--layers"], "--layers takes prompts"),
        (["-o", "xml"], "argument -o/--output: invalid choice: 'xml'"),
        (["--delay", "-1"], "argument --delay: '-1' is not a number from 0 to 3600"),
        (["--shape", "4x32"], "--shape is for kernels: give --ops, too"),
        (["--ops", "--shape", "4096"], "argument --shape: '4096' is not MxK, as 4096x2048"),
        (["--ops", "--shape", "0x32"], "'0' is not a whole number from 1 to"),
        (["--ops", "norm", "--shape", "4x32"], "--shape is for products with weights, which norm"),
        (["--ops", "Q4_K", "--shape", "4x100"], "Q4_K: 100 columns are not a multiple of 256"),
        (["-t", "1,2", "--plot", "x.svg"], "--plot shows one model, on one number of threads"),
    ],
)
def test_bad_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    status, out, err = bench(capsys, *argv)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("linnet: ")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("small_kernels")
def test_ops_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = bench(capsys, "--ops", "norm,rope", "-t", "1", "-r", 1, "-o", "jsonl")
    assert {json.loads(line)["op"] for line in out.splitlines()} == {"norm", "rope"}


def test_layers_from_the_command_line(capsys: pytest.CaptureFixture[str], path: str) -> None:
    status, out, err = bench(capsys, "-m", path, *FAST, "--layers")
    assert status == 0
    table, _ = out.split("\n\n")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert {line[0] for line in lines[2:]} == {"pp4", "tg1"}
    assert [line[4] for line in lines if line[1] == "total"] == ["100.0%"] * 2
    assert max(map(len, out.splitlines())) <= 100
    assert "while watched" in err


def test_small_steps_are_one_row_and_all_have_a_sum() -> None:
    def row(step: str, us: float) -> dict[str, Any]:
        known = {
            "model_filename": "m",
            "test": "tg1",
            "n_threads": 1,
            "calls": 2,
            "wait_us": us / 2,
        }
        return known | {
            "step": step,
            "us": us,
            "share": us / 1000,
            "n_bytes": 8000,
            "n_operations": 0,
        }

    rows = [row("a", 990), row("b", 4), row("c", 3), row("d", 3)]
    first, others, total = tables.layers_in_short(rows)
    assert (first, others["step"], total["step"]) == (rows[0], "3 others", "total")
    assert (others["us"], others["calls"], others["wait_us"]) == (10, 6, 5)
    assert (total["us"], total["calls"], total["share"]) == (1000, 8, 1)
    assert (total["gb_s"], total["gflop_s"]) == (0.032, 0)
    (*_, b, _) = tables.layers_in_short([row("a", 996), row("b", 4)])
    assert b["step"] == "b"  # alone, it needs no other name


def test_figures_have_the_digits_that_matter() -> None:
    assert report.size(800_000_000) == "763 MiB"
    assert report.size(3 << 30) == "3.00 GiB"
    figures = (1234.5, 123.4, 12.34, 1.234, 0.1234, 0.01234, 0, None)
    shown = ["1234", "123", "12.3", "1.23", "0.123", "0.012", "0", ""]
    assert [report.number(n) for n in figures] == shown
    times = [report.duration(us) for us in (2e6, 399_948, 1000, 12.34, 0.25)]
    assert times == ["2.00 s", "400 ms", "1.00 ms", "12.3 us", "250 ns"]
    assert report.rate(17.123, 0.4) == "17.12 ± 0.40"
    assert report.rate(45507.6, 1234.5) == "45508 ± 1234"


def test_names_of_models_are_short_and_tell_random_weights() -> None:
    row = {"model_type": "llama 1.2B Q4_K - Medium", "synthetic": True}
    assert tables.model_name(row) == "llama 1.2B Q4_K_M random"
    assert tables.model_name(row | {"synthetic": False}) == "llama 1.2B Q4_K_M"


# ---- the build -----------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_checkout_has_a_commit_and_a_number(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert build(tmp_path) == {
        "version": linnet.__version__, "build_commit": "unknown", "build_number": 0,
    }  # fmt: skip
    build.cache_clear()
    git("init", "-q")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-qm", "one")
    found = build(tmp_path)
    assert git("rev-parse", "HEAD").startswith(found["build_commit"])
    assert found["build_number"] == 1
    build.cache_clear()
    (tmp_path / "file").write_text("b")
    assert build(tmp_path)["build_commit"] == f"{found['build_commit']}-dirty"
    build.cache_clear()


# ---- the picture ---------------------------------------------------------------------------------


def step(name: str, test: str, share: float) -> dict[str, Any]:
    return {"step": name, "test": test, "share": share}


def test_steps_that_take_some_time_have_a_number_which_is_the_same_in_all_passes() -> None:
    rows = [step("a", "pp", 0.5), step("b", "pp", 0.029), step("c", "pp", 0.03)]
    rows += [step("c", "tg", 0.9), step("b", "tg", 0.05)]
    found = [(number, row["test"], row["step"]) for number, row in plot.key_of(rows)]
    assert found == [(1, "pp", "a"), (2, "pp", "c"), (2, "tg", "c"), (3, "tg", "b")]


def test_what_memory_cannot_give_is_from_cache() -> None:
    row = {"n_bytes": 2000, "us": 1.0}  # 2 GB/s
    assert plot.is_from_cache(row, 1.9e9)
    assert not plot.is_from_cache(row, 2.1e9)


@pytest.mark.parametrize("gap", [0.0, 3.0, 30.0])
def test_labels_keep_off_points_lines_and_each_other(gap: float) -> None:
    """Many points on a heap, or in a row, beside a line."""
    points = [((100.0 + gap * i, 100.0), 7.0) for i in range(12)]
    line = [((float(x), 112.0), 1.0) for x in range(0, 400, 4)]
    radius = 6.0
    labels = spread(points, line, radius)
    taken = [*points, *line, *((label, radius) for label in labels)]
    for i, label in enumerate(labels):
        others = [other for j, other in enumerate(taken) if j != len(points) + len(line) + i]
        assert all(math.dist(label, at) >= radius + size - 1e-6 for at, size in others)
        assert math.dist(label, points[i][0]) < 100
    alone = spread(points[:1], [], radius)
    assert math.dist(alone[0], points[0][0]) == pytest.approx(7 + radius)


def test_without_matplotlib_the_error_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: str, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, out, err = bench(capsys, "-m", path, "--plot", tmp_path / "roof.svg")
    assert (status, out) == (2, "")
    assert err == 'linnet: --plot needs matplotlib: pip install "linnet-llm[plot]"\n'


def test_an_ending_that_matplotlib_does_not_know_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: str, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    measured: list[Any] = []
    monkeypatch.setattr("linnet.engine.cli.bench.layers", lambda *_, **__: measured.append(1))
    for name in ("roof.xyz", "roof", ".svg"):
        status, out, err = bench(capsys, "-m", path, "--plot", tmp_path / name)
        assert (status, out, measured) == (2, "", [])
        assert f"{name}'; it must end in one of" in err
        assert ".svg" in err


def test_a_folder_that_is_not_there_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, path: str, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("linnet.engine.cli.bench.layers", lambda *_, **__: pytest.fail("measured"))
    status, out, err = bench(capsys, "-m", path, "--plot", tmp_path / "none" / "roof.svg")
    assert (status, out) == (2, "")
    assert err == f"linnet: '{tmp_path}/none/roof.svg': No such file or directory\n"
    kept = tmp_path / "kept.svg"
    kept.write_text("a picture")
    for target in (kept, tmp_path / "new.svg"):  # asking leaves no trace
        plot.check_path(str(target))
    assert (kept.read_text(), list(tmp_path.iterdir())) == ("a picture", [kept])


def test_a_picture_shows_every_test(
    capsys: pytest.CaptureFixture[str], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    for share in ("LEAST_SHARE", "NUMBERED_SHARE"):
        monkeypatch.setattr(plot, share, 0.0)
    target = tmp_path / "roof.SVG"
    status, _, _ = bench(capsys, "-m", path, *FAST, "--plot", target)
    assert status == 0
    picture = target.read_text()
    assert "<svg" in picture
    for text in ("pp4", "tg1", "ffn_up", "int8 dot", "memory", "30% of the pass"):
        assert f"<!-- {text}" in picture


def test_a_picture_needs_no_peak(
    capsys: pytest.CaptureFixture[str], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(measure_module, "peak_rate", lambda *_: None)
    target = tmp_path / "roof.svg"
    status, _, _ = bench(capsys, "-m", path, *FAST, "--plot", target)
    assert status == 0
    assert "int8 dot" not in target.read_text()
