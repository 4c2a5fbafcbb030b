"""Tunings: where they are kept, that results never depend on them, and how one is chosen."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.kernel_harness import Array, by_name, random_weights, run, unwritten
from support.systems import is_private, needs_posix

from linnet.engine.cli import main as cli
from linnet.engine.cli import tune as command
from linnet.engine.measure import tune as measuring
from linnet.engine.measure.tune import Passes, Timer, choose, parameters, tune
from linnet.kernels.compiler import tunings
from linnet.kernels.compiler.host import available_isas, choose_isa
from linnet.kernels.compiler.jit import Library
from linnet.kernels.compiler.tunings import discard, store, stored, stored_path
from linnet.kernels.isa import ISA, ISAS
from linnet.kernels.isa.tuning import Tuning
from linnet.kernels.ops.base import Op
from linnet.kernels.products.activations import Quantize, packed_bytes
from linnet.kernels.products.linear import Linear
from linnet.kernels.products.matmul import FloatMatMul, MatMul
from linnet.kernels.products.matvec import FloatMatVec, MatVec
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.kernels.runtime.packed import PackedMatrix
from linnet.kernels.runtime.program import Program
from linnet.kernels.runtime.team import Team

FOUND = Tuning(prefetch_bytes=4608, tile=(4, 3), fewest_bytes=1 << 16, most_bytes=1 << 21)
BY_NAME = {isa.name: isa for isa in ISAS}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("LINNET_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


# ---- the numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ISAS, ids=by_name)
def test_defaults_and_candidates_are_valid(isa: ISA) -> None:
    assert isa.tuning == isa.defaults
    for name, values in measuring.VALUES.items():
        for value in values:
            wide = replace(isa.defaults, fewest_bytes=1 << 10, most_bytes=1 << 28)
            assert getattr(replace(wide, **{name: value}), name) == value
    for tokens, vectors in (isa.defaults.tile, *isa.tiles_to_try):
        assert replace(isa.defaults, tile=(tokens, vectors)).tile == (tokens, vectors)
        assert (2 * tokens + 1) * vectors < isa.registers


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"prefetch_bytes": -1}, ValueError, "prefetch_bytes is -1; .* 0 to 65536"),
        ({"prefetch_bytes": 65537}, ValueError, "prefetch_bytes is 65537"),
        ({"prefetch_bytes": True}, TypeError, "prefetch_bytes is True; it must be a whole"),
        ({"prefetch_bytes": 2304.0}, TypeError, "prefetch_bytes is 2304.0"),
        ({"fewest_bytes": 1023}, ValueError, "fewest_bytes is 1023"),
        ({"most_bytes": 1 << 29}, ValueError, "most_bytes is"),
        ({"fewest_bytes": 1 << 21}, ValueError, "at most most_bytes, 1048576"),
        ({"tile": (0, 1)}, ValueError, "tokens in a tile is 0; it must be within 1 to 16"),
        ({"tile": (17, 1)}, ValueError, "tokens in a tile is 17"),
        ({"tile": (1, 5)}, ValueError, "vectors in a tile is 5"),
        ({"tile": (1, None)}, TypeError, "vectors in a tile is None"),
        ({"tile": (1,)}, TypeError, r"tile is \(1,\); it must be \(tokens, vectors\)"),
        ({"tile": 4}, TypeError, "tile is 4"),
    ],
)
def test_what_is_out_of_bounds_is_refused(
    values: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Tuning(**values)


def test_byte_bounds_become_whole_items() -> None:
    bounds = Tuning(fewest_bytes=10_000, most_bytes=100_000)
    assert bounds.items_of(3000) == (3, 33)
    assert bounds.items_of(1 << 20) == (1, 1)


# ---- where they are kept -------------------------------------------------------------------------


def test_a_stored_tuning_is_that_of_its_instruction_set(folder: Path) -> None:
    first, *others = available_isas()
    assert stored(first.name) is None
    path = store(first.name, FOUND)
    assert path.parent == folder
    assert [*folder.iterdir()] == [path]
    assert stored(first.name) == FOUND
    chosen = choose_isa(first.name)
    assert (type(chosen), chosen.tuning) == (type(first), FOUND)
    assert first.tuning == first.defaults  # others in this process keep theirs
    for isa in others:
        assert choose_isa(isa.name) is isa
    assert discard(first.name) == path
    assert choose_isa(first.name) is first
    assert discard(first.name) is None


def test_what_is_stored_is_for_its_owner_alone_and_readable(folder: Path) -> None:
    path = store("generic", FOUND)
    assert is_private(path)
    assert is_private(folder)
    entry = json.loads(path.read_text())
    assert entry["tuning"] == {**asdict(FOUND), "tile": [4, 3]}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_ends_while_it_is_stored_leaves_what_was_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    path = store("generic", FOUND)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(error):
        store("generic", Tuning())
    assert [*folder.iterdir()] == [path]
    assert stored("generic") == FOUND


def test_without_a_cache_there_are_defaults(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store("generic", FOUND)
    monkeypatch.setenv("LINNET_CACHE", "0")
    assert stored("generic") is None
    assert discard("generic") is None
    with pytest.raises(ValueError, match=r"LINNET_CACHE=0: .* nowhere to keep"):
        store("generic", FOUND)
    monkeypatch.delenv("LINNET_CACHE")
    assert stored("generic") == FOUND


def test_another_cpu_has_a_tuning_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = store("generic", FOUND)
    monkeypatch.setattr(tunings, "cpu", lambda: "Another, features 1234")
    assert stored("generic") is None
    there = store("generic", Tuning())
    assert (stored("generic"), len(list(folder.iterdir()))) == (Tuning(), 2)
    there.write_bytes(here.read_bytes())  # a copy says whose it is
    assert stored("generic") is None


def test_a_tuning_says_of_which_instruction_set_it_is(folder: Path) -> None:
    path = stored_path("avx2")
    assert path is not None
    store("generic", FOUND).rename(path)
    assert stored("avx2") is None


def changed(**values: Any) -> Callable[[dict[str, Any]], str]:
    """The entry with some of its tuning replaced."""
    return lambda entry: json.dumps(entry | {"tuning": entry["tuning"] | values})


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: "",
        lambda entry: json.dumps(entry)[:-1],
        lambda entry: "\udcff",
        lambda entry: "[" * 4000,
        lambda entry: "[1]",
        lambda entry: "null",
        lambda entry: json.dumps({"isa": entry["isa"], "cpu": entry["cpu"]}),
        lambda entry: json.dumps(entry | {"tuning": []}),
        lambda entry: json.dumps(entry) + " " * 4096,
        changed(tile="43"),
        changed(tile=[4]),
        changed(tile=4),
        changed(tile=[4, 99]),
        changed(prefetch_bytes=1e3),
        changed(prefetch_bytes="2304"),
        changed(prefetch_bytes=1 << 40),
        changed(fewest_bytes=1 << 22),
        changed(surprise=1),
    ],
)
def test_a_malformed_file_counts_as_none(
    folder: Path, damage: Callable[[dict[str, Any]], str]
) -> None:
    path = store("generic", FOUND)
    text = damage(json.loads(path.read_text()))
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert stored("generic") is None
    store("generic", FOUND)
    assert stored("generic") == FOUND


@needs_posix
def test_a_file_that_others_may_write_counts_as_none(folder: Path) -> None:
    path = store("generic", FOUND)
    for mode in (0o620, 0o602):
        path.chmod(mode)
        assert stored("generic") is None
    path.chmod(0o644)
    assert stored("generic") == FOUND


@needs_posix
def test_what_is_no_file_counts_as_none(folder: Path) -> None:
    path = store("generic", FOUND)
    path.unlink()
    os.mkfifo(path, 0o600)
    assert stored("generic") is None  # and does not wait for a writer
    path.unlink()
    path.mkdir()
    assert stored("generic") is None


# ---- kernels -------------------------------------------------------------------------------------


def test_what_is_in_code_is_in_the_key_of_the_cache_and_nothing_else_is(
    folder: Path, best_library: Library
) -> None:
    def compiled(**values: Any) -> int:
        library = Library(best_library.isa.tuned(replace(Tuning(), **values)))
        library.address(MatVec(WEIGHT_TYPES["Q8_0"], 1))
        return library.n_compiled

    assert compiled() == 1
    assert compiled(fewest_bytes=1 << 12, most_bytes=1 << 24) == 0
    assert compiled(prefetch_bytes=0) == 1
    assert compiled(tile=(2, 2)) == 1
    assert compiled() == 0


def product_of(op: Op, library: Library, n_rows: int) -> Array:
    """A product with n_rows of 512 columns and 37 rows of weights, by one op."""
    type = op.type  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    weights = random_weights(type, 37, 512, rng)
    x: Array = rng.standard_normal((n_rows, 512)).astype(np.float32)
    if isinstance(op, MatVec | MatMul):
        packed = np.zeros((n_rows, packed_bytes(512)), np.uint8)
        Quantize().reference(x=x, out=packed, width=512)
        x = packed
    out = unwritten(n_rows, 37)
    run(library, op, n_rows, weights=weights, x=x, out=out, n_columns=512, n_out=37)
    return out


@pytest.mark.parametrize(
    "tuning", [Tuning(0, (1, 1)), Tuning(9216, (5, 3))], ids=["smallest", "larger"]
)
def test_results_never_depend_on_what_is_in_code(library: Library, tuning: Tuning) -> None:
    """Tiles that numbers of tokens and rows are no multiple of."""
    tuned = Library(library.isa.tuned(tuning))
    q4_k, q6_k = WEIGHT_TYPES["Q4_K"], WEIGHT_TYPES["Q6_K"]
    ops: list[tuple[Op, int]] = [
        (MatVec(q4_k, 1), 1),  # type: ignore[arg-type]
        (FloatMatVec(q6_k, 1), 1),
        (MatMul(q4_k), 13),  # type: ignore[arg-type]
        (MatMul(q6_k), 13),  # type: ignore[arg-type]
        (FloatMatMul(q6_k), 13),
    ]
    for op, n_rows in ops:
        expected, result = product_of(op, library, n_rows), product_of(op, tuned, n_rows)
        assert np.isfinite(expected).all()
        assert result.tobytes() == expected.tobytes(), op


def test_results_never_depend_on_how_much_a_thread_takes(best_library: Library) -> None:
    type, n_out = WEIGHT_TYPES["Q4_K"], 700
    rng = np.random.default_rng(0)
    weights = random_weights(type, n_out, 512, rng)
    x = rng.standard_normal((1, 512)).astype(np.float32)
    expected = PackedMatrix(type, weights, library=best_library).matmul(x)
    seen = set()
    for fewest, most in ((1 << 10, 1 << 10), (1 << 10, 1 << 28), (1 << 28, 1 << 28), (5000, 9000)):
        tuning = Tuning(fewest_bytes=fewest, most_bytes=most)
        library = Library(
            best_library.isa.tuned(replace(best_library.isa.tuning, **bounds(tuning)))
        )
        program = Program(max_tokens=1, max_outputs=1)
        columns = program.buffer("x", 512)
        packed = program.buffer("packed", packed_bytes(512), dtype=np.uint8)
        out = program.buffer("out", n_out)
        program.step("quantize", Quantize(), x=columns, out=packed, width=512)
        program.step(
            "product", Linear(type),  # type: ignore[arg-type]
            weights=weights, x=packed, out=out, n_columns=512, n_out=n_out,
        )  # fmt: skip
        program.lay_out(keep=[columns, out])
        columns.data[...] = x
        program.state[:] = 1
        lowered = program.lower(library, n_tokens=1)
        seen.add(lowered.records[["fewest", "most"]][1].item())
        team = Team(library, 3)
        team.run(lowered)
        team.close()
        assert out.data.tobytes() == expected.tobytes()
    row_bytes = weights.shape[1]
    assert seen == {
        (3, 3), (3, (1 << 28) // row_bytes), ((1 << 28) // row_bytes,) * 2,
        (5000 // row_bytes, 9000 // row_bytes),
    }  # fmt: skip


def bounds(tuning: Tuning) -> dict[str, int]:
    return {"fewest_bytes": tuning.fewest_bytes, "most_bytes": tuning.most_bytes}


# ---- choice --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ([[0.9, 1.0, 1.1], [0.9, 1.0, 1.1]], 2),
        ([[1.2, 1.0, 1.1], [1.2, 1.0, 1.1]], 0),
        ([[0.9, 1.0, 1.019]] * 5, 1),  # noise
        ([[0.9, 1.0, 1.021]] * 5, 2),
        ([[1.0, 1.0, 1.5]] * 5 + [[1.0, 1.0, 0.8]] * 4, 1),  # a gain, but not always
        ([[1.0, 1.0, 1.5]] * 7 + [[1.0, 1.0, 0.8]] * 1, 2),
        ([[1.1, 1.0, 1.5]] * 5 + [[1.1, 1.0, 0.8]] * 4, 0),  # the fastest of those that gain
        ([[0.5, 1.0, 0.9]] * 5, 1),
    ],
)
def test_a_candidate_needs_a_clear_gain(speeds: list[list[float]], chosen: int) -> None:
    assert choose(np.array(speeds), 1, 0.0) == chosen


def test_a_gain_is_beyond_what_the_same_differs_from_itself() -> None:
    speeds = np.array([[1.0, 1.2]] * 5)
    assert [choose(speeds, 0, noise) for noise in (0.1, 0.19, 0.2, 0.3)] == [1, 1, 0, 0]


def made_up(best: Tuning, *, drift: float = 0.0, calls: list[Any] | None = None) -> Timer:
    """Seconds that grow by a tenth with every number that is not `best`'s, and with every call."""
    n_calls = 0

    def measure(parameter: str, tuning: Tuning) -> float:
        nonlocal n_calls
        n_calls += 1
        if calls is not None:
            calls.append((parameter, tuning))
        different = sum(a != b for a, b in zip(asdict(best).values(), asdict(tuning).values()))  # noqa: B905
        return 0.05 * (1 + 0.1 * different) * (1 + drift * n_calls)

    return measure


@pytest.mark.parametrize("isa", ISAS, ids=by_name)
def test_each_number_is_found(isa: ISA) -> None:
    tile = isa.tiles_to_try[3] if isa.tiles is None else isa.defaults.tile
    best = Tuning(9216, tile, 256 << 10, 4 << 20)
    found, rows = tune(isa, made_up(best))
    assert found == best
    assert isa.tuning == isa.defaults
    for parameter in parameters(isa):
        (chosen,) = [row for row in rows if row.parameter == parameter and row.chosen]
        (before,) = [row for row in rows if row.parameter == parameter and row.before]
        assert chosen.value == getattr(best, parameter)
        assert before.value == getattr(isa.defaults, parameter)
        assert before.speed == 1
        assert chosen.speed >= 1.02 or chosen == before
    assert {row.parameter for row in rows} == {*parameters(isa)}


def test_what_differs_by_drift_alone_keeps_the_defaults() -> None:
    isa = BY_NAME["avx2"]
    assert tune(isa, made_up(isa.defaults, drift=0.004))[0] == isa.defaults
    assert tune(isa, lambda *_: 0.05)[0] == isa.defaults


def noisy(parameter: str, speeds: list[float]) -> Timer:
    """Seconds that are alike, but for passes of one candidate, whose speeds come in turn."""
    values = iter(speeds)

    def measure(name: str, tuning: Tuning) -> float:
        differs = name == parameter and tuning.prefetch_bytes == 9216
        return 0.05 / next(values, 1.0) if differs else 0.05

    return measure


@pytest.mark.parametrize(("later", "found"), [(1.0, 2304), (1.3, 9216)])
def test_a_gain_has_to_come_again_in_rounds_of_its_own(later: float, found: int) -> None:
    measure = noisy("prefetch_bytes", [1.3] * 5 + [later] * 5)
    tuning, rows = tune(BY_NAME["avx2"], measure, n_rounds=5)
    assert tuning.prefetch_bytes == found
    (chosen,) = [row for row in rows if row.chosen and row.parameter == "prefetch_bytes"]
    assert chosen.value == found


def test_on_a_busy_machine_the_defaults_stay_nearly_always() -> None:
    """Every pass takes up to half as long again, whatever it is of."""
    rng, isa = np.random.default_rng(0), BY_NAME["avx2"]
    found = [tune(isa, lambda *_: 0.05 * (1 + rng.random() / 2)) for _ in range(40)]
    assert sum(tuning != isa.defaults for tuning, _ in found) <= 6
    assert np.mean([max(row.noise for row in rows) for _, rows in found]) > measuring.BUSY
    assert 0.05 < np.mean([row.spread for _, rows in found for row in rows]) < 0.2


def test_candidates_alternate_and_build_on_what_was_found() -> None:
    isa, calls = BY_NAME["generic"], list[tuple[str, Tuning]]()
    best = replace(isa.defaults, prefetch_bytes=0, fewest_bytes=1 << 20)
    steps: list[None] = []
    found, rows = tune(isa, made_up(best, calls=calls), lambda: steps.append(None))
    assert (found, len(steps)) == (best, len(parameters(isa)))
    prefetches = [tuning for parameter, tuning in calls if parameter == "prefetch_bytes"]
    n = len(measuring.VALUES["prefetch_bytes"]) + 1  # the defaults twice
    assert len(set(prefetches[:n])) == n - 1
    assert prefetches[n : 2 * n] == [*prefetches[1:n], prefetches[0]]
    assert len(prefetches) >= measuring.FEWEST_ROUNDS * n
    for parameter, tuning in calls:
        if parameter != "prefetch_bytes":
            assert tuning.prefetch_bytes == 0
        if parameter in ("most_bytes", "tile"):
            assert tuning.fewest_bytes == 1 << 20
    most = [row.value for row in rows if row.parameter == "most_bytes"]
    assert most == [1 << 20, 2 << 20, 4 << 20]  # none below what is taken at least


def test_quick_passes_are_repeated_more_often() -> None:
    def n_calls(seconds: float) -> int:
        calls: list[Any] = []
        tune(BY_NAME["avx2"], lambda *call: calls.append(call) or seconds)  # type: ignore[func-returns-value]
        return len(calls)

    a_round = n_calls(10.0) // measuring.FEWEST_ROUNDS
    assert n_calls(10.0) == a_round * measuring.FEWEST_ROUNDS
    assert n_calls(1e-4) == a_round * measuring.MOST_ROUNDS


# ---- passes --------------------------------------------------------------------------------------

SHAPES = (("Q4_K", 5, 512), ("Q6_K", 7, 256))


@pytest.mark.parametrize("n_tokens", [1, 3])
def test_a_pass_is_all_its_products_with_weights_of_their_own(n_tokens: int) -> None:
    sizes = [n_out * WEIGHT_TYPES[name].row_bytes(n) for name, n_out, n in SHAPES]
    weights = np.zeros(sum(sizes) + 100, np.uint8)
    program = measuring._program(SHAPES, weights, n_tokens)
    _, *products = program.steps
    start = weights.ctypes.data
    for step, (name, n_out, n_columns), n_bytes in zip(products, SHAPES, sizes, strict=True):
        assert step.op == Linear(WEIGHT_TYPES[name])  # type: ignore[arg-type]
        matrix = step.arguments["weights"]
        assert isinstance(matrix, np.ndarray)
        assert (matrix.ctypes.data, matrix.shape) == (start, (n_out, n_bytes // n_out))
        assert (step.arguments["n_out"], step.arguments["n_columns"]) == (n_out, n_columns)
        start += n_bytes
    assert (program.state[:2] == n_tokens).all()


def test_passes_run_the_program_that_a_parameter_matters_for(
    best_library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "LAYER", SHAPES)
    monkeypatch.setattr(measuring, "N_LAYERS", 2)
    monkeypatch.setattr(measuring, "PROMPT_LAYER", (("Q4_K", 5, 256),))
    monkeypatch.setattr(measuring, "N_PROMPT", 3)
    run_by_team: list[int] = []
    with Passes(best_library.isa, 2) as passes:
        run_program = passes._team.run
        monkeypatch.setattr(
            passes._team, "run",
            lambda lowered: run_by_team.append(len(lowered.steps)) or run_program(lowered),  # type: ignore[func-returns-value]
        )  # fmt: skip
        tuning = best_library.isa.tuning
        assert passes("prefetch_bytes", tuning) > 0
        assert passes("fewest_bytes", tuning) > 0
        assert passes("tile", tuning) > 0
    assert run_by_team == [5, 5, 5, 2, 2]  # with the first pass of each, that nobody measures


# ---- the command ---------------------------------------------------------------------------------


class MadeUp:
    """In place of `Passes`: 9216 bytes ahead and larger tiles are faster."""

    def __init__(self, isa: ISA, n_threads: int) -> None:
        self._best = replace(isa.defaults, prefetch_bytes=9216, tile=(2, 1))

    def __enter__(self) -> Timer:
        return made_up(self._best)

    def __exit__(self, *_: object) -> None:
        pass


class NothingBetter(MadeUp):
    def __init__(self, isa: ISA, n_threads: int) -> None:
        self._best = isa.defaults


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def linnet_tune(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.setattr(command, "Passes", MadeUp)

    def run_command(*argv: object) -> tuple[int, str, str]:
        status = cli.main(["tune", *map(str, argv)])
        out, err = capsys.readouterr()
        return status, out, err

    return partial(run_command, "--isa", "generic")


def test_what_is_found_is_shown_and_stored(linnet_tune: Command) -> None:
    path = stored_path("generic")
    for _ in range(2):  # what was stored plays no part in it
        status, out, err = linnet_tune("-t", 3)
        assert (status, err) == (0, f"stored in {path}\n")
        heading, empty, *table = out.splitlines()
        assert (heading, empty) == ("generic, 3 threads", "")
        assert table[0] == "| parameter | value | ms | speed | noise | |"
        assert "| prefetch_bytes | 2304 | 60.00 ± 0% | 1.00 | 0% | before |" in table
        assert "| prefetch_bytes | 9216 | 55.00 ± 0% | 1.09 | 0% | chosen |" in table
        assert "| most_bytes | 1048576 | 55.00 ± 0% | 1.00 | 0% | before, chosen |" in table
        assert "| tile | 2 x 1 | 50.00 ± 0% | 1.10 | 0% | chosen |" in table
        assert choose_isa("generic").tuning == Tuning(prefetch_bytes=9216, tile=(2, 1))


def test_json_holds_the_same(linnet_tune: Command) -> None:
    _, out, _ = linnet_tune("-o", "json", "-t", 1)
    shown = json.loads(out)
    assert (shown["isa"], shown["n_threads"], shown["cpu"]) == ("generic", 1, tunings.cpu())
    assert shown["defaults"] == {**asdict(Tuning()), "tile": [4, 1]}
    assert shown["tuning"] == {**shown["defaults"], "prefetch_bytes": 9216, "tile": [2, 1]}
    (chosen,) = [
        row for row in shown["measured"] if row["parameter"] == "prefetch_bytes" and row["chosen"]
    ]
    assert chosen == {
        "parameter": "prefetch_bytes", "value": 9216, "seconds": pytest.approx(0.055),
        "spread": 0.0, "speed": pytest.approx(12 / 11), "noise": 0.0, "before": False,
        "chosen": True,
    }  # fmt: skip


def test_where_the_defaults_are_best_nothing_stays_stored(
    linnet_tune: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    store("generic", FOUND)
    monkeypatch.setattr(command, "Passes", NothingBetter)
    status, _, err = linnet_tune()
    assert (status, err) == (0, "the defaults are best here: nothing is stored\n")
    assert stored("generic") is None


def test_a_busy_machine_is_told(linnet_tune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(MadeUp):
        def __enter__(self) -> Timer:
            seconds = itertools.cycle([0.05, 0.06, 0.07, 0.08, 0.09])
            return lambda *_: next(seconds)

    monkeypatch.setattr(command, "Passes", Busy)
    status, _, err = linnet_tune("-r", 4)
    assert status == 0
    assert "this machine is busy: one and the same pass differs from itself by " in err


def test_reset_goes_back_to_the_defaults(linnet_tune: Command) -> None:
    path = store("generic", FOUND)
    store("avx2", FOUND)
    assert linnet_tune("--reset") == (0, "", f"removed {path}\n")
    assert (stored("generic"), stored("avx2")) == (None, FOUND)
    assert linnet_tune("--reset") == (0, "", "nothing was stored\n")


@pytest.mark.parametrize("n_threads", ["0", "1025", "many"])
def test_a_number_of_threads_must_be_one(linnet_tune: Command, n_threads: str) -> None:
    status, out, err = linnet_tune("-t", n_threads)
    assert (status, out) == (2, "")
    assert err.startswith(f"linnet: argument -t/--threads: {n_threads!r} is not a whole number")


def test_without_a_cache_nothing_is_measured(
    linnet_tune: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "Passes", None)
    monkeypatch.setenv("LINNET_CACHE", "0")
    status, out, err = linnet_tune()
    assert (status, out) == (2, "")
    assert err.startswith("linnet: LINNET_CACHE=0: ")
