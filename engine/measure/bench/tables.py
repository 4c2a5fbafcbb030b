"""What people see of the rows: a table of tests, one of kernels, one of a pass step by step."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from linnet.engine.measure.bench.layers import OUTSIDE
from linnet.engine.measure.bench.report import (
    Column,
    Row,
    Table,
    duration,
    number,
    rate,
    share,
    size,
)

LEAST_SHARE = 0.005  # of a pass, for a row of its own
TESTS_NOTE = """\
GB/s: of weights and cached keys and values that had to be read; roofline: the share of that in
what the same threads read of the weights when they do nothing else"""
OPS_NOTE = """\
of peak: the share of what that instruction does in registers; roofline: of the time that reading
or computing takes at least, whichever is longer"""
LAYERS_NOTE = f"""\
waiting: the part of a step's time in which threads wait for others; {OUTSIDE}: before the first
step and after the last; outputs: rows picked for which logits are wanted; GB/s: of packed weights,
or of all arrays where a step has none"""


def of_tests(names: Sequence[str], *, batches: bool) -> Table:
    """Of rows that `measure` makes, of tests of these names; with a column for the size of a pass
    if there are several `batches`."""
    batch = [Column("n_batch", 7, lambda row: str(row["n_batch"]))] if batches else []
    columns = [
        Column("model", -20, model_name),
        Column("size", 8, lambda row: size(row["model_size"])),
        Column("threads", 7, lambda row: str(row["n_threads"])),
        *batch,
        Column("test", max(map(len, names)), lambda row: str(row["test"])),
        Column("t/s", 14, lambda row: rate(row["avg_ts"], row["stddev_ts"])),
        Column("GB/s", 5, lambda row: number(row["gb_s"])),
        Column("roofline", 8, lambda row: share(row["roofline"])),
    ]
    return Table("llama_bench", columns, _build)


OPS = Table(
    "kernels",
    [
        Column("kernel", -11, lambda row: f"{row['op']} {row['type']}".strip()),
        Column("shape", -11, lambda row: str(row["shape"])),
        Column("rows", 4, lambda row: str(row["n_rows"])),
        Column("from", -6, lambda row: str(row["from"])),
        Column("time", 7, lambda row: duration(row["us"])),
        Column("GB/s", 5, lambda row: number(row["gb_s"])),
        Column("GFLOP/s", 7, lambda row: number(row["gflop_s"])),
        Column("of peak", -12, lambda row: f"{share(row['of_peak'])} {row['instruction']}".strip()),
        Column("roofline", 8, lambda row: share(row["roofline"])),
    ],
    lambda _: OPS_NOTE,
)
LAYERS = Table(
    "layers",
    [
        Column("test", -5, lambda row: str(row["test"])),
        Column("step", -16, lambda row: str(row["step"])),
        Column("calls", 5, lambda row: str(row["calls"])),
        Column("time", 7, lambda row: duration(row["us"])),
        Column("share", 6, lambda row: share(row["share"], 1)),
        Column("waiting", 7, lambda row: share(row["wait_us"] / row["us"] if row["us"] else 0.0)),
        Column("GB/s", 5, lambda row: number(row["gb_s"])),
        Column("GFLOP/s", 7, lambda row: number(row["gflop_s"])),
    ],
    lambda _: LAYERS_NOTE,
)


def model_name(row: Row) -> str:
    """The model's type in few letters, and whether its weights are random."""
    name = re.sub(r" - (\w)\w+$", r"_\1", row["model_type"])
    return f"{name} random" if row["synthetic"] else str(name)


def heading(row: Row) -> str:
    """What was measured, where and how."""
    threads = f"{row['n_threads']} thread{'s' * (row['n_threads'] > 1)}"
    return f"{model_name(row)} on {row['cpu_info']}, {row['isa']}, {threads}"


def layers_in_short(rows: Sequence[Row]) -> Iterator[Row]:
    """Of each pass the steps that take some of its time, the others as one, and all together."""
    keys = "model_filename", "test", "n_threads"
    for _, group in groupby(rows, key=lambda row: [row[key] for key in keys]):
        steps = list(group)
        small = [row for row in steps if row["share"] < LEAST_SHARE]
        yield from (row for row in steps if row["share"] >= LEAST_SHARE or len(small) == 1)
        if len(small) > 1:
            yield _together(f"{len(small)} others", small)
        yield _together("total", steps)


def _together(name: str, rows: Sequence[Row]) -> Row:
    row = dict(rows[0], step=name)
    for key in ("calls", "us", "wait_us", "share", "n_bytes", "n_operations"):
        row[key] = sum(each[key] for each in rows)
    row["gb_s"], row["gflop_s"] = (
        row[key] / row["us"] / 1e3 for key in ("n_bytes", "n_operations")
    )
    return row


def _build(row: Row) -> str:
    commit = "" if row["build_commit"] == "unknown" else f", commit {row['build_commit']}"
    return (
        f"{TESTS_NOTE}\nbuild: linnet {row['version']}{commit}; {row['isa']} on {row['cpu_info']}"
    )
