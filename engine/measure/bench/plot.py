"""The roofline picture: what each step computes a second, over what it computes for each byte."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
NEAR = 1.6  # points whose coordinates differ by a smaller factor share a label
LEAST_SHARE = 0.01  # of the pass, for a label


def check_path(path: str) -> None:
    """Whether `plot` can write such a file: to be asked before anything is measured.

    Raises ValueError, with what to install, where there is no matplotlib, and for an ending that it
    does not know.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install linnet[plot]") from None
    known = Figure().canvas.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".").lower() not in known:
        raise ValueError(f"--plot is {path!r}; it must end in one of .{', .'.join(known)}")


def plot(
    path: str | os.PathLike[str], rows: Sequence[Row], *, bandwidth: float,
    peaks: Mapping[str, float], title: str,
) -> None:  # fmt: skip
    """Write a picture of `rows`, those of `layers.layers`; the ending of `path` says of what kind.

    `bandwidth`: bytes a second; `peaks`: arithmetic operations a second, by what they are called.
    Raises OSError, and ValueError for an ending that matplotlib does not know.
    """
    from matplotlib.figure import Figure

    points = [row for row in rows if row["n_operations"] and row["n_bytes"] and row["us"]]
    intensities = [place_of(row)[0] for row in points] or [1.0]
    knees = [peak / bandwidth for peak in peaks.values()]
    ends = [min(intensities) / 2, max(intensities + knees) * 4]
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    axes.set(xscale="log", yscale="log", title=title)
    axes.set_xlabel("arithmetic intensity, operations a byte")
    axes.set_ylabel("GFLOP/s")
    for name, peak in peaks.items():
        knee = peak / bandwidth
        axes.plot(
            [ends[0], knee, ends[1]], [ends[0] * bandwidth / 1e9, peak / 1e9, peak / 1e9],
            color="black", linewidth=1,
        )  # fmt: skip
        axes.annotate(
            f"{name}, {peak / 1e9:,.0f} GFLOP/s", (ends[1], peak / 1e9), ha="right", va="bottom"
        )
    label = f"memory: {bandwidth / 1e9:.1f} GB/s"
    axes.text(0.02, 0.97, label, transform=axes.transAxes, va="top")
    for test in dict.fromkeys(row["test"] for row in points):
        shown = [row for row in points if row["test"] == test]
        places = [place_of(row) for row in shown]
        sizes = [20 + 400 * row["share"] for row in shown]
        xs, ys = zip(*places, strict=True)
        axes.scatter(xs, ys, s=sizes, alpha=0.6, label=test)
        for place, names in labels(shown):
            text = "\n".join(names)
            axes.annotate(
                text, place, fontsize=7, xytext=(6, -2), textcoords="offset points", va="top"
            )
    axes.legend(title="pass (larger: more of its time)", loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path)


def place_of(row: Row) -> tuple[float, float]:
    """Arithmetic intensity and GFLOP/s."""
    return row["n_operations"] / row["n_bytes"], row["gflop_s"]


def labels(rows: Sequence[Row]) -> list[tuple[tuple[float, float], list[str]]]:
    """(place, the names of all steps that nearly meet there), for steps that take some time."""
    together: list[tuple[tuple[float, float], list[str]]] = []
    for row in rows:
        if row["share"] < LEAST_SHARE:
            continue
        place = place_of(row)
        for other, names in together:
            if all(1 / NEAR < a / b < NEAR for a, b in zip(place, other, strict=True)):
                names.append(row["step"])
                break
        else:
            together.append((place, [row["step"]]))
    return together
