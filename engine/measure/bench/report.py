"""Rows of figures as text: Markdown tables, and JSON, JSON lines, CSV and SQL for programs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TextIO

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a Markdown table, of `width` characters at least; text to the left where that is
    negative."""

    title: str
    width: int
    text: Callable[[Row], str]

    def fitted(self, row: Row) -> Column:
        """Wide enough for the title, and for this row."""
        width = max(abs(self.width), len(self.title), len(self.text(row)))
        return replace(self, width=-width if self.width < 0 else width)

    def cell(self, text: str) -> str:
        return text.ljust(-self.width) if self.width < 0 else text.rjust(self.width)

    @property
    def rule(self) -> str:
        return "-" * (abs(self.width) - 1) + ("-" if self.width < 0 else ":")


@dataclass(frozen=True, slots=True)
class Table:
    """`name`: in SQL. `columns`, and the `note` below them, about the last row: in Markdown, which
    is for people; the other formats have every key of the rows."""

    name: str
    columns: Sequence[Column]
    note: Callable[[Row], str] = lambda _: ""


class Writer:
    """Writes each row as it comes, and nothing before the first one."""

    def __init__(self, table: Table, out: TextIO) -> None:
        self.table, self.out = table, out

    def add(self, row: Row) -> None:
        raise NotImplementedError

    def end(self) -> None:
        """After the last row, if there was one."""

    def line(self, text: str) -> None:
        print(text, file=self.out, flush=True)


class Markdown(Writer):
    """A table whose columns are as wide as its first row needs."""

    _columns: Sequence[Column] = ()
    _last: Row | None = None

    def add(self, row: Row) -> None:
        if self._last is None:
            self._columns = [column.fitted(row) for column in self.table.columns]
            self._cells([column.title for column in self._columns])
            self._cells([column.rule for column in self._columns])
        self._cells([column.text(row) for column in self._columns])
        self._last = row

    def end(self) -> None:
        if self._last is not None and (note := self.table.note(self._last)):
            self.line(f"\n{note}")

    def _cells(self, texts: Sequence[str]) -> None:
        cells = (column.cell(text) for column, text in zip(self._columns, texts, strict=True))
        self.line(f"| {' | '.join(cells)} |")


class JSON(Writer):
    """An array of objects."""

    _between: str = "["

    def add(self, row: Row) -> None:
        text = json.dumps(row, indent=2).replace("\n", "\n  ")
        print(f"{self._between}\n  {text}", file=self.out, end="", flush=True)
        self._between = ","

    def end(self) -> None:
        self.line("\n]" if self._between == "," else "[]")


class JSONLines(Writer):
    def add(self, row: Row) -> None:
        self.line(json.dumps(row))


class CSV(Writer):
    """With a heading; without lists, and with 0 and 1 for what is false and true."""

    _writer: csv.DictWriter[str] | None = None

    def add(self, row: Row) -> None:
        single = _single(row)
        if self._writer is None:
            self._writer = csv.DictWriter(self.out, list(single), lineterminator="\n")
            self._writer.writeheader()
        self._writer.writerow(single)
        self.out.flush()


class SQL(Writer):
    """Statements that make a table, for SQLite's command line for example, and fill it."""

    _TYPES: ClassVar[dict[type, str]] = {int: "INTEGER", float: "REAL"}
    _begun = False

    def add(self, row: Row) -> None:
        single = _single(row)
        if not self._begun:
            fields = (f"  {key} {self._TYPES.get(type(v), 'TEXT')}" for key, v in single.items())
            body = ",\n".join(fields)
            self.line(f"CREATE TABLE IF NOT EXISTS {self.table.name} (\n{body}\n);\n")
            self._begun = True
        values = ", ".join(map(_literal, single.values()))
        self.line(f"INSERT INTO {self.table.name} ({', '.join(single)})\nVALUES ({values});")


WRITERS = {"md": Markdown, "json": JSON, "jsonl": JSONLines, "csv": CSV, "sql": SQL}


def write(rows: Iterable[Row], table: Table, outputs: Iterable[tuple[str, TextIO]]) -> None:
    """Each row as it comes, to each file in its format, one of `WRITERS`."""
    writers = [WRITERS[format](table, out) for format, out in outputs]
    for row in rows:
        for writer in writers:
            writer.add(row)
    for writer in writers:
        writer.end()


def _single(row: Row) -> Row:
    """Without lists, and with numbers for truth values."""
    return {
        key: int(value) if isinstance(value, bool) else value
        for key, value in row.items()
        if not isinstance(value, list)
    }


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    quoted = str(value).replace("'", "''")
    return str(value) if isinstance(value, int | float) else f"'{quoted}'"


def size(n_bytes: int) -> str:
    """In GiB from one on, as llama-bench, else in MiB."""
    gib = n_bytes / 2**30
    return f"{gib:.2f} GiB" if gib >= 1 else f"{number(n_bytes / 2**20)} MiB"


def share(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}%}"


def number(value: float | None) -> str:
    """Three digits, but never an exponent: 1234, 123, 12.3, 1.23, 0.123, 0.012."""
    if not value:
        return "" if value is None else "0"
    return f"{value:.{min(3, max(0, 2 - math.floor(math.log10(abs(value)))))}f}"


def duration(us: float) -> str:
    """Microseconds, in the unit that suits them."""
    units = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
    unit = next((unit for unit, factor in units.items() if us >= factor), "ns")
    return f"{number(us / units[unit])} {unit}"


def rate(mean: float, deviation: float) -> str:
    """Tokens a second, and the deviation with as many decimals."""
    decimals = 0 if mean >= 1000 else 1 if mean >= 100 else 2
    return f"{mean:.{decimals}f} ± {deviation:.{decimals}f}"
