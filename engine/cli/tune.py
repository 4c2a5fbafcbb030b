"""`linnet tune`: candidates measured, and what is faster stored for this CPU."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from tqdm import tqdm

from linnet.engine.cli.counts import count
from linnet.engine.cli.machine import add_machine
from linnet.engine.machine import usable_threads
from linnet.engine.measure.tune import BUSY, Measured, Passes, parameters, tune
from linnet.kernels.compiler import tunings
from linnet.kernels.compiler.host import choose_isa

MOST_ROUNDS = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_machine(parser, numerics=False)
    add(
        "-r", "--repetitions", type=count(2, MOST_ROUNDS), metavar="N",
        help="rounds in which each candidate has a turn; default: what takes a second, 5 to 25",
    )  # fmt: skip
    add("--reset", action="store_true", help="measure nothing: forget what was found, for --isa")
    add("-o", "--output", choices=("md", "json"), default="md", help="default md, for people")


def run(arguments: argparse.Namespace) -> int:
    """Candidates and choice on stdout, progress and where it is kept on stderr."""
    isa = choose_isa(arguments.isa)
    tunings.require_path(isa.name)
    if arguments.reset:
        path = tunings.discard(isa.name)
        print(f"removed {path}" if path else "nothing was stored", file=sys.stderr)
        return 0
    n_threads = arguments.threads or usable_threads()
    with (
        tqdm(total=len(parameters(isa)), desc="measuring", leave=False, disable=None) as bar,
        Passes(isa, n_threads) as measure,
    ):
        tuning, rows = tune(isa, measure, bar.update, arguments.repetitions)
    if arguments.output == "json":
        fields = {"isa": isa.name, "cpu": tunings.cpu(), "n_threads": n_threads}
        found = {"defaults": isa.defaults, "tuning": tuning}
        fields |= {name: dataclasses.asdict(value) for name, value in found.items()}
        print(json.dumps(fields | {"measured": [dataclasses.asdict(row) for row in rows]}))
    else:
        print(f"{isa.name}, {n_threads} threads\n\n{table(rows)}")
    noise = max(row.noise for row in rows)
    if noise > BUSY:
        print(
            f"this machine is busy: one and the same pass differs from itself by {noise:.0%}, and "
            "gains of less are not taken; measure again when it is quiet",
            file=sys.stderr,
        )
    if tuning == isa.defaults:
        tunings.discard(isa.name)
        print("the defaults are best here: nothing is stored", file=sys.stderr)
    else:
        print(f"stored in {tunings.store(isa.name, tuning)}", file=sys.stderr)
    return 0


def table(rows: Sequence[Measured]) -> str:
    """In markdown: what was measured, in milliseconds, and relative to the best before it, which
    differs from itself by the noise."""
    lines = ["| parameter | value | ms | speed | noise | |", "|---|---|---|---|---|---|"]
    for row in rows:
        value = row.value if isinstance(row.value, int) else " x ".join(map(str, row.value))
        notes = [note for note in ("before", "chosen") if getattr(row, note)]
        lines.append(
            f"| {row.parameter} | {value} | {row.seconds * 1e3:.2f} ± {row.spread:.0%} "
            f"| {row.speed:.2f} | {row.noise:.0%} | {', '.join(notes)} |"
        )
    return "\n".join(lines)
