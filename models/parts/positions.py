"""What depends on a token's position alone: tables, which are filled as positions are reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from linnet.models.parts.weights import Floats

POSITIONS = 1024  # filled at a time, in a few milliseconds


class PositionTable:
    """`data` f32 (n_ctx, ...): a row a position, of the positions that have been reached.

    A long context costs neither time nor memory before it is used.
    """

    def __init__(self, data: Floats, rows: Callable[[int, int], Floats]) -> None:
        """`data`: zeros; `rows(first, n)`: those of n positions from `first` on."""
        self.data, self._rows = data, rows
        self._n_filled = 0

    def reach(self, n_positions: int) -> None:
        """Fill it for the positions below `n_positions`, and some more."""
        end = min(len(self.data), -(-n_positions // POSITIONS) * POSITIONS)
        for first in range(self._n_filled, end, POSITIONS):
            part = self.data[first : first + POSITIONS]
            part[:] = self._rows(first, len(part))
            self._n_filled = first + len(part)


@dataclass(frozen=True, slots=True)
class Temperature:
    """Scores at a position grow by 1 + scale * ln(1 + position // every)."""

    scale: float
    every: int

    @property
    def shape(self) -> tuple[int, ...]:
        """What a row of its table has."""
        return ()

    def table(self, data: Floats) -> PositionTable:
        """The factor at each position, in `data` (n_ctx,)."""

        def rows(first: int, n: int) -> Floats:
            steps = np.arange(first, first + n) // self.every
            return (1 + self.scale * np.log1p(steps)).astype(np.float32)

        return PositionTable(data, rows)
