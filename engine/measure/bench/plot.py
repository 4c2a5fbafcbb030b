"""The roofline picture: what each step computes a second, over what it computes for each byte.

Steps that take some of a pass have a number, which a key beside the picture explains.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from linnet.engine.extras import installing
from linnet.engine.measure.bench.spread import Disc, spread

Row = dict[str, Any]
Roof = tuple[str, float]  # what it is called, and arithmetic operations a second

LEAST_SHARE, NUMBERED_SHARE = 0.005, 0.03  # of a pass: for a point, and for a number at it
WIDTH, HEIGHT, LINE = 10.0, 6.5, 0.19  # inches: the picture, and a line of the key at least
MARGIN = 0.6  # inches above and below
LEFT, AXES_WIDTH = 0.07, 0.71  # of the picture's width
BEYOND = 3  # so many times as far as the last point or roof the scales go
NUMBER_RADIUS = 6.0  # points of 1/72 inch
SHOWN_SHARES = (0.03, 0.1, 0.3)  # in the legend of sizes


def check_path(path: str) -> None:
    """Whether `plot` can write such a file: to be asked before anything is measured.

    Raises ValueError, with what to install, where there is no matplotlib, and for an ending that it
    does not know; OSError for a folder that is not there or takes no files.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(f"--plot needs matplotlib: {installing('plot')}") from None
    known = Figure().canvas.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".").lower() not in known:
        raise ValueError(f"--plot is {path!r}; it must end in one of .{', .'.join(known)}")
    new = not os.path.lexists(path)
    with open(path, "ab"):
        pass
    if new:
        os.unlink(path)


def plot(
    path: str | os.PathLike[str], rows: Sequence[Row], *, bandwidth: float,
    peaks: Mapping[str, float], title: str,
) -> None:  # fmt: skip
    """Write a picture of `rows`, those of `layers.layers`; the ending of `path` says of what kind.

    `bandwidth`: bytes a second; `peaks`: arithmetic operations a second, by what they are called.
    Raises OSError, and ValueError for an ending that matplotlib does not know.
    """
    from matplotlib.figure import Figure

    done = [row for row in rows if row["n_operations"] and row["n_bytes"] and row["us"]]
    points = [row for row in done if row["share"] >= LEAST_SHARE]
    key = key_of(points)
    n_lines = len(key) + 2 * len({row["test"] for row in points}) + len(SHOWN_SHARES) + 6
    height = max(HEIGHT, LINE * n_lines)
    figure = Figure(figsize=(WIDTH, height))
    margin = MARGIN / height
    axes = figure.add_axes((LEFT, margin, AXES_WIDTH, 1 - 2 * margin))
    axes.set(xscale="log", yscale="log")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel("arithmetic intensity, operations a byte")
    axes.set_ylabel("GFLOP/s")
    axes.grid(alpha=0.25)
    roofs = sorted(peaks.items(), key=lambda roof: roof[1])
    places = [place_of(row) for row in points] or [(1.0, bandwidth / 1e9)]
    ends = [*(peak / bandwidth for _, peak in roofs), *(x for x, _ in places)]
    tops = [*(peak / 1e9 for _, peak in roofs), *(y for _, y in places)]
    axes.set_xlim(min(ends) / BEYOND, max(ends) * BEYOND)
    axes.set_ylim(min(y for _, y in places) / BEYOND, max(tops) * BEYOND)
    drawn = _draw_roofs(axes, roofs, bandwidth, [x for x, _ in places])
    _draw_points(axes, points, key, bandwidth, drawn)
    _draw_key(figure, points, key)
    figure.savefig(path)


def place_of(row: Row) -> tuple[float, float]:
    """Arithmetic intensity and GFLOP/s."""
    return row["n_operations"] / row["n_bytes"], row["gflop_s"]


def key_of(points: Sequence[Row]) -> list[tuple[int, Row]]:
    """The steps that have a number, pass by pass; a step has the same one in all of them."""
    shown = [row for row in points if row["share"] >= NUMBERED_SHARE]
    numbers = {step: i for i, step in enumerate(dict.fromkeys(row["step"] for row in shown), 1)}
    return [(numbers[row["step"]], row) for row in shown]


def is_from_cache(row: Row, bandwidth: float) -> bool:
    """Whether a step takes its bytes faster than memory gives any."""
    return bool(row["n_bytes"] / row["us"] * 1e6 > bandwidth)


def _draw_roofs(
    axes: Any, roofs: Sequence[Roof], bandwidth: float, intensities: Sequence[float]
) -> list[Disc]:
    """The lines and their names; small discs all over both, in pixels."""
    first, last = axes.get_xlim()
    top = roofs[-1][1] if roofs else last * bandwidth
    lines = [[(first, first * bandwidth / 1e9), (top / bandwidth, top / 1e9)]]
    lines += [[(peak / bandwidth, peak / 1e9), (last, peak / 1e9)] for _, peak in roofs]
    for line in lines:
        axes.plot(*zip(*line, strict=True), color="black", linewidth=1, zorder=1)
    style = {"fontsize": 8, "textcoords": "offset points"}
    knee = min((peak for _, peak in roofs), default=top) / bandwidth
    middle = _middle_of_gap([first, knee], intensities)
    names = [
        axes.annotate(
            f"memory, {bandwidth / 1e9:.1f} GB/s", (middle, middle * bandwidth / 1e9),
            xytext=(-2, 2), ha="center", va="bottom", rotation=45, rotation_mode="anchor",
            transform_rotates_text=True, **style,
        )
    ]  # fmt: skip
    for i, (name, peak) in enumerate(roofs):
        above = i + 1 == len(roofs) or roofs[i + 1][1] > 1.4 * peak
        place = _middle_of_gap([top / bandwidth, last], intensities), peak / 1e9
        names.append(
            axes.annotate(
                f"{name}, {peak / 1e9:,.0f} GFLOP/s", place, xytext=(0, 2 if above else -2),
                ha="center", va="bottom" if above else "top", **style,
            )
        )  # fmt: skip
    discs = [disc for line in lines for disc in _along(*axes.transData.transform(line))]
    for text in names[1:]:
        box = text.get_window_extent()
        middle = (box.y0 + box.y1) / 2
        discs += _along((box.x0, middle), (box.x1, middle), box.height / 2)
    return discs


def _middle_of_gap(ends: Sequence[float], taken: Sequence[float]) -> float:
    """The middle of the widest gap that is left between two ends, by their logarithms."""
    inner = (x for x in taken if ends[0] < x < ends[1])
    stops = sorted(map(math.log, (*ends, *inner)))
    low, high = max(itertools.pairwise(stops), key=lambda gap: gap[1] - gap[0])
    return math.exp((low + high) / 2)


def _along(start: Sequence[float], end: Sequence[float], radius: float = 1.0) -> list[Disc]:
    """Discs from one point to another, which lie close together."""
    n = max(1, math.ceil(math.dist(start, end) / 4))
    (x, y), (x_end, y_end) = start, end
    return [((x + (x_end - x) * i / n, y + (y_end - y) * i / n), radius) for i in range(n + 1)]


def _draw_points(
    axes: Any, points: Sequence[Row], key: Sequence[tuple[int, Row]], bandwidth: float,
    drawn: Sequence[Disc],
) -> None:  # fmt: skip
    colors = _colors(points)
    for row in points:
        color = colors[row["test"]]
        cached, numbered = is_from_cache(row, bandwidth), row["share"] >= NUMBERED_SHARE
        axes.scatter(
            *place_of(row), s=_area(row["share"]), facecolors="none" if cached else color,
            edgecolors=color if cached else "white", linewidths=1.2 if cached else 0.6,
            alpha=0.8 if numbered else 0.4, zorder=3 if numbered else 2,
        )  # fmt: skip
    pixels = axes.figure.dpi / 72  # in a point
    numbered = sorted((row for _, row in key), key=lambda row: place_of(row))
    numbers = {id(row): number for number, row in key}
    discs = [_disc(axes, row, pixels) for row in numbered]
    others = [_disc(axes, row, pixels) for row in points if row["share"] < NUMBERED_SHARE]
    labels = spread(discs, [*others, *drawn], NUMBER_RADIUS * pixels)
    for row, place in zip(numbered, labels, strict=True):
        axes.annotate(
            str(numbers[id(row)]), place_of(row), xytext=axes.transData.inverted().transform(place),
            textcoords="data", fontsize=8, ha="center", va="center", color=colors[row["test"]],
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "gray", "shrinkA": 1,
                        "shrinkB": 0},
            zorder=4,
        )  # fmt: skip


def _draw_key(figure: Any, points: Sequence[Row], key: Sequence[tuple[int, Row]]) -> None:
    from matplotlib.lines import Line2D

    colors = _colors(points)
    handles = []

    def add(label: str, **style: Any) -> None:
        handles.append(Line2D([], [], linestyle="none", label=label, **style))

    for test, color in colors.items():
        add(test, marker="o", color=color, markersize=8)
        for number, row in key:
            if row["test"] == test:
                label = f"{row['step']}, {row['share']:.0%}"
                add(
                    label,
                    marker=f"${number}$",
                    color=color,
                    markeredgewidth=0,
                    markersize=6 + 4 * (number > 9),
                )
        add("", marker="")
    for share in SHOWN_SHARES:
        size = _area(share) ** 0.5
        add(f"{share:.0%} of the pass", marker="o", color="gray", markersize=size, alpha=0.7)
    add("from cache, not memory", marker="o", color="gray", markersize=7, fillstyle="none")
    rest = f"{LEAST_SHARE:.1%} to {NUMBERED_SHARE:.0%}"
    add(rest, marker="o", color="gray", markersize=_area(LEAST_SHARE) ** 0.5, alpha=0.4)
    figure.legend(
        handles=handles, loc="upper left", fontsize=8, frameon=False, handletextpad=0.6,
        labelspacing=0.35, bbox_to_anchor=(LEFT + AXES_WIDTH, 1 - MARGIN / figure.get_figheight()),
    )  # fmt: skip


def _colors(points: Sequence[Row]) -> dict[str, str]:
    tests = dict.fromkeys(row["test"] for row in points)
    return {test: f"C{i % 10}" for i, test in enumerate(tests)}


def _area(share: float) -> float:
    """Of a point, in square points of 1/72 inch."""
    return 20 + 400 * float(share)


def _disc(axes: Any, row: Row, pixels: float) -> Disc:
    x, y = axes.transData.transform(place_of(row))
    return (float(x), float(y)), _area(row["share"]) ** 0.5 / 2 * pixels
