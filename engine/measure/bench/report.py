"""Rows of figures as text: Markdown tables as llama-bench prints them, JSON, JSON lines, CSV."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

Row = dict[str, Any]
FORMATS = ("md", "json", "jsonl", "csv")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a Markdown table; text to the left where `width` is negative."""

    title: str
    width: int
    text: Callable[[Row], str]

    def cell(self, text: str) -> str:
        return text.ljust(-self.width) if self.width < 0 else text.rjust(self.width)

    @property
    def rule(self) -> str:
        return "-" * (abs(self.width) - 1) + ("-" if self.width < 0 else ":")


def write(rows: Iterable[Row], columns: Sequence[Column], format: str, out: TextIO) -> None:
    """Each row as it comes. Markdown has the columns; the others have every key of the rows, CSV
    without those whose values are lists. Nothing is written where there is no first row."""
    rows = iter(rows)
    first = list(itertools.islice(rows, 1))
    rows = itertools.chain(first, rows)
    {"md": _markdown, "json": _json, "jsonl": _json_lines, "csv": _csv}[format](rows, columns, out)


def _markdown(rows: Iterable[Row], columns: Sequence[Column], out: TextIO) -> None:
    for line in ([c.title for c in columns], [c.rule for c in columns]):
        _line([c.cell(text) for c, text in zip(columns, line, strict=True)], out)
    for row in rows:
        _line([c.cell(c.text(row)) for c in columns], out)


def _line(cells: Sequence[str], out: TextIO) -> None:
    print(f"| {' | '.join(cells)} |", file=out, flush=True)


def _json(rows: Iterable[Row], columns: Sequence[Column], out: TextIO) -> None:
    print("[", file=out, end="")
    for i, row in enumerate(rows):
        text = json.dumps(row, indent=2).replace("\n", "\n  ")
        print(f"{',' if i else ''}\n  {text}", file=out, end="", flush=True)
    print("\n]", file=out)


def _json_lines(rows: Iterable[Row], columns: Sequence[Column], out: TextIO) -> None:
    for row in rows:
        print(json.dumps(row), file=out, flush=True)


def _csv(rows: Iterable[Row], columns: Sequence[Column], out: TextIO) -> None:
    writer = None
    for row in rows:
        single = {key: value for key, value in row.items() if not isinstance(value, list)}
        if writer is None:
            writer = csv.DictWriter(out, list(single), lineterminator="\n")
            writer.writeheader()
        writer.writerow(single)
        out.flush()


def size(n_bytes: int) -> str:
    """As llama-bench: GiB from one on."""
    gib = n_bytes / 2**30
    return f"{gib:.2f} GiB" if gib >= 1 else f"{n_bytes / 2**20:.2f} MiB"


def count(n: int) -> str:
    """As llama-bench: billions from one on."""
    return f"{n / 1e9:.2f} B" if n >= 1e9 else f"{n / 1e6:.2f} M"


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def number(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


TESTS = (
    Column("model", -30, lambda row: str(row["model_type"])),
    Column("size", 10, lambda row: size(row["model_size"])),
    Column("params", 10, lambda row: count(row["model_n_params"])),
    Column("backend", -10, lambda row: f"{row['backends']}"),
    Column("threads", 7, lambda row: str(row["n_threads"])),
    Column("test", 15, lambda row: str(row["test"])),
    Column("t/s", 20, lambda row: f"{row['avg_ts']:.2f} ± {row['stddev_ts']:.2f}"),
    Column("GB/s", 7, lambda row: number(row["gb_s"])),
    Column("roofline", 8, lambda row: share(row["roofline"])),
)
TESTS_OF_BATCHES = (*TESTS[:5], Column("n_batch", 7, lambda row: str(row["n_batch"])), *TESTS[5:])
OPS = (
    Column("op", -10, lambda row: str(row["op"])),
    Column("type", -5, lambda row: str(row["type"])),
    Column("shape", -15, lambda row: str(row["shape"])),
    Column("rows", 5, lambda row: str(row["n_rows"])),
    Column("from", -6, lambda row: str(row["from"])),
    Column("instruction", -23, lambda row: str(row["instruction"])),
    Column("us", 10, lambda row: number(row["us"], 2)),
    Column("GB/s", 7, lambda row: number(row["gb_s"])),
    Column("GFLOP/s", 8, lambda row: number(row["gflop_s"])),
    Column("of peak", 7, lambda row: share(row["of_peak"])),
    Column("roofline", 8, lambda row: share(row["roofline"])),
)
LAYERS = (
    Column("test", -15, lambda row: str(row["test"])),
    Column("step", -16, lambda row: str(row["step"])),
    Column("calls", 5, lambda row: str(row["calls"])),
    Column("us", 10, lambda row: number(row["us"])),
    Column("share", 6, lambda row: f"{row['share']:.1%}"),
    Column("wait us", 9, lambda row: number(row["wait_us"])),
    Column("GB/s", 7, lambda row: number(row["gb_s"])),
    Column("GFLOP/s", 8, lambda row: number(row["gflop_s"])),
)
