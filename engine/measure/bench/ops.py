"""Kernels one by one: a row for each type of weights, shape and number of rows.

Shapes are those of a Llama of 1B, unless others are asked for. Products are measured with weights
from memory (matrices in turn, four times what the last cache holds) and from a core's own cache
(one matrix of half its size, or of the shape asked for if it is no larger, again and again). The
roofline is the longer of what reading takes, at the bandwidth measured
on the same arrays, and what computing takes, at the measured peak of the instruction.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.engine.machine import available_memory, cache_size, check_memory
from linnet.engine.measure.roofline import peak_rate, read_bandwidth
from linnet.engine.measure.synthetic import random_weights
from linnet.kernels.compiler.host import choose_isa
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.elementwise import SiluMultiply
from linnet.kernels.ops.peak import Peak, PeakFMA
from linnet.kernels.products.base import Product
from linnet.kernels.quants import WEIGHT_TYPES, QuantType, WeightType
from linnet.kernels.runtime.program import Buffer, Program
from linnet.kernels.runtime.team import Team
from linnet.models.parts.graph import Graph
from linnet.models.parts.numerics import INT8, Numerics
from linnet.models.parts.rotary import RotaryEmbedding
from linnet.models.parts.weights import Matrix

Row = dict[str, Any]
Bytes = npt.NDArray[np.uint8]
Shape = tuple[int, int]  # of a matrix: rows, which are outputs, and columns

FEW, MANY = (1, 2, 4, 8), 512
N_EMBD, N_FF, N_HEADS, N_KV_HEADS, HEAD_DIM = 2048, 8192, 32, 8, 64
DEPTH = 8192
OUT_BYTES = 128 << 10  # of results in a pass from cache, so that they leave it to the weights
MOST_STEPS = 64  # in a pass from cache
MOST_MATRICES = 4096  # in a pass from memory: what takes more is too small to come from there
LEAST_SECONDS = 0.05  # of passes measured
L2_BYTES, L3_BYTES = 1 << 20, 32 << 20  # where the system does not tell
OTHERS = ("attend", "norm", "rope", "pack", "silu")


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel: `record` writes a step called `step` into a graph, anew for each of `copies`."""

    op: str
    shape: str
    n_rows: int
    step: str
    record: Callable[[Graph, int], None]  # and the number of the copy
    type: str = ""
    source: str = ""  # memory or cache
    copies: int = 1
    arrays: Sequence[Bytes] = ()  # what is read, but for caches: the roofline is measured with it
    peak: Peak | None = None  # that of products is their own
    depth: int = MANY

    @property
    def is_prompt(self) -> bool:
        return self.n_rows == MANY


def names() -> tuple[str, ...]:
    """What can be asked for: types of weights, and the other kernels."""
    return (*WEIGHT_TYPES, *OTHERS)


def ops(
    wanted: Sequence[str] = (), *, shapes: Sequence[Shape] = (), n_threads: int = 1,
    isa: str | None = None, numerics: Numerics = INT8, repetitions: int = 5,
) -> Iterator[Row]:  # fmt: skip
    """A row for each kernel of `wanted`, by default of all; products of these `shapes`, if any.

    Raises ValueError for a name that is not among `names`, for a shape that is no product's or not
    the type's, MemoryError and ISAError.
    """
    for name in wanted:
        if name not in names():
            raise ValueError(f"kernel {name!r} is unknown; known: {', '.join(names())}")
        if shapes and name not in WEIGHT_TYPES:
            raise ValueError(f"--shape is for products with weights, which {name} is not")
    wanted = wanted or (tuple(WEIGHT_TYPES) if shapes else names())
    for (_, n_columns), name in itertools.product(shapes, wanted):
        WEIGHT_TYPES[name].row_bytes(n_columns)
    library = Library(choose_isa(isa))
    team = Team(library, n_threads)
    try:
        for name in wanted:
            type = WEIGHT_TYPES.get(name)
            for case in _others(name) if type is None else _products(type, shapes, numerics):
                yield _measure(case, library, team, numerics=numerics, repetitions=repetitions)
    finally:
        team.close()


def _products(type: WeightType, shapes: Sequence[Shape], numerics: Numerics) -> Iterator[Case]:
    """Of each shape from memory with few rows and many, then from cache with few."""
    cache = (cache_size(2) or L2_BYTES) // 2
    for n_out, n_columns in shapes or [(N_FF, N_EMBD)]:
        row_bytes = type.row_bytes(n_columns)
        n_matrices = max(2, -(-4 * (cache_size(3) or L3_BYTES) // (n_out * row_bytes)))
        if n_matrices <= MOST_MATRICES:
            yield from _product(type, (n_out, n_columns), n_matrices, "memory", numerics)
        if not shapes:
            n_out = max(32, cache // row_bytes // 32 * 32)
        if n_out * row_bytes <= cache:
            yield from _product(type, (n_out, n_columns), 1, "cache", numerics)


def _product(
    type: WeightType, shape: Shape, n_matrices: int, source: str, numerics: Numerics
) -> Iterator[Case]:
    """Of so many matrices in turn, or of one from cache."""
    in_int8 = isinstance(type, QuantType) and numerics.activations == "int8"
    op = "linear" if in_int8 else "linear f32"
    n_out, n_columns = shape
    n_bytes = n_matrices * n_out * type.row_bytes(n_columns)
    check_memory(n_bytes, available_memory(), f"{type.name} {n_out} x {n_columns}", "a smaller one")
    weights = random_weights(np.random.default_rng(0), type, n_matrices * n_out, n_columns)
    packed = weights.reshape(n_matrices, n_out, -1)
    matrices = [Matrix("weights", type, n_out, n_columns, matrix) for matrix in packed]

    def case(n_rows: int, copies: int) -> Case:
        inputs: dict[int, Buffer] = {}

        def record(graph: Graph, copy: int) -> None:
            x = inputs.setdefault(id(graph), graph.program.buffer("x", n_columns))
            graph.linear(x, matrices[copy % n_matrices])

        arrays = [matrices[copy % n_matrices].packed for copy in range(copies)]
        named = f"{n_out} x {n_columns}"
        return Case(op, named, n_rows, "weights", record, type.name, source, copies, arrays)

    for n_rows in FEW:
        from_cache = min(MOST_STEPS, max(4, OUT_BYTES // (4 * n_rows * n_out)))
        yield case(n_rows, n_matrices if source == "memory" else from_cache)
    if source == "memory":
        yield case(MANY, 1)


def _others(name: str) -> Iterator[Case]:
    """Kernels without packed weights."""
    if name == "attend":
        for n_rows in FEW:
            yield _attention(n_rows, DEPTH)
        yield _attention(MANY, MANY)
        return
    weight = np.ones(N_EMBD, np.float32)
    rope = RotaryEmbedding(np.ones(HEAD_DIM // 2), adjacent=True)

    def record(graph: Graph, _: int) -> None:
        x, y = (graph.program.buffer(n, N_FF if name == "silu" else N_EMBD) for n in "xy")
        if name == "norm":
            graph.rms_norm(x, weight, 1e-5)
        elif name == "rope":
            rope.rotate(graph, x, HEAD_DIM)
        elif name == "silu":
            graph.combine(SiluMultiply(), x, y)
        else:
            graph.linear(x, nothing)

    type = WEIGHT_TYPES["Q8_0"]
    packed = np.zeros((1, type.row_bytes(N_EMBD)), np.uint8)
    nothing = Matrix("nothing", type, 1, N_EMBD, packed)  # what is quantised must have a use
    for n_rows in (*FEW, MANY):
        copies = 1 if n_rows == MANY else MOST_STEPS
        shape = str(N_FF if name == "silu" else N_EMBD)
        step = "silumultiply" if name == "silu" else name
        yield Case(name, shape, n_rows, step, record, copies=copies)


def _attention(n_rows: int, depth: int) -> Case:
    n_slots = 1 if n_rows == MANY else n_rows
    n_bytes = 2 * n_slots * N_KV_HEADS * depth * HEAD_DIM * 2
    copies = 1 if n_rows == MANY else max(2, -(-4 * (cache_size(3) or L3_BYTES) // n_bytes))

    def record(graph: Graph, _: int) -> None:
        widths = (N_HEADS * HEAD_DIM, *[N_KV_HEADS * HEAD_DIM] * 2)
        q, k, v = (graph.program.buffer(n, w) for n, w in zip("qkv", widths, strict=True))
        graph.attend(q, k, v, graph.cache(N_KV_HEADS, HEAD_DIM), scale=HEAD_DIM**-0.5)

    source = "cache" if n_rows == MANY else "memory"
    return Case(
        "attend", f"d{depth}", n_rows, "attend", record, "F16", source, copies, peak=PeakFMA(),
        depth=depth,
    )  # fmt: skip


def _measure(
    case: Case, library: Library, team: Team, *, numerics: Numerics, repetitions: int
) -> Row:
    program = Program(case.n_rows, 1)
    n_slots = 1 if case.is_prompt else case.n_rows
    graph = Graph(program, n_ctx=case.depth, numerics=numerics)
    for copy in range(case.copies):
        case.record(graph, copy)
    program.steps = [step for step in program.steps if step.name == case.step]
    _lay_out(program)
    graph.allocate(n_slots)
    caches = [array.data for cache in graph.caches for array in (cache.keys, cache.values)]
    for array in caches:
        array[...] = 0.5
    n = case.n_rows
    program.state[:2] = n, 0
    program.positions.data[:n] = range(n) if case.is_prompt else case.depth - 1
    program.slots.data[:n] = 0 if case.is_prompt else range(n)
    n_tokens = None if case.is_prompt else n
    lowered, op = program.lower(library, n_tokens=n_tokens), program.steps[0].op
    chosen = op.lowered(n_tokens, library.isa)
    peak = chosen.peak if isinstance(chosen, Product) else case.peak
    samples = _seconds(lambda: team.run(lowered), repetitions)
    seconds = statistics.median(samples) / case.copies
    done = program.work(program.steps[0])
    row: Row = {
        "op": case.op,
        "type": case.type,
        "shape": case.shape,
        "n_rows": n,
        "from": case.source,
        "isa": library.isa.name,
        "instruction": peak.name if peak else "",
        "n_threads": team.n_threads,
        "n_bytes": done.n_bytes,
        "n_operations": done.n_operations,
        "us": seconds * 1e6,
        "gb_s": done.n_bytes / seconds / 1e9,
        "gflop_s": done.n_operations / seconds / 1e9,
        "read_gb_s": None,
        "peak_gflop_s": None,
        "of_peak": None,
        "roofline": None,
    }
    arrays = [*case.arrays, *(array.reshape(-1).view(np.uint8) for array in caches)]
    if arrays and peak:
        bandwidth = read_bandwidth(team, library, arrays)
        row["read_gb_s"] = bandwidth / 1e9
        if rate := peak_rate(team, library, peak):
            computing = done.n_operations / rate
            row |= {
                "peak_gflop_s": rate / 1e9,
                "of_peak": computing / seconds,
                "roofline": max(done.n_bytes / bandwidth, computing) / seconds,
            }
    return row


def _lay_out(program: Program) -> None:
    """Give every buffer memory of its own, full of ones, or zeros where it is packed: so steps need
    not wait for each other."""
    buffers = {
        argument
        for step in program.steps
        for argument in step.arguments.values()
        if isinstance(argument, Buffer) and argument.array is None
    }
    program.lay_out(keep=list(buffers))
    for buffer in buffers:
        buffer.data[...] = buffer.dtype.kind == "f"


def _seconds(run: Callable[[], None], repetitions: int) -> list[float]:
    """Of each run, after one to warm up."""
    run()
    samples: list[float] = []
    while len(samples) < repetitions or sum(samples) < LEAST_SECONDS:
        started = time.perf_counter()
        run()
        samples.append(time.perf_counter() - started)
    return samples
