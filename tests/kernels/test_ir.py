"""The vector-expression language: each word of it, next to numpy."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from support.kernel_harness import Array, Snippet, evaluate, map_vectors, run_traced

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import (
    Family,
    Kernel,
    Pointer,
    Type,
    Value,
    f16,
    f32,
    i8,
    i16,
    i32,
    i64,
    pointer,
    u8,
    u16,
    u32,
    u64,
)
from linnet.kernels.isa import ISA, ISAS
from linnet.kernels.isa.families import ARM64, X86, family

f64 = Type("f", 64)
LANES = 16
INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


def integers(dtype: Any, *, zero: bool = True) -> Array:
    """A vector with the ends of the type's range in it."""
    limits = np.iinfo(dtype)
    numbers = np.random.default_rng(1).integers(limits.min, limits.max, LANES, dtype, endpoint=True)
    numbers[:3] = limits.min, limits.max, 1
    return numbers if zero else np.where(numbers == 0, 3, numbers).astype(dtype)


def floats(*, seed: int = 2) -> Array:
    return np.random.default_rng(seed).standard_normal(LANES).astype(np.float32)


# ---- arithmetic ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap_and_combine_as_in_numpy(best_library: Library, dtype: Any) -> None:
    x, y = integers(dtype), integers(dtype)[::-1].copy()

    def expression(k: Any, x: Any, y: Any, seven: Any = 7) -> list[Any]:
        combined = [x + y, x - y, x * y, x & y, x | y, x ^ y, -x]
        return [*combined, seven + x, seven - x, seven * x, seven & x, seven | x]

    with np.errstate(over="ignore"):
        expected = expression(None, x, y, dtype(7))
    for actual, wanted in zip(evaluate(best_library, expression, x, y), expected, strict=True):
        assert actual.tolist() == wanted.tolist()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_divide_towards_zero(best_library: Library, dtype: Any) -> None:
    limits = np.iinfo(dtype)
    x = integers(dtype)
    y = np.array([1, 2, 3, 7] * 4, dtype)
    if limits.min < 0:
        y[::2] *= -1
        x[0] += 1  # the lowest, divided by -1, is no number of the type
    quotient, remainder = evaluate(best_library, lambda k, x, y: [x // y, x % y], x, y)
    pairs = list(zip(x.tolist(), y.tolist(), strict=True))
    truth = [math.trunc(Fraction(a, b)) for a, b in pairs]
    assert quotient.tolist() == truth
    assert remainder.tolist() == [a - q * b for (a, b), q in zip(pairs, truth, strict=True)]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_shifts_to_the_right_keep_the_sign_of_signed_lanes(
    best_library: Library, dtype: Any
) -> None:
    x = integers(dtype)
    by = (np.arange(LANES) % (8 * x.itemsize)).astype(dtype)
    right, left, by_three = evaluate(
        best_library, lambda k, x, by: [x >> by, x << by, x >> 3], x, by
    )
    assert right.tolist() == (x >> by).tolist()
    assert left.tolist() == (x << by).tolist()
    assert by_three.tolist() == (x >> dtype(3)).tolist()


def test_floats_combine_as_in_numpy(best_library: Library) -> None:
    x, y = floats(seed=3), floats(seed=4)

    def expression(k: Any, x: Any, y: Any) -> list[Any]:
        powers = [x * x + y, x * x * x]
        return [x + y, x - y, x * y, x / y, -x, 1 + x, 1 - x, 2 * x, 1 / x, x / 3, *powers]

    results = evaluate(best_library, expression, x, y)
    for actual, expected in zip(results, expression(None, x, y), strict=True):
        assert actual.tolist() == expected.tolist()


def test_square_roots_are_rounded_correctly(best_library: Library) -> None:
    x = np.abs(floats())
    vector, scalar = evaluate(best_library, lambda k, x: [k.square_root(x), k.square_root(x[5])], x)
    assert vector.tolist() == np.sqrt(x).tolist()
    assert scalar.tolist() == np.sqrt(x[5:6]).tolist()


def test_fma_rounds_once_where_the_cpu_has_one_and_twice_elsewhere(library: Library) -> None:
    x = np.float32(1 + 2.0**-12)
    square, rounded = float(x) ** 2, float(x * x)  # differ in the last bit of the product
    numbers = np.full(8, x), np.full(8, -x * x)
    (rest,) = evaluate(library, lambda k, x, y: [k.fma(x, x, y)], *numbers)
    once = "fma" in library.isa.needs
    assert rest.tolist() == [square - rounded if once else 0.0] * 8
    assert square != rounded


def test_scalars_spread_over_vectors(best_library: Library) -> None:
    x = floats()
    left, right, fused = evaluate(
        best_library, lambda k, x: [x[3] - x, x - x[3], k.fma(x, x[0], x[1])], x
    )
    assert left.tolist() == (x[3] - x).tolist()
    assert right.tolist() == (x - x[3]).tolist()
    assert np.allclose(fused, x * x[0] + x[1])


def test_types_do_not_mix() -> None:
    k = Kernel("mixed", {"x": i32, "y": u32, "z": f32}, ISAS[-1])
    x, y, z = k.parameters.values()
    for left, right in itertools.permutations((x, y, z), 2):
        with pytest.raises(TypeError, match=r"mixed: .* do not mix"):
            left + right
    with pytest.raises(TypeError, match=r"i32\[4\] and i32\[8\]"):
        x.splat(4) + x.splat(8)


# ---- comparison ----------------------------------------------------------------------------------


def compare(k: Kernel, x: Value, y: Value) -> list[Value]:
    return [x < y, x <= y, x > y, x >= y, x.equals(y)]


@pytest.mark.parametrize("dtype", [*INTEGERS, np.float32])
def test_comparisons_mind_the_sign(best_library: Library, dtype: Any) -> None:
    if dtype is np.float32:
        x, y = np.float32([1, -1, 2, np.nan, np.inf, -0.0]), np.float32([1, 1, np.nan, 1, 2, 0.0])
    else:
        x, y = integers(dtype), np.roll(integers(dtype), 1)
        y[5:8] = x[5:8]
    expected = [x < y, x <= y, x > y, x >= y, x == y]
    for actual, wanted in zip(evaluate(best_library, compare, x, y), expected, strict=True):
        assert actual.tolist() == wanted.tolist()


def test_select_takes_each_lane_from_one_side(best_library: Library) -> None:
    x, y = floats(seed=5), floats(seed=6)
    both, number = evaluate(
        best_library, lambda k, x, y: [(x < y).select(x, y), (x < y).select(x, 9.0)], x, y
    )
    assert both.tolist() == np.where(x < y, x, y).tolist()
    assert number.tolist() == np.where(x < y, x, 9).tolist()


def test_maximum_and_minimum_keep_their_first_operand_where_there_is_a_nan(
    best_library: Library,
) -> None:
    x, y = np.float32([1, 5, np.nan, 2]), np.float32([3, 4, 1, np.nan])
    largest, smallest, bounded = evaluate(
        best_library, lambda k, x, y: [k.maximum(x, y), k.minimum(x, y), k.minimum(x, 2.5)], x, y
    )
    assert np.array_equal(largest, np.float32([3, 5, np.nan, 2]), equal_nan=True)
    assert np.array_equal(smallest, np.float32([1, 4, np.nan, 2]), equal_nan=True)
    assert np.array_equal(bounded, np.float32([1, 2.5, np.nan, 2]), equal_nan=True)


# ---- conversion ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [i8, u8, i16, u16, i32, u32, i64, f32], ids=str)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_convert_by_their_sign(best_library: Library, dtype: Any, target: Type) -> None:
    x = integers(dtype)
    (result,) = evaluate(best_library, lambda k, x: [x.to(target)], x)
    assert result.tolist() == x.astype(result.dtype).tolist()


@pytest.mark.parametrize("target", [i8, i32, i64, f64], ids=str)
def test_floats_convert_towards_zero(best_library: Library, target: Type) -> None:
    x = np.float32([0.0, -0.0, 0.99, -0.99, 1.5, -1.5, 126.9, -127.9])
    (result,) = evaluate(best_library, lambda k, x: [x.to(target)], x)
    assert result.tolist() == x.astype(result.dtype).tolist()


def test_bits_are_read_as_another_type(best_library: Library) -> None:
    x = floats()
    as_words, as_bytes, back = evaluate(
        best_library,
        lambda k, x: [x.bits(u32[16]), x.bits(u8[64]), x.bits(u32[16]).bits(f32[16])],
        x,
    )
    assert as_words.tolist() == x.view(np.uint32).tolist()
    assert as_bytes.tolist() == x.view(np.uint8).tolist()
    assert back.tolist() == x.tolist()


HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


@pytest.mark.parametrize("lanes", [0, 1, 4, 8, 16])
def test_every_half_widens_exactly(library: Library, lanes: int) -> None:
    wide = map_vectors(library, lambda k, x: x.to(f32), HALVES, np.float32, lanes)
    expected = HALVES.astype(np.float32)
    is_nan = np.isnan(expected)
    assert np.array_equal(np.isnan(wide), is_nan)
    assert np.array_equal(wide.view(np.uint32)[~is_nan], expected.view(np.uint32)[~is_nan])


def floats_around_halves() -> Array:
    """Floats of all sizes; and every half, what lies midway to the next, and their neighbours."""
    random = np.random.default_rng(7).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    halves = HALVES[np.isfinite(HALVES)].astype(np.float32)
    middles = (halves[:-1] + halves[1:]) / 2
    exact = np.concatenate([halves, middles, np.float32([np.inf, 65519.996, 65520, 1e30])])
    exact = np.concatenate([exact, -exact]).view(np.uint32)
    bits = np.concatenate([random, exact - 1, exact, exact + 1])
    return bits[: bits.size // 16 * 16].view(np.float32)


@pytest.mark.parametrize("lanes", [0, 1, 4, 8, 16])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_floats_round_to_the_nearest_half(library: Library, lanes: int) -> None:
    x = floats_around_halves()
    narrow = map_vectors(library, lambda k, x: x.to(f16), x, np.float16, lanes)
    expected = x.astype(np.float16)
    is_nan = np.isnan(x)
    assert np.isnan(narrow[is_nan]).all()
    assert np.array_equal(narrow.view(np.uint16)[~is_nan], expected.view(np.uint16)[~is_nan])


# ---- lanes ---------------------------------------------------------------------------------------


def test_lanes_are_picked_repeated_and_joined(library: Library) -> None:
    x, y = np.arange(8, dtype=np.int32), np.arange(8, 16, dtype=np.int32)
    results = evaluate(
        library,
        lambda k, x, y: [
            x.shuffle([7, 0, 3, 3]),
            x.shuffle([0, 8, 1, 15], y),
            x[2:5],
            x[1::2],
            x[-3:],
            x[6],
            x.repeat_lanes(3),
            x[5].splat(4),
            k.concat([x, y]),
            k.concat([x[:2], y[:2], x[2:4], y[2:4]]),
            k.vector([x[3], y[3], x[0]]),
        ],
        x, y,
    )  # fmt: skip
    assert [result.tolist() for result in results] == [
        [7, 0, 3, 3],
        [0, 8, 1, 15],
        [2, 3, 4],
        [1, 3, 5, 7],
        [5, 6, 7],
        [6],
        [lane for lane in range(8) for _ in range(3)],
        [5, 5, 5, 5],
        list(range(16)),
        [0, 1, 8, 9, 2, 3, 10, 11],
        [3, 11, 0],
    ]


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16, 32])
def test_sums_halve_and_so_have_one_order(library: Library, n: int) -> None:
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32) * np.float32(1e3)
    expected = x
    while expected.size > 1:
        expected = expected[: expected.size // 2] + expected[expected.size // 2 :]
    total, largest = evaluate(library, lambda k, x: [x.sum(), x.max()], x)
    assert total.tolist() == expected.tolist()
    assert largest.tolist() == [x.max()]


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_transposing_turns_rows_into_columns(library: Library, n: int) -> None:
    rows = np.arange(n * n, dtype=np.int32).reshape(n, n)
    columns = evaluate(library, lambda k, *vectors: k.transpose(vectors), *rows)
    assert np.array_equal(columns, rows.T)


def test_constants_are_one_number_or_one_a_lane(best_library: Library) -> None:
    results = evaluate(
        best_library,
        lambda k: [
            k.constant(f32[4], 1),
            k.constant(i32[3], [1, -2, 3]),
            k.constant(f32, -np.inf),
            k.constant(u8, 255),
            k.constant(f32[2], [0.5, -0.0]),
        ],
    )
    expected = [[1.0] * 4, [1, -2, 3], [-np.inf], [255], [0.5, -0.0]]
    assert [result.tolist() for result in results] == expected


# ---- memory --------------------------------------------------------------------------------------


def test_memory_needs_no_alignment(library: Library) -> None:
    source, target = np.arange(100, dtype=np.uint8), np.zeros(100, np.uint8)

    def copy(k: Kernel, source: Pointer, target: Pointer) -> None:
        source.at(3).prefetch(1 << 20)
        target.at(5).store(source.at(3).load(f32[16]), 2)

    run_traced(library, copy, source, target)
    assert target.tolist() == [0] * 7 + list(range(3, 67)) + [0] * 29


def test_pointers_and_functions_are_found_in_memory(best_library: Library) -> None:
    """As programs find theirs."""
    numbers, slots = np.zeros(2, np.int64), np.zeros(3, np.uint64)

    def store_seven(k: Kernel, out: Pointer) -> None:
        out.store(k.constant(i64, 7))

    def call_both(k: Kernel, slots: Pointer) -> None:
        function = slots.load_pointer()
        for i in (1, 2):
            k.call(function, slots.load_pointer(8 * i))

    seven = Snippet(best_library.isa, 1, store_seven)
    slots[:] = best_library.address(seven), numbers.ctypes.data, numbers.ctypes.data + 8
    run_traced(best_library, call_both, slots)
    assert numbers.tolist() == [7, 7]


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_atomics_load_store_and_add(library: Library, dtype: Any) -> None:
    number = Type("u", 8 * np.dtype(dtype).itemsize)
    shared, seen = np.array([5, 0], dtype), np.zeros(2, dtype)

    def touch(k: Kernel, shared: Pointer, seen: Pointer) -> None:
        before = shared.atomic_add(k.constant(number, 3))
        seen.store(before)
        seen.store(shared.atomic_load(number), number.bytes)
        shared.atomic_store(before * 100, number.bytes)

    run_traced(library, touch, shared, seen)
    assert seen.tolist() == [5, 8]
    assert shared.tolist() == [8, 500]


def test_atomic_replace_stores_only_over_what_was_expected(library: Library) -> None:
    shared, seen = np.array([0, 5], np.uint64), np.zeros(2, np.uint64)

    def touch(k: Kernel, shared: Pointer, seen: Pointer) -> None:
        for at, old in ((0, 4), (8, 5)):
            swapped = shared.atomic_replace(k.constant(u64, old), k.constant(u64, 9 + at), 8)
            seen.store(swapped.select(k.constant(u64, 1), 2), at)

    run_traced(library, touch, shared, seen)
    assert seen.tolist() == [2, 1]
    assert shared.tolist() == [0, 17]


# ---- control -------------------------------------------------------------------------------------


def trace_of(
    library: Library, body: Callable[[Kernel, Callable[[Value], None]], None], size: int = 64
) -> list[int]:
    """The numbers that a kernel notes down, in order; `body(k, note)`."""
    notes, count = np.zeros(size, np.int64), np.zeros(1, np.int64)

    def trace(k: Kernel, notes: Pointer, count: Pointer) -> None:
        def note(number: Value) -> None:
            n = count.load(i64)
            notes.store(number, n * 8)
            count.store(n + 1)

        body(k, note)

    run_traced(library, trace, notes, count)
    return notes[: count[0]].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("start", "stop", "step"), [(0, 5, 1), (0, 0, 1), (3, 2, 1), (2, 11, 3), (2, 10, 4), (-3, 1, 1)]
)
def test_ranges_are_those_of_python(library: Library, start: int, stop: int, step: int) -> None:
    def loop(k: Kernel, note: Callable[[Value], None]) -> None:
        for i in k.range(stop, start, step):
            note(i)

    assert trace_of(library, loop) == list(range(start, stop, step))


def test_loops_nest_and_cells_live_through_them(library: Library) -> None:
    def loop(k: Kernel, note: Callable[[Value], None]) -> None:
        total = k.cell(i64)
        for i in k.range(4):
            inner = k.cell(k.constant(i64, 100))
            for j in k.range(i):
                inner.set(inner.get() + j)
                total.set(total.get() + 1)
            note(inner.get())
        note(total.get())
        total.set(5)
        note(total.get())

    assert trace_of(library, loop) == [100, 100, 101, 103, 6, 5]


def test_a_cell_can_be_zeroed_from_further_on(library: Library) -> None:
    """At a mark before a loop in which it is first met."""

    def loop(k: Kernel, note: Callable[[Value], None]) -> None:
        mark = k.here()
        for i in k.range(4):
            total = k.cell(i64, "total", mark)
            total.set(total.get() + i)
            note(total.get())

    assert trace_of(library, loop) == [0, 1, 3, 6]


def test_when_runs_its_body_where_the_condition_holds(library: Library) -> None:
    def body(k: Kernel, note: Callable[[Value], None]) -> None:
        for i in k.range(10):
            with k.when(((i % 2).equals(0)) & (i > 3)):
                note(i)

    assert trace_of(library, body) == [4, 6, 8]


def test_loops_are_left_at_any_place(library: Library) -> None:
    def body(k: Kernel, note: Callable[[Value], None]) -> None:
        i = k.cell(i64)
        with k.loop() as loop:
            loop.leave(i.get() >= 100)
            note(i.get())
            i.set(i.get() + 1)
            loop.leave(i.get().equals(3))
            note(i.get() * 10)
        note(i.get() + 1000)
        k.pause()

    assert trace_of(library, body) == [0, 10, 1, 20, 2, 1003]


@pytest.mark.parametrize("sizes", [(8, 1), (16, 4, 1), (4, 2), (1,)])
def test_strips_cover_every_element_once_in_order(library: Library, sizes: tuple[int, ...]) -> None:
    counts = [*range(20), 33, 64]

    def body(k: Kernel, note: Callable[[Value], None]) -> None:
        for count in counts:
            for size, first in k.strips(k.constant(i64, count), sizes):
                note(first * 100 + size)

    expected = []
    for count in counts:
        first = 0
        for size in sizes:
            while count - first >= size:
                expected.append(first * 100 + size)
                first += size
    assert trace_of(library, body, 2000) == expected


# ---- what LLVM is kept from ----------------------------------------------------------------------


@pytest.mark.skipif(not family().vector_register, reason="no name of this CPU's registers is known")
def test_an_opaque_value_is_not_computed_ahead(
    best_library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LINNET_DUMP", "opt")
    library = Library(best_library.isa)

    def trace(k: Kernel, out: Pointer) -> None:
        one, two = (k.constant(i32[4], n) for n in (1, 2))
        out.store(k.opaque(one) + two)
        out.store(one + two, 16)

    out = np.zeros(8, np.int32)
    run_traced(library, trace, out)
    assert (out == 3).all()
    (dump,) = (tmp_path / "linnet-dump").iterdir()
    assert len(re.findall("= add", dump.read_text())) == 1  # the other sum is a constant


def isa_of(family: Family) -> Any:
    """An instruction set without words of its own."""
    return type("Abacus", (ISA,), {"family": family})()


def test_nothing_is_opaque_where_registers_have_no_name() -> None:
    """Rather than a value that LLVM sees through."""
    k = Kernel("kernel", {}, isa_of(Family()))
    with pytest.raises(NotImplementedError, match="the ISA does not name its vector registers"):
        k.opaque(k.constant(i32[4], 1))


def test_ticks_go_on(library: Library) -> None:
    def trace(k: Kernel, out: Pointer) -> None:
        for i in range(2):
            out.store(k.ticks(), 8 * i)

    out = np.zeros(2, np.int64)
    run_traced(library, trace, out)
    assert 0 < out[0] <= out[1]


@pytest.mark.parametrize(
    ("family", "triple", "expected"),
    [
        (ARM64(), "aarch64-linux-gnu", r"\tisb\n(.*\n)*\tmrs\tx\d+, CNTVCT_EL0\n"),
        (X86(), "x86_64-linux-gnu", r"\tpause\n(.*\n)*\trdtsc\n"),
        (Family(), "riscv64-linux-gnu", r"\trdtime\t"),
    ],
    ids=["arm64", "x86", "riscv64"],
)
def test_each_family_waits_and_tells_the_time_in_its_own_way(
    family: Family, triple: str, expected: str
) -> None:
    """In assembly of CPUs that this one need not be."""
    k = Kernel("kernel", {"out": pointer}, isa_of(family))
    k.pause()
    k.parameters["out"].store(k.ticks())
    if family.vector_register:
        k.parameters["out"].store(k.opaque(k.constant(i32[4], 1)), 8)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine()
    assembly = machine.emit_assembly(
        llvm.parse_assembly(f'target triple = "{triple}"\n{k.finish()}')
    )
    assert re.search(expected, assembly)
