"""Where labels go beside crowded points of a picture: near their own, and on nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

Point = tuple[float, float]
Disc = tuple[Point, float]  # centre and radius

DISTANCES = range(8, 121, 8)  # of a label from its point's rim
DIRECTIONS = [math.pi / 8 * (i + 0.5) for i in range(16)]


def spread(points: Sequence[Disc], obstacles: Sequence[Disc], radius: float) -> list[Point]:
    """The centres of round labels, one for each point, as near to it as there is room.

    Points come first who choose first. Labels keep off each other, all points and the obstacles;
    where there is no such place, one that touches as little as possible is taken.
    """
    taken = [*points, *obstacles]
    labels = []
    for point in points:
        depths: dict[Point, float] = {}
        for place in _around(*point, radius):
            depths[place] = _overlap(place, radius, taken)
            if not depths[place]:
                break
        centre = min(depths, key=lambda place: depths[place])
        taken.append((centre, radius))
        labels.append(centre)
    return labels


def _around(centre: Point, rim: float, radius: float) -> Iterator[Point]:
    """Places beside a disc, the nearest first."""
    for distance in DISTANCES:
        for angle in DIRECTIONS:
            away = rim + radius + distance - DISTANCES[0]
            yield centre[0] + away * math.cos(angle), centre[1] + away * math.sin(angle)


def _overlap(place: Point, radius: float, taken: Sequence[Disc]) -> float:
    """How deep a disc lies in others, all together."""
    depths = (radius + other - math.dist(place, centre) for centre, other in taken)
    return sum(depth for depth in depths if depth > 1e-9)
