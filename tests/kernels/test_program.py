"""Programs: where buffers lie, where threads must wait, and native passes next to the reference."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.kernel_harness import Array, nmse, random_weights

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import pointer
from linnet.kernels.isa import ISA, ISAS
from linnet.kernels.ops.base import Op
from linnet.kernels.ops.elementwise import Add, SiluMultiply
from linnet.kernels.ops.norm import RmsNorm
from linnet.kernels.ops.rows import PickRows
from linnet.kernels.products.activations import packed_bytes
from linnet.kernels.products.linear import FloatLinear, Linear, Pack
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.kernels.runtime.program import (
    ALIGNMENT,
    Argument,
    Buffer,
    Lowered,
    Program,
    Rows,
    Step,
)
from linnet.kernels.runtime.team import Team

# ---- recorded programs, at random ----------------------------------------------------------------


@dataclass(frozen=True)
class Mix(Op):
    """out = a number that depends on all of a and b."""

    parameters = {"a": pointer, "b": pointer, "out": pointer}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def reference(self, **a: Any) -> None:
        total = 31 * a["a"].sum(dtype=np.int64) + 17 * a["b"].sum(dtype=np.int64)
        a["out"][...] = (total + a["out"].size) % 101


@dataclass(frozen=True)
class MixInPlace(Mix):
    """A Mix that may write over a, which it has read by then."""

    in_place = "a"


class NoLibrary:
    """Where every op lies at address 0."""

    isa = ISAS[-1]

    def address(self, source: object) -> int:
        return 0


@dataclass(frozen=True)
class Recorded:
    """A program, laid out, and the buffers it keeps."""

    program: Program
    kept: list[Buffer]

    @property
    def buffers(self) -> list[Buffer]:
        steps = self.program.steps
        found = [a for step in steps for a in step.arguments.values() if isinstance(a, Buffer)]
        return list(dict.fromkeys(found))

    def life(self, buffer: Buffer) -> range:
        """The steps between which the buffer's numbers matter."""
        steps = self.program.steps
        used = [i for i, step in enumerate(steps) if buffer in arrays_of(step)]
        return range(used[0], len(steps) + 1 if buffer in self.kept else used[-1] + 1)

    def handed_over(self, one: Buffer, other: Buffer) -> int:
        """The step that may write the other buffer over the one, which it reads; -1 for none."""
        for i, step in enumerate(self.program.steps):
            a, out = step.arguments["a"], step.arguments["out"]
            if step.op == MixInPlace() and a is one and out is other:
                return i
        return -1


def arrays_of(step: Step) -> list[Buffer]:
    return [a for a in step.arguments.values() if isinstance(a, Buffer)]


@st.composite
def recorded(draw: Any) -> Recorded:
    """Steps that read what was written before, into buffers new and old."""
    program = Program(max_tokens=draw(st.integers(1, 9)), max_outputs=draw(st.integers(1, 3)))
    program.state[:2] = program.max_tokens, program.max_outputs
    sources: list[Argument] = [np.arange(12), np.ones(5, np.float32)]
    for i in range(draw(st.integers(1, 14))):
        fresh = program.buffer(
            f"buffer{i}",
            draw(st.sampled_from([0, 1, 3, 16, 40])),
            rows=draw(st.sampled_from(Rows)),
            dtype=draw(st.sampled_from([np.int8, np.float32, np.int64])),
        )
        written = [source for source in sources if isinstance(source, Buffer)]
        out = draw(st.sampled_from([fresh, fresh, fresh, *written]))
        a, b = (draw(st.sampled_from(sources)) for _ in range(2))
        op = draw(st.sampled_from([Mix(), MixInPlace()]))
        program.step(f"step{i}", op, a=a, b=b, out=out)
        if out is fresh:
            sources.append(fresh)
    buffers = [source for source in sources if isinstance(source, Buffer)]
    kept = draw(st.lists(st.sampled_from(buffers), max_size=3))
    program.lay_out(kept)
    return Recorded(program, kept)


@given(recorded())
def test_buffers_that_live_at_the_same_time_lie_apart(it: Recorded) -> None:
    buffers = it.buffers
    for i, one in enumerate(buffers):
        assert one.data.ctypes.data % ALIGNMENT == 0
        for other in buffers[:i]:
            both = set(it.life(one)) & set(it.life(other))
            if both - {it.handed_over(one, other), it.handed_over(other, one)}:
                assert not np.shares_memory(one.data, other.data)


@given(recorded())
def test_sharing_memory_changes_no_result(it: Recorded) -> None:
    own = {buffer: np.zeros_like(buffer.data) for buffer in it.buffers}

    def compare(step: Step, arguments: dict[str, Any]) -> None:
        alone = {n: own[a] if isinstance(a, Buffer) else a for n, a in step.arguments.items()}
        step.op.reference(**alone)
        assert np.array_equal(arguments["out"], alone["out"])

    it.program.reference(compare)
    for buffer in it.kept:
        assert np.array_equal(buffer.data, own[buffer])


@given(recorded())
def test_threads_wait_exactly_where_a_step_meets_what_was_touched_since(it: Recorded) -> None:
    lowered = it.program.lower(NoLibrary())  # type: ignore[arg-type]
    since: list[Step] = []
    for step, waits in zip(it.program.steps, waits_of(lowered.records), strict=True):
        assert waits == any(conflict(step, other) for other in since)
        since = [step] if waits else [*since, step]


def waits_of(records: Array) -> list[bool]:
    return [bool(flag) for flag in records["barrier"]]


def conflict(one: Step, other: Step) -> bool:
    """Whether either writes what the other reads or writes."""
    return any(
        np.shares_memory(a, b)
        for a, a_is_written in touched(one)
        for b, b_is_written in touched(other)
        if a_is_written or b_is_written
    )


def touched(step: Step) -> Iterator[tuple[Array, bool]]:
    for name, argument in step.arguments.items():
        array = argument.data if isinstance(argument, Buffer) else argument
        yield array, name in step.op.writes  # type: ignore[misc]


# ---- by hand -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "waits"),
    [
        (["xxa", "xxb", "xyc"], [False, False, False]),
        (["xxa", "aab"], [False, True]),
        (["xxa", "xbc", "aad"], [False, False, True]),
        (["xxa", "xxa"], [False, True]),
        (["xxa", "aab", "xxa"], [False, True, True]),
        (["xxa", "aab", "aac", "xxd", "cdx"], [False, True, False, False, True]),
        (["xxa", "xxb", "aac", "bbd"], [False, False, True, False]),
    ],
    ids=["apart", "read", "read later", "written twice", "after a read", "two waits", "one serves"],
)
def test_threads_wait_where_data_crosses_between_them(steps: list[str], waits: list[bool]) -> None:
    """Steps are named by the two arrays they read and the one they write."""
    program = Program(4, 4)
    arrays = {name: np.zeros(16, np.float32) for name in "abcdxy"}
    for a, b, out in steps:
        rows = program.tokens
        program.step("step", Counted(), a=arrays[a], b=arrays[b], out=arrays[out], rows=rows)
    lowered = program.lower(NoLibrary())  # type: ignore[arg-type]
    assert waits_of(lowered.records) == waits


@dataclass(frozen=True)
class Counted(Mix):
    """A Mix of arrays that no buffer holds; `rows` says how many items there are."""

    parameters = {**Mix.parameters, "rows": pointer}


@pytest.mark.parametrize(("op", "n_places"), [(Mix(), 2), (MixInPlace(), 1)])
def test_a_chain_of_steps_needs_memory_for_two_or_for_one(op: Mix, n_places: int) -> None:
    program = Program(4, 4)
    x: Argument = np.zeros(16, np.float32)
    buffers = [program.buffer(f"buffer{i}", 16) for i in range(20)]
    for buffer in buffers:
        program.step("step", op, a=x, b=x, out=buffer)
        x = buffer
    program.lay_out([buffers[-1]])
    assert len({buffer.data.ctypes.data for buffer in buffers}) == n_places


def test_nothing_is_written_over_what_is_still_read() -> None:
    """Nor over what is kept, nor in a place of another size."""
    program = Program(4, 4)
    a, b, c, d, e = (program.buffer(n, 17 if n == "e" else 16) for n in "abcde")
    program.step("a", Mix(), a=np.ones(1), b=np.ones(1), out=a)
    for x, out in ((a, b), (b, c), (a, d), (d, e)):
        program.step("step", MixInPlace(), a=x, b=x, out=out)
    program.lay_out([c, e])
    places = [buffer.data.ctypes.data for buffer in (a, b, c, d, e)]
    assert places[1] == places[2]  # b is read for the last time where c is written
    assert places[0] == places[3]  # so is a where d is, but not where b is
    assert len(set(places)) == 3


@pytest.mark.parametrize("arguments", [{}, {"a": 1, "b": 2}, {"a": 1, "b": 2, "out": 3, "c": 4}])
def test_a_step_takes_exactly_its_ops_arguments(arguments: dict[str, Any]) -> None:
    program = Program(1, 1)
    with pytest.raises(TypeError, match=r"mixing: takes \['a', 'b', 'out'\], given"):
        program.step("mixing", Mix(), **arguments)
    assert not program.steps


def test_a_program_is_laid_out_before_it_runs() -> None:
    program = Program(1, 1)
    buffer = program.buffer("hidden", 4)
    program.step("step", Mix(), a=np.ones(1), b=np.ones(1), out=buffer)
    with pytest.raises(RuntimeError, match="'hidden' is not laid out"):
        program.lower(NoLibrary())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="'hidden' is not laid out"):
        program.reference()


def test_inputs_have_room_for_every_row() -> None:
    program = Program(max_tokens=7, max_outputs=3)
    sizes = {b.name: b.data.size for b in (program.tokens, program.positions, program.slots)}
    assert sizes == {"tokens": 7, "positions": 7, "slots": 7}
    assert program.outputs.data.size == 3


# ---- native --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Small:
    """A program of a few real steps, with products of both kinds; `logits` is kept."""

    program: Program
    logits: Buffer

    @classmethod
    def record(cls) -> Small:
        rng = np.random.default_rng(1)
        q4, f16, f32 = (WEIGHT_TYPES[name] for name in ("Q4_0", "F16", "F32"))
        program, width = Program(max_tokens=12, max_outputs=3), 96

        def buffer(name: str, width: int, rows: Rows = Rows.TOKENS, dtype: Any = np.float32) -> Any:
            return program.buffer(name, width, rows=rows, dtype=dtype)

        x, h, up, gate, y = (buffer(name, width) for name in ("x", "h", "up", "gate", "y"))
        packed = buffer("packed", packed_bytes(width), dtype=np.uint8)
        last, logits = buffer("last", width, Rows.OUTPUTS), buffer("logits", 21, Rows.OUTPUTS)
        square = {"n_columns": width, "n_out": width}
        w_up = random_weights(q4, width, width, rng)
        table, w_gate, w_out = (random_weights(f16, n, width, rng) for n in (21, width, 21))
        weight = np.ones(width, np.float32)

        step = program.step
        step("embed", PickRows(f16), table=table, rows=program.tokens, out=x, width=width)
        step("norm", RmsNorm(), x=x, weight=weight, out=h, width=width, eps=1e-5)
        step("pack", Pack(), x=h, out=packed, width=width)
        step("up", Linear(q4), weights=w_up, x=packed, out=up, **square)
        step("gate", FloatLinear(f16), weights=w_gate, x=h, out=gate, **square)
        step("silu", SiluMultiply(), x=gate, y=up, out=y, width=width)
        step("add", Add(), x=x, y=y, out=y, width=width)
        step("pick", PickRows(f32), table=y, rows=program.outputs, out=last, width=width)
        of_output = {"n_columns": width, "n_out": 21}
        step("output", FloatLinear(f16), weights=w_out, x=last, out=logits, **of_output)
        program.lay_out([logits])
        return cls(program, logits)

    def set_inputs(self, tokens: list[int], outputs: list[int]) -> None:
        self.program.state[:2] = len(tokens), len(outputs)
        self.program.tokens.data[: len(tokens)] = tokens
        self.program.outputs.data[: len(outputs)] = outputs
        self.logits.data[...] = np.nan

    def reference(self) -> Array:
        """The logits of this pass, by numpy."""
        self.program.reference()
        return self.logits.data[: self.program.state[1]].copy()


@pytest.mark.parametrize(
    ("tokens", "outputs"),
    [([5], [0]), ([1, 20, 3], [2]), ([7] * 8, [7, 0]), (list(range(12)), [11, 5, 0])],
)
@pytest.mark.parametrize("counted", [True, False], ids=["of so many rows", "of any number"])
def test_native_passes_are_those_of_the_reference(
    best_library: Library, tokens: list[int], outputs: list[int], counted: bool
) -> None:
    small = Small.record()
    n_tokens, n_outputs = (len(tokens), len(outputs)) if counted else (None, None)
    lowered = small.program.lower(best_library, n_tokens=n_tokens, n_outputs=n_outputs)
    small.set_inputs(tokens, outputs)
    expected = small.reference()
    small.set_inputs(tokens, outputs)
    team = Team(best_library, 2)
    try:
        team.run(lowered)
    finally:
        team.close()
    assert nmse(small.logits.data[: len(outputs)], expected) <= 1e-10


def test_one_program_serves_passes_of_every_size(best_library: Library) -> None:
    """Tokens, outputs and their numbers are read anew by each pass."""
    small = Small.record()
    lowered = small.program.lower(best_library)
    team = Team(best_library, 2)
    try:
        for tokens, outputs in (
            ([3, 1, 4], [2, 0]),
            ([15], [0]),
            ([9, 2] * 6, [11]),
            ([6, 5], [1]),
        ):
            small.set_inputs(tokens, outputs)
            expected = small.reference()
            small.set_inputs(tokens, outputs)
            team.run(lowered)
            assert nmse(small.logits.data[: len(outputs)], expected) <= 1e-10
    finally:
        team.close()


def test_two_threads_lower_at_once_while_passes_run(
    best_library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kernel is compiled once, and no pass is disturbed."""
    monkeypatch.setenv("LINNET_CACHE", "0")
    library, small = Library(best_library.isa), Small.record()
    of_any_number = small.program.lower(library)
    small.set_inputs([3, 1], [1])
    team, n_before = Team(library, 1), library.n_compiled
    try:
        team.run(of_any_number)
        expected, begun = small.logits.data.copy(), threading.Barrier(2)

        def lower() -> Lowered:
            begun.wait()
            return small.program.lower(library, n_tokens=2, n_outputs=1)

        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(lower) for _ in range(2)]
            while not all(future.done() for future in futures):
                small.logits.data[...] = np.nan
                team.run(of_any_number)
                assert np.array_equal(small.logits.data, expected, equal_nan=True)
        one, other = (future.result() for future in futures)
        assert library.n_compiled - n_before == len(
            set(one.records["function"].tolist()) - set(of_any_number.records["function"].tolist())
        )
        assert one.records["function"].tolist() == other.records["function"].tolist()
        for lowered in (one, other):
            small.logits.data[...] = np.nan
            team.run(lowered)
            assert nmse(small.logits.data[:1], expected[:1]) <= 1e-10
    finally:
        team.close()


def test_a_program_may_grow_and_move_between_lowerings() -> None:
    program, library = Program(4, 4), NoLibrary()
    a, x = program.buffer("a", 16), np.ones(1)
    program.step("one", Mix(), a=x, b=x, out=a)
    arrays: list[Array] = []
    for _ in range(2):
        a.array = None
        program.lay_out([a])
        arrays.append(a.data)  # alive, so that the next place is another
        (arguments,) = program.lower(library).arguments  # type: ignore[arg-type]
        assert arguments["out"].tolist() == [a.data.ctypes.data]
    program.step("two", Mix(), a=a, b=a, out=arrays[0])
    assert waits_of(program.lower(library).records) == [False, True]  # type: ignore[arg-type]


def test_scratch_is_for_as_many_rows_as_a_step_may_have(best_library: Library) -> None:
    """Here there are more outputs than tokens."""
    q8 = WEIGHT_TYPES["Q8_0"]
    program = Program(max_tokens=1, max_outputs=300)
    x = program.buffer("x", packed_bytes(256), rows=Rows.OUTPUTS, dtype=np.uint8)
    out = program.buffer("out", 64, rows=Rows.OUTPUTS)
    weights = np.zeros((64, q8.row_bytes(256)), np.uint8)
    program.step("product", Linear(q8), weights=weights, x=x, out=out, n_columns=256, n_out=64)
    program.lay_out([x, out])
    isa = best_library.isa
    needed = Linear(q8).lowered(None, isa).scratch_bytes(isa, 300)
    assert program.lower(best_library).scratch_bytes >= needed > 0


def test_a_lowered_program_owns_all_it_points_at(best_library: Library) -> None:
    small = Small.record()
    lowered = small.program.lower(best_library)
    state = weakref.ref(small.program.state)
    buffers = [weakref.ref(buffer.data) for buffer in (small.logits, small.program.tokens)]
    del small
    gc.collect()
    assert state() is not None
    assert all(buffer() is not None for buffer in buffers)
    del lowered
    gc.collect()
    assert state() is None
