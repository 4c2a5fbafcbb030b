"""Tokens a second of a model: tests as llama-bench runs and names them, and their statistics."""

from __future__ import annotations

import datetime
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from linnet.engine.gguf.description import description, n_params
from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.machine import cpu_name
from linnet.engine.measure.bench.build import build
from linnet.engine.measure.bench.workload import Workload
from linnet.engine.measure.roofline import peak_rate
from linnet.engine.measure.synthetic import synthetic_model
from linnet.kernels.compiler.host import choose_isa
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.peak import Peak, PeakFMA
from linnet.kernels.products.base import Product
from linnet.models import load_model
from linnet.models.parts.numerics import INT8, Numerics
from linnet.models.parts.weights import Tensor

Row = dict[str, Any]
# What llama-bench says besides, and scripts look for: of GPUs, which there are not, and of what is
# no setting here. Attention never stores its scores, as what is called flash attention.
NOT_SET: Row = {
    "cpu_mask": "0x0", "cpu_strict": False, "poll": None, "n_gpu_layers": 0, "n_cpu_moe": 0,
    "split_mode": "none", "main_gpu": None, "no_kv_offload": False, "flash_attn": 1,
    "devices": "none", "tensor_split": "0.00", "tensor_buft_overrides": "none",
    "use_direct_io": False, "embeddings": False, "no_op_offload": 0, "no_host": False,
    "repack": False, "fit_target": 0, "fit_min_ctx": 0,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchTest:
    """One line of the report: a prompt, a generation, or one after the other, on a filled cache.

    `n_parallel` sequences do it: prompts in turn, generation at once.
    """

    n_prompt: int
    n_gen: int
    n_depth: int = 0
    n_batch: int = 512  # tokens in a pass of the prompt
    n_threads: int = 1
    n_parallel: int = 1

    @property
    def name(self) -> str:
        parts = [f"pp{self.n_prompt}"] * bool(self.n_prompt) + [f"tg{self.n_gen}"] * bool(
            self.n_gen
        )
        times = f" x{self.n_parallel}" if self.n_parallel > 1 else ""
        depth = f" @ d{self.n_depth}" if self.n_depth else ""
        return "+".join(parts) + times + depth

    @property
    def n_tokens(self) -> int:
        """Of all sequences, without those that fill the cache before."""
        return self.n_parallel * (self.n_prompt + self.n_gen)


def all_tests(
    *, prompts: Sequence[int], gens: Sequence[int], both: Sequence[tuple[int, int]],
    depths: Sequence[int], batches: Sequence[int], threads: Sequence[int], parallel: Sequence[int],
) -> list[BenchTest]:  # fmt: skip
    """Every combination, in llama-bench's order; tests of no tokens are left out."""
    pairs = [*((n, 0) for n in prompts), *((0, n) for n in gens), *both]
    return [
        BenchTest(
            n_prompt=n_prompt, n_gen=n_gen, n_depth=depth, n_batch=batch, n_threads=n_threads,
            n_parallel=n_parallel,
        )
        for batch, n_threads, depth, n_parallel in itertools.product(
            batches, threads, depths, parallel
        )
        for n_prompt, n_gen in pairs
        if n_prompt or n_gen
    ]  # fmt: skip


class BenchModel:
    """A model to be measured: a GGUF file, or real shapes with random weights."""

    def __init__(self, name: str, *, synthetic: bool = False, n_layers: int | None = None) -> None:
        """`n_layers`: of a synthetic model, instead of the shape's own. Raises ValueError for an
        unknown shape. Files are opened later."""
        self.name, self.synthetic = name, synthetic
        self._model = synthetic_model(name, n_layers=n_layers) if synthetic else None

    @contextmanager
    def open(self) -> Iterator[tuple[Mapping[str, object], Mapping[str, Tensor]]]:
        """Metadata and tensors. Raises GGUFError and OSError."""
        if self._model is not None:
            yield self._model.metadata, self._model.tensors
            return
        with GGUFFile(self.name) as file:
            yield file.metadata, file.tensors


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready for a test."""

    workload: Workload
    facts: Row  # about the model
    load_seconds: float  # until passes could be compiled and run
    first_token_seconds: float  # load and compilation included, until a first prompt's logits

    @property
    def compile_seconds(self) -> float:
        return self.workload.runner.library.compile_seconds


@contextmanager
def load(
    model: BenchModel, test: BenchTest, *, isa: str | None, numerics: Numerics
) -> Iterator[Loaded]:
    """Load anew, as if a process began. Raises what opening, `load_model` and compiling raise."""
    started = time.perf_counter()
    with model.open() as (metadata, tensors):
        workload = Workload(
            load_model(metadata, tensors),
            Library(choose_isa(isa)),
            n_threads=test.n_threads,
            n_ctx=max(1, test.n_depth + test.n_prompt + test.n_gen),
            n_batch=test.n_batch,
            n_parallel=test.n_parallel,
            numerics=numerics,
        )
        try:
            loaded = time.perf_counter()
            workload.prompt(1)
            first = time.perf_counter()
            facts = model_facts(model, metadata, tensors)
            yield Loaded(workload, facts, loaded - started, first - started)
        finally:
            workload.close()


def measure(
    model: BenchModel, test: BenchTest, *, repetitions: int = 5, warmup: bool = True,
    isa: str | None = None, numerics: Numerics = INT8,
    tick: Callable[[], None] = lambda: None,
) -> Row:  # fmt: skip
    """Run a test; `tick` is called after each repetition. Raises what `load` raises."""
    with load(model, test, isa=isa, numerics=numerics) as loaded:
        workload = loaded.workload
        fill(workload, test.n_depth)
        if warmup:
            _run(workload, test, n_gen=min(test.n_gen, 1))
        samples_ns = []
        for _ in range(repetitions):
            samples_ns.append(_run(workload, test, n_gen=test.n_gen))
            tick()
        workload.n_filled = test.n_depth
        n_bytes = workload.bytes_read(test.n_prompt, test.n_gen)
        return {
            **build(),
            "cpu_info": cpu_name(),
            "gpu_info": "",
            "backends": "CPU",
            "isa": workload.runner.library.isa.name,
            **loaded.facts,
            "n_batch": test.n_batch,
            "n_ubatch": test.n_batch,
            "n_threads": test.n_threads,
            **NOT_SET,
            "type_k": numerics.key_type.name,
            "type_v": numerics.value_type.name,
            "n_prompt": test.n_prompt,
            "n_gen": test.n_gen,
            "n_depth": test.n_depth,
            "n_parallel": test.n_parallel,
            "test": test.name,
            "test_time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            **statistics_of(samples_ns, test.n_tokens, n_bytes, workload.read_bandwidth()),
            "load_s": loaded.load_seconds,
            "compile_s": loaded.compile_seconds,
            "first_token_s": loaded.first_token_seconds,
        }


def roofs(
    model: BenchModel, test: BenchTest, *, isa: str | None = None, numerics: Numerics = INT8
) -> tuple[float, dict[str, float]]:
    """Bytes a second that can be read of the weights, and arithmetic operations a second by the
    name of the instruction that the weights' types need, where `peak_rate` knows them. Raises what
    `load` raises."""
    with load(model, test, isa=isa, numerics=numerics) as loaded:
        workload, runner = loaded.workload, loaded.workload.runner
        ops: dict[str, Peak] = {"f32 FMA": PeakFMA()}
        steps = [step.op for step in runner.program.steps]
        for n_rows in (None, 1):
            lowered = [op.lowered(n_rows, runner.library.isa) for op in steps]
            ops |= {op.peak.name: op.peak for op in lowered if isinstance(op, Product)}
        rates = {name: peak_rate(runner.team, runner.library, op) for name, op in ops.items()}
        return workload.read_bandwidth(), {name: rate for name, rate in rates.items() if rate}


def statistics_of(samples_ns: Sequence[int], n_tokens: int, n_bytes: int, bandwidth: float) -> Row:
    """What follows from the samples: each took `n_tokens` and had to read `n_bytes`.

    `bandwidth`: bytes a second that the machine can read.
    """
    samples_ts = [1e9 * n_tokens / ns for ns in samples_ns]
    gb_s = statistics.fmean(n_bytes / ns for ns in samples_ns)
    return {
        "avg_ns": round(statistics.fmean(samples_ns)),
        "stddev_ns": round(_deviation(samples_ns)),
        "avg_ts": statistics.fmean(samples_ts),
        "stddev_ts": _deviation(samples_ts),
        "gb_s": gb_s,
        "read_gb_s": bandwidth / 1e9,
        "roofline": gb_s / (bandwidth / 1e9),
        "samples_ns": list(samples_ns),
        "samples_ts": samples_ts,
    }


def fill(workload: Workload, n_positions: int) -> None:
    """Have so many positions of every sequence cached, and no more."""
    workload.n_filled = 0
    if n_positions:
        workload.prompt(n_positions)


def model_facts(
    model: BenchModel, metadata: Mapping[str, object], tensors: Mapping[str, Tensor]
) -> Row:
    """The model's keys of llama-bench: file name, type, bytes and number of weights, and how they
    are loaded; and whether they are random."""
    return {
        "model_filename": model.name,
        "model_type": description(metadata, tensors),
        "model_size": sum(tensor.data.nbytes for tensor in tensors.values()),
        "model_n_params": n_params(tensors),
        "synthetic": model.synthetic,
        "use_mmap": not model.synthetic,
        "load_mode": "none" if model.synthetic else "mmap",
    }


def _run(workload: Workload, test: BenchTest, *, n_gen: int) -> int:
    """Nanoseconds of the test's prompt and `n_gen` tokens after it, from its depth on."""
    workload.n_filled = test.n_depth
    started = time.perf_counter_ns()
    if test.n_prompt:
        workload.prompt(test.n_prompt)
    for _ in range(n_gen):
        workload.generate()
    return time.perf_counter_ns() - started


def _deviation(samples: Iterable[float]) -> float:
    """Of a sample, as llama-bench: 0 for a single one."""
    values = list(samples)
    return statistics.stdev(values) if len(values) > 1 else 0.0
