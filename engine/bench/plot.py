"""The roofline picture: what each step computes a second, over what it computes for each byte."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]


def require_matplotlib() -> None:
    """Raises ValueError, with what to install, where there is no matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install linnet[plot]") from None


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
    intensities = [row["n_operations"] / row["n_bytes"] for row in points] or [1.0]
    ends = [min(intensities) / 2, max(*intensities, max(peaks.values()) / bandwidth) * 4]
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
    label = f"memory, {bandwidth / 1e9:.1f} GB/s"
    axes.annotate(label, (ends[0], ends[0] * bandwidth / 1e9), ha="left", va="bottom")
    for test in dict.fromkeys(row["test"] for row in points):
        shown = [row for row in points if row["test"] == test]
        x = [row["n_operations"] / row["n_bytes"] for row in shown]
        y = [row["gflop_s"] for row in shown]
        axes.scatter(x, y, s=[20 + 400 * row["share"] for row in shown], alpha=0.6, label=test)
        for row, place in zip(shown, zip(x, y, strict=True), strict=True):
            axes.annotate(row["step"], place, fontsize=8, xytext=(4, 4), textcoords="offset points")
    axes.legend(title="pass (larger: more of its time)", loc="lower right")
    axes.grid(alpha=0.3)
    figure.savefig(path)
