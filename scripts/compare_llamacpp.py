"""linnet and llama.cpp (llama-cpp-python) on one file, in turns: medians and their ratios.

usage: python scripts/compare_llamacpp.py FILE [--tests TEST,...] [-t THREADS] [-r ROUNDS] ...

    decode      one token after the other, behind one
    prefill     a prompt of -p tokens
    batch       a token of each of -b sequences in one pass
    depth       decode behind -d tokens
    start       a process of its own, from its start to its first token (file in the page cache)
    memory      what a process holds for itself after a prompt of -p tokens, cache included
    neighbour   decode while another process is busy on one of the cores
    threads     decode with twice as many threads

llama.cpp runs with its repacking of weights (use_extra_bufts) off and on; the better counts. Every
round measures each engine once, and none while another still uses the CPU.
Needs `pip install llama-cpp-python`, which compiles.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from comparing import (
    Comparison,
    Figures,
    busy_neighbour,
    line,
    medians,
    require_llamacpp,
    seconds_to_output,
    table,
    take_turns,
    wait_until_idle,
)

ENGINES = {  # the module that has an `Engine`, and what its kind of engine is told
    "linnet": ("linnet_engine", {}),
    "llama.cpp": ("llamacpp_engine", {"repack": False}),
    "llama.cpp, repacked": ("llamacpp_engine", {"repack": True}),
}
SETTLE_SECONDS = 0.5  # threads may share a core at first; short measurements are repeated meanwhile
PROMPT = "Once upon a time"


class Engine(Protocol):
    """What the engines' modules have; every figure is tokens a second."""

    def use_threads(self, n_threads: int) -> None: ...
    def prefill(self, n_tokens: int) -> float: ...
    def decode(self, n_tokens: int, depth: int = 1) -> float: ...
    def batch(self, n_sequences: int, n_tokens: int) -> float: ...


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("file")
    add("--tests", default="decode,prefill", help=f"of {','.join(TESTS)}, or all")
    add("-t", "--threads", type=int, default=2)
    add("-n", "--n-gen", type=int, default=32, help="tokens decoded in a measurement")
    add("-p", "--n-prompt", type=int, default=512)
    add("-b", "--n-sequences", type=int, default=4)
    add("-d", "--depth", type=int, default=8192)
    add("-r", "--rounds", type=int, default=5)
    a = parser.parse_args()
    a.tests = list(TESTS) if a.tests == "all" else a.tests.split(",")
    if unknown := set(a.tests) - TESTS.keys():
        parser.error(f"no such test: {', '.join(sorted(unknown))}; there are {', '.join(TESTS)}")

    require_llamacpp()
    bench = Bench(a)
    bench.notes.append(f"llama.cpp: {llamacpp_features()}")
    print(table([Path(a.file).name, *ENGINES, "ratio"], []), flush=True)
    for test in a.tests:
        for comparison in TESTS[test](bench):
            print(line(comparison.row()), flush=True)
    print("", *bench.notes, sep="\n")


class Bench:
    """The engines, loaded when first asked for, and what there is to say besides the table."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.notes: list[str] = []
        self._engines: dict[str, Engine] = {}

    @property
    def engines(self) -> dict[str, Engine]:
        a, n_ctx = self.arguments, context_for(self.arguments)
        for name, (module, options) in ENGINES.items():
            if name not in self._engines:
                new: Callable[..., Engine] = __import__(module).Engine
                self._engines[name] = new(a.file, n_threads=a.threads, n_ctx=n_ctx, **options)
        return self._engines

    def measure(self, measure: Callable[[Engine], float], rounds: int | None = None) -> Figures:
        """A figure of each engine, in turns."""

        def alone(engine: Engine) -> float:
            wait_until_idle()
            started = time.perf_counter()
            figure = measure(engine)
            while time.perf_counter() - started < SETTLE_SECONDS:
                figure = measure(engine)
            return figure

        measures = {name: partial(alone, engine) for name, engine in self.engines.items()}
        return take_turns(measures, rounds or self.arguments.rounds)

    def measure_processes(self, measure: Callable[[str], float]) -> Figures:
        """A figure of each engine, by name, in a process of its own, in turns."""
        return take_turns({name: partial(measure, name) for name in ENGINES}, self.arguments.rounds)

    def note_shares(self, what: str, changed: Figures, usual: Figures) -> None:
        shares = [f"{name} {share:.0%}" for name, share in shares_of(changed, usual).items()]
        self.notes.append(f"{what}: {', '.join(shares)}")


# -- tests -----------------------------------------------------------------------------------------


def decode(bench: Bench) -> Iterator[Comparison]:
    n = bench.arguments.n_gen
    yield Comparison("decode", "tok/s", bench.measure(lambda engine: engine.decode(n)))


def prefill(bench: Bench) -> Iterator[Comparison]:
    n = bench.arguments.n_prompt
    figures = bench.measure(lambda engine: engine.prefill(n))
    yield Comparison(f"prompt of {n}", "tok/s", figures)


def batch(bench: Bench) -> Iterator[Comparison]:
    a = bench.arguments
    one = bench.measure(lambda engine: engine.decode(a.n_gen))
    together = bench.measure(lambda engine: engine.batch(a.n_sequences, a.n_gen))
    yield Comparison(f"{a.n_sequences} sequences", "tok/s", together)
    costs = [f"{n} {a.n_sequences / s:.2f}" for n, s in shares_of(together, one).items()]
    bench.notes.append(f"a pass of {a.n_sequences} over a pass of one: {', '.join(costs)}")


def depth(bench: Bench) -> Iterator[Comparison]:
    a = bench.arguments
    figures = bench.measure(lambda engine: engine.decode(a.n_gen, a.depth))
    yield Comparison(f"decode behind {a.depth}", "tok/s", figures)


def start(bench: Bench) -> Iterator[Comparison]:
    def measure(name: str) -> float:
        command = start_command(name, bench.arguments.file, bench.arguments.threads)
        return seconds_to_output(command, len(PROMPT) + 1)

    figures = bench.measure_processes(measure)
    yield Comparison("start to first token", "s", figures, less_is_better=True)


def memory(bench: Bench) -> Iterator[Comparison]:
    a = bench.arguments

    def measure(name: str) -> float:
        module, options = ENGINES[name]
        code = (
            f"import comparing, {module} as engine\n"
            f"e = engine.Engine({a.file!r}, n_threads={a.threads}, n_ctx={a.n_prompt}, "
            f"**{options})\n"
            f"e.prefill({a.n_prompt})\n"
            "print(comparing.private_memory())\n"
        )
        return float(run_python("-c", code))

    figures = bench.measure_processes(measure)
    yield Comparison("private memory", "MB", figures, less_is_better=True)


def neighbour(bench: Bench) -> Iterator[Comparison]:
    n = bench.arguments.n_gen

    def disturbed(engine: Engine) -> float:
        with busy_neighbour():
            return engine.decode(n)

    quiet = bench.measure(lambda engine: engine.decode(n))
    busy = bench.measure(disturbed)
    yield Comparison("decode with a busy neighbour", "tok/s", busy)
    bench.note_shares("of its quiet speed, each keeps", busy, quiet)


def threads(bench: Bench) -> Iterator[Comparison]:
    a = bench.arguments

    def doubled(engine: Engine) -> float:
        engine.use_threads(2 * a.threads)
        engine.decode(1)
        figure = engine.decode(a.n_gen)
        engine.use_threads(a.threads)
        return figure

    usual = bench.measure(lambda engine: engine.decode(a.n_gen))
    many = bench.measure(doubled)
    yield Comparison(f"decode, {2 * a.threads} threads", "tok/s", many)
    bench.note_shares(f"of its speed with {a.threads} threads, each keeps", many, usual)


TESTS: dict[str, Callable[[Bench], Iterable[Comparison]]] = {
    test.__name__: test
    for test in (decode, prefill, batch, depth, start, memory, neighbour, threads)
}


# -- how -------------------------------------------------------------------------------------------


def context_for(a: argparse.Namespace) -> int:
    """Tokens that the longest of the tests needs room for."""
    return max(a.n_prompt, a.depth if "depth" in a.tests else 1) + int(a.n_gen)


def shares_of(changed: Figures, usual: Figures) -> dict[str, float]:
    """Each contender's median over its median otherwise."""
    before = medians(usual)
    return {name: median / before[name] for name, median in medians(changed).items()}


def start_command(name: str, file: str, n_threads: int) -> list[str]:
    """A command that prints PROMPT and one more token."""
    if name == "linnet":
        flags = ["-m", file, "-p", PROMPT, "-n", "1", "--temp", "0", "-t", str(n_threads), "-q"]
        return [sys.executable, "-m", "linnet", "generate", *flags]
    module, options = ENGINES[name]
    call = f"generate_one({file!r}, {PROMPT!r}, n_threads={n_threads}, **{options})"
    folder = str(Path(__file__).parent)
    code = f"import sys; sys.path.insert(0, {folder!r}); import {module}; {module}.{call}"
    return [sys.executable, "-c", code]


def run_python(*arguments: str) -> str:
    """What a Python of its own prints that finds these scripts. Raises CalledProcessError."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def llamacpp_features() -> str:
    module: Any = __import__("llamacpp_engine")
    return str(module.features())


if __name__ == "__main__":
    main()
