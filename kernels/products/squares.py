"""Integer products of a register tile where an instruction multiplies two rows by two tokens."""

from __future__ import annotations

from collections.abc import Sequence

from linnet.kernels.ir import Value, i8, i64, u8
from linnet.kernels.isa.base import DotSum
from linnet.kernels.products.activations import Span
from linnet.kernels.products.interleave import GROUP, RUN
from linnet.kernels.products.register_tile import Dots

SQUARE = 2 * RUN  # bytes: eight columns of two rows


class Squares(Dots):
    """`Dots` by squares: the panel's columns lie eight at a time, [columns / 8][row][8].

    for two tokens in tile:                          # the last alone is both
        for eight columns in group:
            squares[two rows] += square_dot(two rows of the panel, both tokens' lanes)
        products of each token = squares, taken apart
    """

    def _dots(
        self, starts: Sequence[Value], largest: int, spans: Sequence[Span], g: Value,
        first: int, n: int,
    ) -> list[list[DotSum]]:  # fmt: skip
        k, panel = self.k, self.panel
        tokens = [*range(len(spans)), len(spans) - 1]
        pairs = [tokens[i : i + 2] for i in range(0, len(spans), 2)]
        squares = [
            [starts[a].shuffle([0, panel.lanes] * 2, starts[b])] * (panel.width // 2)
            for a, b in pairs
        ]
        places = [span.find(g) for span in spans]
        for column in range(first, first + n, RUN):
            row = (g * (GROUP // RUN) + column // RUN) * (RUN * panel.width)
            weights = [
                panel.columns.load(u8[SQUARE], row + at)
                for at in range(0, RUN * panel.width, SQUARE)
            ]
            for pair, own in zip(pairs, squares, strict=True):
                runs = [places[i][0].lanes(column // RUN, places[i][1]).load(i64) for i in pair]
                x = k.vector(runs).bits(i8[SQUARE])
                own[:] = [
                    k.isa.square_dot(square, two, x, largest)
                    for square, two in zip(own, weights, strict=True)
                ]
        return [
            [
                DotSum(a.shuffle(range(token % 2, 8, 2), b), largest)
                for a, b in zip(squares[token // 2][::2], squares[token // 2][1::2], strict=True)
            ]
            for token in range(len(spans))
        ]
