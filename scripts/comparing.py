"""What comparisons share: figures taken in turns, their medians, ratios and tables."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType

Figures = dict[str, list[float]]
MOST_SECONDS = 3.0  # an engine that is disturbed may be a hundred times slower


def require_llamacpp() -> ModuleType:
    """llama-cpp-python; where there is none, one line says so and the process ends with 2."""
    try:
        return import_module("llama_cpp")
    except ModuleNotFoundError as error:
        if error.name != "llama_cpp":
            raise
        print("needs `pip install llama-cpp-python`, which compiles", file=sys.stderr)
        raise SystemExit(2) from None


def add_text(parser: argparse.ArgumentParser) -> None:
    """The flag for the text that a comparison reads."""
    note = "pydoc's topics without it"
    parser.add_argument("-f", "--file", type=Path, metavar="TEXT", help=note)


def given_text(arguments: argparse.Namespace) -> str:
    """That text, or pydoc's help on Python's own language."""
    file: Path | None = arguments.file
    return file.read_text(encoding="utf-8") if file else "\n".join(topics.values())


def take_turns(measures: Mapping[str, Callable[[], float]], rounds: int) -> Figures:
    """What each measure returned in each round; a first round, to warm up, does not count.

    In turns, so that a change in the machine's speed meets all of them.
    """
    figures: Figures = {name: [] for name in measures}
    for i in range(rounds + 1):
        for name, measure in measures.items():
            figure = measure()
            if i:
                figures[name].append(figure)
    return figures


def rate(step: Callable[[int], object], n: int) -> float:
    """Steps a second of `step(0)` to `step(n - 1)`, or of fewer where MOST_SECONDS have passed."""
    started = time.perf_counter()
    for i in range(n):
        step(i)
        seconds = time.perf_counter() - started
        if seconds > MOST_SECONDS:
            break
    return (i + 1) / seconds


def medians(figures: Figures) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in figures.items()}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One test's figures by contender, the first of which is held against the best of the rest."""

    test: str
    unit: str
    figures: Figures
    less_is_better: bool = False

    @property
    def ratio(self) -> float:
        """How many times better the first is."""
        first, *others = medians(self.figures).values()
        return min(others) / first if self.less_is_better else first / max(others)

    def row(self) -> list[str]:
        """Test, median (lowest to highest) of each contender, ratio."""
        cells = [
            f"{number(statistics.median(v))} ({number(min(v))} to {number(max(v))})"
            for v in self.figures.values()
        ]
        return [f"{self.test}, {self.unit}", *cells, f"{self.ratio:.2f}"]


def number(value: float) -> str:
    """Three digits that count, or all of those before the point."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in markdown; numbers, in all columns but the first, to the right."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(line(cells) for cells in (heads, rule, *rows))


def line(cells: Sequence[str]) -> str:
    """A line of a table in markdown."""
    return f"| {' | '.join(cells)} |"


def wait_until_idle() -> None:
    """Return once this process uses no CPU, as engines' threads may for a moment after their work.

    Raises RuntimeError where that takes a second: whoever comes next would not be alone.
    """
    for _ in range(50):
        before = time.process_time()
        time.sleep(0.02)
        if time.process_time() - before < 0.002:
            return
    raise RuntimeError("an engine's threads go on using the CPU after their work")


@contextmanager
def busy_neighbour() -> Iterator[int]:
    """One other process that never rests, on one of the cores we may use: its id."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        time.sleep(0.2)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def private_memory() -> float:
    """Megabytes of memory that are no pages of files: anonymous, and shared with no one (Linux)."""
    with open("/proc/self/status") as status:
        sizes = dict(line.split()[:2] for line in status if line.startswith("Rss"))
    return (int(sizes["RssAnon:"]) + int(sizes["RssShmem:"])) * 1024 / 1e6


def seconds_to_output(command: Sequence[str], n_bytes: int) -> float:
    """Seconds from the start of a process until it has written so many bytes to stdout.

    Raises RuntimeError for a process that fails, or ends before.
    """
    started = time.perf_counter()
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=null, stdout=pipe, stderr=pipe, bufsize=0) as process:
        stdout, stderr = process.stdout, process.stderr
        if stdout is None or stderr is None:
            raise RuntimeError("no pipes to the process")
        n_read = 0
        while n_read < n_bytes and (read := stdout.read(n_bytes - n_read)):
            n_read += len(read)
        seconds = time.perf_counter() - started
        _, errors = process.communicate()
    if process.returncode or n_read < n_bytes:
        raise RuntimeError(f"{' '.join(command)}\n{errors.decode(errors='replace')}")
    return seconds
