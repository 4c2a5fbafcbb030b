"""Teams: every item is done once, in order where it matters, by any number of threads."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import stress_team
from support.kernel_harness import Array, LocalOp, random_weights, run_python
from support.systems import needs_linux
from support.team_programs import WaitForFlag, chain, lowered

from linnet.kernels.compiler.host import choose_isa
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import i64, pointer, u32
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import ALL_ROWS, OpKernel
from linnet.kernels.ops.rows import PickRows
from linnet.kernels.products.linear import FloatLinear
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.kernels.runtime.program import Lowered, Program
from linnet.kernels.runtime.team import Interrupted, Team

each_size = pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
PATIENCE = 60  # seconds after which a thread that should have ended, or begun, never will

# ---- ops made for it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class CountItems(LocalOp):
    """out[item] += 1, atomically; `take` items at a time, and none before `after` is written."""

    take: int

    parameters = {"out": pointer, "after": pointer, "n_items": i64, "rows": pointer}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_items"], ALL_ROWS

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return self.take, self.take

    def emit(self, k: OpKernel, **a: Any) -> None:
        for item in k.items():
            a["out"].at(item * 4).atomic_add(k.constant(u32, 1))


@dataclass(frozen=True)
class CountAndWait(LocalOp):
    """out[item] += 1, then wait until `flag` is 1; an item at a time."""

    parameters = {"out": pointer, "flag": pointer, "n_items": i64, "rows": pointer}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_items"], ALL_ROWS

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        for item in k.items():
            a["out"].at(item * 4).atomic_add(k.constant(u32, 1))
            with k.loop() as loop:
                loop.leave(a["flag"].atomic_load(u32).equals(1))
                k.pause()


@dataclass(frozen=True)
class FillScratch(LocalOp):
    """out[item] = how many words of the scratch memory hold what was just put there."""

    n_words: int

    parameters = {"out": pointer, "n_items": i64, "rows": pointer}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_items"], ALL_ROWS

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        return 8 * self.n_words

    def emit(self, k: OpKernel, **a: Any) -> None:
        for item in k.items():
            for i in k.range(self.n_words):
                k.scratch.store(item * 1000 + i, i * 8)
            total = k.cell(i64)
            for i in k.range(self.n_words):
                same = k.scratch.load(i64, i * 8).equals(item * 1000 + i)
                total.set(total.get() + same.select(k.constant(i64, 1), 0))
            a["out"].store(total.get(), item * 8)


@dataclass(frozen=True)
class NoteChunks(LocalOp):
    """out[first item of a chunk] = how many items it has."""

    fewest: int
    most: int

    parameters = {"out": pointer, "n_items": i64, "rows": pointer}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_items"], ALL_ROWS

    def chunk(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return self.fewest, self.most

    def emit(self, k: OpKernel, **a: Any) -> None:
        a["out"].store(k.last - k.first, k.first * 8)


# ---- programs made of them -----------------------------------------------------------------------


def counting(library: Library, counts: Array, n_items: int, take: int = 3) -> Lowered:
    arguments = {"out": counts, "after": np.zeros(1), "n_items": n_items}
    return lowered(library, (CountItems(take), arguments))


@pytest.fixture
def team_of(best_library: Library) -> Iterator[Callable[[int], Team]]:
    """Teams of so many threads, closed when the test is over."""
    teams: list[Team] = []

    def make(n_threads: int) -> Team:
        teams.append(Team(best_library, n_threads))
        return teams[-1]

    yield make
    for team in teams:
        team.close()


# ---- sharing work --------------------------------------------------------------------------------


@each_size
@pytest.mark.parametrize(("n_items", "take"), [(1000, 3), (1000, 1000), (7, 100), (1, 1), (0, 1)])
def test_every_item_is_done_once(
    best_library: Library, team_of: Callable[[int], Team], n_threads: int, n_items: int, take: int
) -> None:
    counts = np.zeros(n_items + take, np.uint32)
    program, team = counting(best_library, counts, n_items, take), team_of(n_threads)
    for n_passes in (1, 2, 3):
        team.run(program)
        assert (counts[:n_items] == n_passes).all()
        assert not counts[n_items:].any()


@each_size
def test_a_step_sees_all_that_the_last_one_made(
    best_library: Library, team_of: Callable[[int], Team], n_threads: int
) -> None:
    program, numbers = chain(best_library, length=50, n_items=37)
    team = team_of(n_threads)
    team.run(program)
    assert (numbers == 50).all()


@each_size
def test_each_thread_has_scratch_memory_of_its_own(
    best_library: Library, team_of: Callable[[int], Team], n_threads: int
) -> None:
    """Even where a later program needs more than the first."""
    team = team_of(n_threads)
    for n_words in (10, 3000, 10):
        out = np.zeros(2000, np.int64)
        team.run(lowered(best_library, (FillScratch(n_words), {"out": out, "n_items": out.size})))
        assert (out == n_words).all()


def test_results_are_the_same_for_any_number_of_threads(
    best_library: Library, team_of: Callable[[int], Team]
) -> None:
    rng = np.random.default_rng(1)
    type = WEIGHT_TYPES["Q4_K"]
    weights = random_weights(type, 3001, 256, rng)
    program = Program(16, 1)
    x, out = program.buffer("x", 256), program.buffer("out", 3001)
    table = rng.standard_normal((16, 256)).astype(np.float32).view(np.uint8)
    embed = {"table": table, "rows": program.tokens, "out": x, "width": 256}
    program.step("embed", PickRows(WEIGHT_TYPES["F32"]), **embed)
    sizes = {"n_columns": 256, "n_out": 3001}
    program.step("product", FloatLinear(type), weights=weights, x=x, out=out, **sizes)
    program.lay_out([out])
    program.tokens.data[:] = np.arange(16)
    for n_tokens in (1, 8, 16):
        program.state[:] = n_tokens
        native = program.lower(best_library, n_tokens=n_tokens)
        results = []
        for n_threads in (1, 2, 3, 7):
            out.data[...] = np.nan
            team_of(n_threads).run(native)
            results.append(out.data[:n_tokens].tobytes())
        assert len(set(results)) == 1
        assert np.isfinite(out.data[:n_tokens]).all()


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_two_thousand_short_passes(
    best_library: Library, team_of: Callable[[int], Team], n_threads: int
) -> None:
    program, numbers = chain(best_library, length=2, n_items=8)
    team = team_of(n_threads)
    for _ in range(2000):
        team.run(program)
    assert (numbers == 2 * 2000).all()


def test_one_team_runs_programs_in_turn(
    best_library: Library, team_of: Callable[[int], Team]
) -> None:
    short, short_numbers = chain(best_library, length=2, n_items=5)
    long, long_numbers = chain(best_library, length=16, n_items=64)
    team = team_of(3)
    for _ in range(100):
        team.run(short)
        team.run(long)
    assert (short_numbers == 200).all()
    assert (long_numbers == 1600).all()


@each_size
def test_chunks_are_long_at_first_and_short_at_the_end(
    best_library: Library, team_of: Callable[[int], Team], n_threads: int
) -> None:
    """Within what the op says, but for the last, which may be shorter."""
    noted = np.zeros(1000, np.int64)
    program = lowered(best_library, (NoteChunks(4, 50), {"out": noted, "n_items": 1000}))
    team_of(n_threads).run(program)
    sizes = noted[noted > 0]
    assert sizes.sum() == 1000
    assert (np.diff(sizes) <= 0).all()
    assert (sizes[:-1] >= 4).all()
    assert sizes[0] == 50
    assert sizes[-1] <= 4


def test_a_pass_needs_no_thread_but_the_one_that_leads(
    best_library: Library, team_of: Callable[[int], Team]
) -> None:
    program, numbers = chain(best_library, length=10, n_items=64)
    team = team_of(3)
    wakes, team._wakes = team._wakes, []  # the others will hear of no pass
    time.sleep(0.06)  # and by now wait for one in Python
    team.run(program)
    assert (numbers == 10).all()
    team._wakes = wakes


def run_while(team: Team, program: Lowered, watch: Callable[[], None]) -> None:
    """Run a pass while another thread watches it, and raise what that raises."""
    errors: list[BaseException] = []

    def watching() -> None:
        try:
            watch()
        except BaseException as error:
            errors.append(error)

    watcher = threading.Thread(target=watching, daemon=True)
    watcher.start()
    team.run(program)
    watcher.join()
    if errors:
        raise errors[0]


def wait_until(ready: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError("what was waited for never came")
        time.sleep(0.001)


def test_steps_that_need_nothing_from_a_slow_one_go_on_beside_it(
    best_library: Library, team_of: Callable[[int], Team]
) -> None:
    began, flag = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    counts = [np.zeros(10, np.uint32) for _ in range(3)]
    program = lowered(
        best_library,
        (WaitForFlag(), {"out": began, "flag": flag}),
        *((CountItems(3), {"out": c, "after": np.zeros(1), "n_items": 10}) for c in counts),
    )

    def watch() -> None:
        try:
            wait_until(lambda: all((c == 1).all() for c in counts))
        finally:
            flag[0] = 1

    run_while(team_of(2), program, watch)
    assert all((c == 1).all() for c in counts)


def test_a_step_of_no_rows_hands_on_what_it_would_have_waited_for(
    best_library: Library, team_of: Callable[[int], Team]
) -> None:
    """The third step needs the first one, and only the second, which is empty, says so."""
    began, flag = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    none, counts = np.zeros(10, np.uint32), np.zeros(10, np.uint32)
    program = Program(1, 1)
    program.state[:2] = 1, 0
    arguments = {"after": began, "n_items": 10}
    program.step("slow", WaitForFlag(), out=began, flag=flag, rows=program.tokens)
    program.step("empty", CountItems(3), out=none, rows=program.outputs, **arguments)
    program.step("needs", CountItems(3), out=counts, rows=program.tokens, **arguments)
    native = program.lower(best_library)
    assert native.records["barrier"].tolist() == [0, 1, 0]

    def watch() -> None:
        try:
            wait_until(lambda: began[0])
            time.sleep(0.02)  # time enough for the other thread to go astray
            assert not counts.any()
        finally:
            flag[0] = 1

    run_while(team_of(2), native, watch)
    assert (counts == 1).all()
    assert not none.any()


def test_a_program_may_be_dropped_as_soon_as_its_pass_is_over(
    best_library: Library, team_of: Callable[[int], Team]
) -> None:
    """Though threads may not have noticed yet that it is."""
    team = team_of(7)
    for n_items in range(300):
        counts = np.zeros(n_items + 3, np.uint32)
        team.run(counting(best_library, counts, n_items))
        assert counts.sum() == n_items


def test_a_step_of_no_rows_does_nothing(
    best_library: Library, team_of: Callable[[int], Team]
) -> None:
    """Not even what it would do once for all rows."""
    counts, program = np.zeros(10, np.uint32), Program(1, 1)
    arguments = {"out": counts, "after": np.zeros(1), "n_items": 10, "rows": program.tokens}
    program.step("count", CountItems(3), **arguments)
    native, team = program.lower(best_library), team_of(2)
    for n_rows in (0, 1):
        program.state[:] = n_rows
        team.run(native)
        assert (counts == n_rows).all()


# ---- stopping ------------------------------------------------------------------------------------


def check_stopped(team: Team, program: Lowered, began: Array, flag: Array) -> None:
    """A stop ends the pass of a program that writes into `began` and then waits for `flag`."""

    def stop_once_it_has_begun() -> None:
        while not began.any():
            time.sleep(0.001)
        team.stop()
        flag[0] = 1

    stopper = threading.Thread(target=stop_once_it_has_begun, daemon=True)
    stopper.start()
    with pytest.raises(Interrupted):
        team.run(program)
    stopper.join()


@each_size
def test_stop_ends_the_pass_at_its_next_barrier(
    best_library: Library, team_of: Callable[[int], Team], n_threads: int
) -> None:
    began, flag = np.zeros(1, np.uint32), np.zeros(1, np.uint32)
    counts = np.zeros(10, np.uint32)
    program = lowered(
        best_library,
        (WaitForFlag(), {"out": began, "flag": flag}),
        (CountItems(1), {"out": counts, "after": began, "n_items": 10}),
    )
    team = team_of(n_threads)

    check_stopped(team, program, began, flag)
    assert not counts.any()
    team.run(program)  # the flag is set; nothing is left of the request to stop
    assert (counts == 1).all()


@each_size
def test_stop_leaves_what_no_thread_has_taken(
    best_library: Library, team_of: Callable[[int], Team], n_threads: int
) -> None:
    """Of a step that is under way, however long it is."""
    counts, flag = np.zeros(1000, np.uint32), np.zeros(1, np.uint32)
    program = lowered(
        best_library, (CountAndWait(), {"out": counts, "flag": flag, "n_items": 1000})
    )
    team = team_of(n_threads)

    check_stopped(team, program, counts, flag)
    assert 1 <= counts.sum() <= n_threads
    counts[:] = 0
    team.run(program)
    assert (counts == 1).all()


def test_a_stop_between_passes_ends_none(
    best_library: Library, team_of: Callable[[int], Team]
) -> None:
    program, numbers = chain(best_library, length=4, n_items=8)
    team = team_of(2)
    team.stop()
    team.run(program)
    assert (numbers == 4).all()


# ---- threads' lives ------------------------------------------------------------------------------


def test_a_team_that_has_gone_to_sleep_wakes_up(
    best_library: Library, team_of: Callable[[int], Team]
) -> None:
    program, numbers = chain(best_library, length=4, n_items=8)
    team = team_of(3)
    for n_passes in (1, 2, 3):
        team.run(program)
        assert (numbers == 4 * n_passes).all()
        time.sleep(0.06)  # far longer than threads wait for the next pass in native code


def test_a_team_of_one_has_no_threads(best_library: Library) -> None:
    before = threading.active_count()
    team = Team(best_library, 1)
    assert threading.active_count() == before
    team.close()


def test_close_ends_the_threads(best_library: Library) -> None:
    others = set(threading.enumerate())
    counts = np.zeros(5, np.uint32)
    program = counting(best_library, counts, 5)
    for wait in (0, 0.06):  # threads that wait in native code, and threads that sleep
        team = Team(best_library, 4)
        team.run(program)
        time.sleep(wait)
        assert len(set(threading.enumerate()) - others) == 3
        team.close()
        assert not set(threading.enumerate()) - others
        team.close()


def test_a_forgotten_team_ends_its_threads(best_library: Library) -> None:
    others = set(threading.enumerate())
    counts = np.zeros(5, np.uint32)
    team = Team(best_library, 3)
    team.run(counting(best_library, counts, 5))
    threads = set(threading.enumerate()) - others
    assert len(threads) == 2
    gone = weakref.ref(team)
    del team
    gc.collect()
    assert gone() is None
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def forget_teams() -> None:
    """Drop teams with the libraries their code is in, while their threads are still in it."""
    for _ in range(60):
        library = Library(choose_isa())
        counts = np.zeros(5, np.uint32)
        Team(library, 3).run(counting(library, counts, 5))
        assert (counts == 1).all()
        del library
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(PATIENCE)
            assert not thread.is_alive()


def test_code_outlives_the_threads_that_run_it() -> None:
    child = run_python("-c", "import test_team; test_team.forget_teams()")
    assert child.returncode == 0, child.stderr


def test_an_interrupt_as_a_pass_begins_leaves_no_thread_behind(
    best_library: Library, team_of: Callable[[int], Team]
) -> None:
    """Ctrl-C between the word to begin and the lead's own part in the pass."""
    long, _ = chain(best_library, length=40, n_items=64)
    short, numbers = chain(best_library, length=6, n_items=64)
    team = team_of(2)
    publish = team._publish

    def interrupted(*arguments: int) -> None:
        publish(*arguments)
        raise KeyboardInterrupt

    team._publish = interrupted
    with pytest.raises(KeyboardInterrupt):
        team.run(long)
    team._publish = publish
    time.sleep(0.06)  # time enough for threads to be in the pass that was not led
    for n_passes in range(1, 50):
        team.run(short)
        assert (numbers == 6 * n_passes).all()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_closed_team_says_so(
    best_library: Library, team_of: Callable[[int], Team], n_threads: int
) -> None:
    program, _ = chain(best_library, length=2, n_items=4)
    team = team_of(n_threads)
    team.close()
    with pytest.raises(RuntimeError, match="closed"):
        team.run(program)


# ---- cores that come and go ----------------------------------------------------------------------


@needs_linux
@pytest.mark.parametrize("around", ["nullcontext", "cores_come_and_go", "neighbours"])
@pytest.mark.parametrize("n_threads", [1, 2, 4, 8])
def test_thousands_of_barriers_whatever_else_runs(
    best_library: Library, team_of: Callable[[int], Team], n_threads: int, around: str
) -> None:
    """It raises for a wrong number, and ends the process for a hang. A million of them are in
    scripts/stress_team.py."""
    surroundings = getattr(stress_team, around, contextlib.nullcontext)
    assert stress_team.stress(best_library, team_of(n_threads), 3, surroundings) > 0


@needs_linux
def test_threads_without_a_core_of_their_own_sleep(
    best_library: Library, team_of: Callable[[int], Team]
) -> None:
    """Eight on one core: seven that wait for a slow step, and all of them between passes. They
    take a hundredth of a core each; one that spun would take all it can get."""
    team = team_of(8)
    with stress_team.on_one_core():
        team.run(chain(best_library, length=3, n_items=16)[0])
        assert stress_team.cpu_within_a_pass(best_library, team, 0.2) < 0.1
        assert stress_team.cpu_of_an_idle_team(0.2) < 0.1
