"""The arithmetic of the scripts that compare, and that they run what they say."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import check_architectures
import compare_exactness
import compare_llamacpp
import compare_perplexity
import compare_samplers
import compare_seed
import compare_tokenizers
import comparing
import numpy as np
import pytest
from compare_exactness import Exactness
from comparing import Comparison, medians, number, rate, seconds_to_output, table, take_turns
from linnet_engine import TOKEN, Engine
from support.systems import needs_linux

from linnet.engine.open_model import DEMO_MODEL
from linnet.kernels.compiler.jit import Library
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.kernels.runtime.packed import PackedMatrix

FOLDER = Path(comparing.__file__).parent


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return len(order)

    figures = take_turns({"a": lambda: measure("a"), "b": lambda: measure("b")}, 2)
    assert order == ["a", "b"] * 3
    assert figures == {"a": [3, 5], "b": [4, 6]}


def test_medians_are_not_moved_by_one_bad_round() -> None:
    assert medians({"a": [1.0, 2.0, 90.0], "b": [4.0, 2.0]}) == {"a": 2.0, "b": 3.0}


def test_the_first_is_held_against_the_best_of_the_others() -> None:
    figures = {"ours": [6.0, 6.0, 1.0], "slow": [2.0, 2.0, 9.0], "fast": [3.0, 4.0, 4.0]}
    assert Comparison("t", "tok/s", figures).ratio == 6 / 4
    assert Comparison("t", "s", figures, less_is_better=True).ratio == 2 / 6


def test_a_row_tells_medians_spreads_and_the_ratio() -> None:
    row = Comparison("decode", "tok/s", {"ours": [1234.5, 30.0, 45.0], "theirs": [9.0]}).row()
    assert row == ["decode, tok/s", "45.0 (30.0 to 1,234)", "9.00 (9.00 to 9.00)", "5.00"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, "0.12"), (9.994, "9.99"), (45.678, "45.7"), (2345.6, "2,346")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_tables_are_markdown() -> None:
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"


def test_shares_are_of_medians() -> None:
    changed, usual = {"a": [1.0, 2.0, 3.0], "b": [3.0]}, {"a": [8.0], "b": [1.0, 2.0, 3.0]}
    assert compare_llamacpp.shares_of(changed, usual) == {"a": 0.25, "b": 1.5}


def test_rates_count_the_steps_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    now, taken = [0.0], []

    def step(i: int) -> None:
        taken.append(i)
        now[0] += 1.0

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert rate(step, 2) == 1.0
    assert rate(lambda i: step(i) or step(i), 100) == 0.5
    assert taken == [0, 1, 0, 0, 1, 1]  # the second ended early, with more than MOST_SECONDS gone


def test_output_is_waited_for_and_failures_are_told() -> None:
    print_late = "import time; print('ab', end='', flush=True); time.sleep(0.2); print('c')"
    python = [sys.executable, "-c"]
    assert seconds_to_output([*python, print_late], 3) > 0.2
    with pytest.raises(RuntimeError, match="wrong"):
        seconds_to_output([*python, "import sys; sys.exit('wrong')"], 1)
    with pytest.raises(RuntimeError, match="print"):
        seconds_to_output([*python, "print('a')"], 99)


@needs_linux
def test_the_neighbour_is_busy_on_one_core_and_leaves() -> None:
    with comparing.busy_neighbour() as pid:
        assert os.sched_getaffinity(pid) == {max(os.sched_getaffinity(0))}
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_engines_that_never_rest_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    comparing.wait_until_idle()
    used = iter(range(1000))
    monkeypatch.setattr(time, "process_time", lambda: next(used))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(RuntimeError, match="go on using the CPU"):
        comparing.wait_until_idle()


def test_linnet_is_driven_as_each_test_says() -> None:
    engine = Engine(str(DEMO_MODEL), n_threads=1, n_ctx=64)
    assert engine.prefill(40) > 0
    assert engine._session.ids == [TOKEN] * 40
    assert engine.decode(3, depth=50) > 0
    assert engine._session.ids == [TOKEN] * 53
    engine.use_threads(2)
    assert engine.decode(2) > 0
    assert engine._session.ids == [TOKEN] * 3
    assert engine._session.runner.team.n_threads == 2
    assert engine.batch(4, 3) > 0


def test_starting_linnet_prints_a_token() -> None:
    command = compare_llamacpp.start_command("linnet", str(DEMO_MODEL), 1)
    assert seconds_to_output(command, len(compare_llamacpp.PROMPT) + 1) > 0


def test_a_context_is_as_long_as_the_tests_need() -> None:
    numbers = {"n_gen": 32, "n_prompt": 512, "depth": 8192}
    few = argparse.Namespace(tests=["decode"], **numbers)
    assert compare_llamacpp.context_for(few) == 544
    assert compare_llamacpp.context_for(argparse.Namespace(tests=["depth"], **numbers)) == 8224


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_a_script_finds_what_it_imports(name: str) -> None:
    """But for packages that are not linnet's, which may be absent."""
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "linnet":
            raise
        pytest.skip(f"{error.name} is not installed")


SCRIPTS: dict[ModuleType, list[str]] = {
    compare_llamacpp: [str(DEMO_MODEL)],
    compare_perplexity: [str(DEMO_MODEL), "-f", __file__, "--types", "Q8_0"],
    compare_exactness: [str(DEMO_MODEL)],
    check_architectures: ["llama"],
    compare_tokenizers: [str(DEMO_MODEL)],
    compare_samplers: [],
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_without_llamacpp_the_error_says_what_to_install(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once; and --help needs none."""
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    for arguments, status in (SCRIPTS[script], 2), (["--help"], 0):
        monkeypatch.setattr(sys, "argv", [script.__name__, *arguments])
        with pytest.raises(SystemExit) as ended:
            script.main()
        assert ended.value.code == status
        out, err = capsys.readouterr()
        if status:
            assert (out, err) == ("", "needs `pip install llama-cpp-python`, which compiles\n")


def test_a_broken_llamacpp_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llama_cpp.py").write_text("import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        comparing.require_llamacpp()


def test_every_way_to_multiply_gives_the_same_product(best_library: Library) -> None:
    """What the seed comparison times is one product, computed in different ways."""
    rng = np.random.default_rng(0)
    type = WEIGHT_TYPES["Q4_K"]
    packed = type.quantize(rng.standard_normal((128, 256)).astype(np.float32))
    matrix = PackedMatrix(type, packed, library=best_library)
    x, out = rng.standard_normal((5, 256)).astype(np.float32), np.zeros((5, 128), np.float32)
    dense = np.zeros((128, 256), np.float32)
    expected = matrix.matmul(x)
    kernel, ours, theirs = compare_seed.dequantisers(matrix, dense).values()
    calls = compare_seed.dequantise_and_multiply(kernel, x, dense, out).values()
    assert calls
    for call in calls:
        dense[...] = out[...] = 0
        call()
        assert np.allclose(out, expected, atol=0.05 * expected.std())
    assert np.array_equal(ours(), dense)
    assert np.array_equal(theirs(), dense)


def test_the_seed_comparison_times_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def a_quarter_of_a_millisecond() -> None:
        now[0] += 2**-12

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert compare_seed.seconds_for(a_quarter_of_a_millisecond) == 2**-12


def test_the_seed_comparison_counts_what_a_call_holds() -> None:
    assert compare_seed.allocated(lambda: bytearray(100_000)) >= 100_000
    assert compare_seed.allocated(lambda: None) < 1000


def test_an_unpacked_model_predicts_what_the_packed_one_does(tmp_path: Path) -> None:
    path = compare_perplexity.unpacked(DEMO_MODEL, tmp_path / "unpacked.gguf")
    text = "def read(path):\n    return open(path).read()\n" * 4
    cut = compare_perplexity.cut_text(DEMO_MODEL, text, 16, 3)
    packed, whole = (
        compare_perplexity.by_linnet(file, cut, n_ctx=16, n_threads=1, activations="f32").mean
        for file in (DEMO_MODEL, path)
    )
    assert len(cut) == 3
    assert path.stat().st_size > 27_000_000
    assert packed == pytest.approx(whole, rel=1e-5)


def exactness(logits: list[list[float]], truth: list[list[float]]) -> Exactness:
    result = Exactness()
    result.add(np.float32(logits), np.float32(truth))
    return result


def test_exactness_is_nmse_same_top_and_divergence() -> None:
    even, odds = math.log(2), [math.log(3), 0.0]  # p = (1/2, 1/2), (3/4, 1/4)
    result = exactness([[even, even], [9.0, 9.0 + math.log(3)]], [odds, odds])
    squares = 2 * math.log(3) ** 2
    error = (even - math.log(3)) ** 2 + even**2 + (9 - math.log(3)) ** 2 + (9 + math.log(3)) ** 2
    assert result.nmse == pytest.approx(error / squares)
    assert result.same_top == 0.5  # of two equally likely, the first
    divergences = [0.75 * math.log(1.5) + 0.25 * math.log(0.5), 0.5 * math.log(3)]
    assert result.kl == pytest.approx(sum(divergences) / 2)


def test_exactness_adds_up_over_rows_and_parts() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((compare_exactness.AT_ONCE + 5, 9)).astype(np.float32)
    logits = truth + rng.standard_normal(truth.shape).astype(np.float32)
    whole, parts = Exactness(), Exactness()
    whole.add(logits, truth)
    for part in (slice(3), slice(3, None)):
        parts.add(logits[part], truth[part])
    for name in ("nmse", "same_top", "kl"):
        assert getattr(whole, name) == pytest.approx(getattr(parts, name))
    assert whole.n_rows == len(truth)
    same = Exactness()
    same.add(truth, truth)
    assert (same.nmse, same.same_top, same.kl) == (0, 1, 0)


def test_more_exact_is_below_all_others_in_error_and_in_divergence() -> None:
    near, far = exactness([[0.0, 1.1]], [[0.0, 1.0]]), exactness([[0.0, 1.2]], [[0.0, 1.0]])
    shifted = exactness([[2.0, 3.0]], [[0.0, 1.0]])  # far, and yet the same predictions
    more_exact = compare_exactness.is_more_exact
    assert more_exact(near, far)
    assert not more_exact(far, near)
    assert not more_exact(near, far, near)
    assert not more_exact(near, shifted)
    assert not more_exact(shifted, near)


def test_the_check_fails_where_llamacpp_is_the_more_exact(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In llama.cpp's place: the truth, times a factor."""
    cut = compare_perplexity.cut_text(DEMO_MODEL, Path(__file__).read_text(), 16, 2)
    how = {"n_ctx": 16, "n_threads": 1}
    truth = np.array(list(compare_exactness.by_linnet(DEMO_MODEL, cut, activations="f32", **how)))
    monkeypatch.setitem(sys.modules, "llama_cpp", ModuleType("llama_cpp"))
    arguments = ["", str(DEMO_MODEL), "-f", __file__, "-c", "16", "--chunks", "2", "-t", "1"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--check"])
    for factors, status in ([1.5, 1.4, 1.0], None), ([1.5, 1.0, 1.0], 1):
        each = iter(factors)
        fake = SimpleNamespace(logits=lambda *_, **__: iter(truth * np.float32(next(each))))  # noqa: B023
        monkeypatch.setitem(sys.modules, "llamacpp_logits", fake)
        if status:
            with pytest.raises(SystemExit) as ended:
                compare_exactness.main()
            assert ended.value.code == status
        else:
            compare_exactness.main()
        rows = capsys.readouterr().out.splitlines()
        assert len(rows) == 7
        assert rows[3].split(" | ")[1:3] == ["0.25", "100.00%"]
