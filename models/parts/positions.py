"""What depends on a token's position alone: tables, which are filled as positions are reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from linnet.kernels.runtime.program import Persistent
from linnet.models.parts.weights import Floats

POSITIONS = 1024  # filled at a time, in a few milliseconds


class PositionTable:
    """`array` f32 (n_ctx, ...): a row a position, of the positions that have been reached.

    A long context costs neither time nor memory before it is used.
    """

    def __init__(self, shape: tuple[int, ...], rows: Callable[[int, int], Floats]) -> None:
        """`rows(first, n)`: those of n positions from `first` on."""
        self.array = Persistent("positions", shape, np.dtype(np.float32))
        self._rows, self._n_filled = rows, 0

    def reach(self, n_positions: int) -> None:
        """Fill it for the positions below `n_positions`, and some more."""
        data = self.array.data
        end = min(len(data), -(-n_positions // POSITIONS) * POSITIONS)
        for first in range(self._n_filled, end, POSITIONS):
            part = data[first : first + POSITIONS]
            part[:] = self._rows(first, len(part))
            self._n_filled = first + len(part)


class Tabulated(Protocol):
    """A function of positions; equal ones share a table."""

    def table(self, n_ctx: int) -> PositionTable:
        """Its values at the positions below `n_ctx`."""
        ...
