"""Sums of products that kernels of dot products and of norms share."""

from __future__ import annotations

from linnet.kernels.ir import Cell, Kernel, Value


class Accumulators:
    """Running sums of products in registers, zero where this is made.

    Products go to two sums alternately, so that a multiply-add need not wait for the one before;
    always to two, so that a token's result does not depend on how many tokens there are.
    """

    CHAINS = 2

    def __init__(self, k: Kernel) -> None:
        self._k, self._start = k, k.here()
        self._cells: dict[tuple[int, int], Cell] = {}
        self._n_added = 0

    def add(self, a: Value, b: Value) -> None:
        """Add a * b, lane by lane."""
        place = a.type.lanes, self._n_added % self.CHAINS
        self._n_added += 1
        if place not in self._cells:
            self._cells[place] = self._k.cell(a.type, "sum", self._start)
        cell = self._cells[place]
        cell.set(self._k.fma(a, b, cell.get()))

    def sum(self) -> Value:
        """The sum of the two sums and of their lanes; of vectors of several lengths, each alone."""
        by_lanes: dict[int, Value] = {}
        for (lanes, _), cell in self._cells.items():
            by_lanes[lanes] = by_lanes[lanes] + cell.get() if lanes in by_lanes else cell.get()
        first, *others = (total.sum() for total in by_lanes.values())
        return sum(others, first)
