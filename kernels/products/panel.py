"""A panel of rows of weights in scratch memory, and the loops around it that every GEMM has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from linnet.kernels.ir import Cell, Pointer, Type, Value, f32
from linnet.kernels.ops.base import Float32s, Numbers, OpKernel
from linnet.kernels.quants import WeightType
from linnet.kernels.quants.packed_rows import chunks, panel_rows, row_stride

LEAST_SHUFFLED = 16  # bytes, which shuffles cross at a price
CHUNK = 256  # the most columns unpacked at a time


@dataclass(frozen=True, slots=True)
class Tokens:
    """The `n` rows of activations that meet a panel, by number, and their rows of results.

    x: rows of `x_bytes`; out: f32 rows of `n_out`.
    """

    n: Value
    x: Pointer
    x_bytes: Value
    out: Float32s
    n_out: Value

    def x_of(self, i: Value) -> Pointer:
        """A token's x. A few numbers past the last are addresses, of which nothing is read."""
        return self.x.at(i * self.x_bytes)

    def out_of(self, i: Value) -> Numbers:
        return self.out.at(i * self.n_out)


class Panel:
    """`n_vectors` vectors' worth of rows, unpacked to `element_bytes` a weight, 256 columns each.

    Scratch memory holds `rows` as they are unpacked, `columns` as they are transposed, `more` for
    what a kernel has besides, and `sums` f32 (tokens, width).
    """

    def __init__(
        self, k: OpKernel, type: WeightType, n_columns: Value, n_out: Value, *,
        n_vectors: int, element_bytes: int, more_bytes: int = 0,
    ) -> None:  # fmt: skip
        self.k, self.lanes, self.n_vectors = k, k.isa.lanes, n_vectors
        self.width = self.lanes * n_vectors  # rows
        self.row_bytes = 4 * self.width  # of a row of `columns` or of `sums`
        self.n_columns, self._type, self._n_out = n_columns, type, n_out
        self._stride = row_stride(type, n_columns)
        n_bytes = self.width * CHUNK * element_bytes
        self.rows = k.scratch
        self.columns = k.scratch.at(n_bytes)
        self.more = k.scratch.at(2 * n_bytes)
        self.sums = k.scratch.at(2 * n_bytes + more_bytes)

    def chunks(
        self, weights: Pointer, first: Value, tokens: Tokens
    ) -> Iterator[tuple[int, Value, Pointer]]:
        """The chunks of the panel whose first row is `first` of a matrix, as `chunks` gives those
        of its row 0, for these tokens.

        Sums are zero before the first chunk, and go to out behind the last.
        """
        self._first, self.n_tokens = first, tokens.n
        self._clear()
        yield from chunks(self.k, self._type, weights, self.n_columns)
        self._finish(tokens)

    def each_row(self, packed: Pointer, size: int) -> Iterator[tuple[Value, Pointer]]:
        """See `panel_rows`."""
        return panel_rows(
            self.k, self._type, packed, self._stride, self._first, self.width, self._n_out, size
        )

    def transpose(
        self, source: Pointer, stride: int, target: Pointer, n_words: int, type: Type,
        change: Callable[[Value, Value, int], Value] | None = None,
    ) -> None:  # fmt: skip
        """Words [width rows at `stride`][n_words] -> [n_words][width], rounding n_words up to those
        of 16 bytes.

        A vector takes 16 bytes of every few rows: loads put them in place, and half as many
        shuffles are left as for vectors of one row. `change`: what becomes of a vector of words of
        4 bytes, of the words' number over four, and of the vector's number in its row.
        """
        k, words = self.k, LEAST_SHUFFLED // type.bytes
        lanes, row_bytes = self.lanes * 4 // type.bytes, self.width * type.bytes
        for block in k.range(-(-n_words // words), name="transpose"):
            for vector, start in enumerate(range(0, self.width, lanes)):
                rows = [
                    k.concat([
                        source.load(
                            type[words], block * LEAST_SHUFFLED + (start + i + j) * stride
                        )
                        for j in range(0, lanes, words)
                    ])
                    for i in range(words)
                ]  # fmt: skip
                for i, column in enumerate(k.transpose(rows)):
                    at = block * (words * row_bytes) + i * row_bytes + type.bytes * start
                    target.store(column if change is None else change(column, block, vector), at)

    def tiles(self, n: int) -> Iterator[list[Value]]:
        """The tokens, n at a time, then those left one by one."""
        full = self.n_tokens // n * n
        for token in self.k.range(full, step=n, name="tile"):
            yield [token + i for i in range(n)]
        for token in self.k.range(self.n_tokens, full, name="token"):
            yield [token]

    def load_row(self, rows: Pointer, i: Value | int, type: Type) -> list[Value]:
        """The vectors of row i of `columns`, or of `sums`."""
        start = i * self.row_bytes
        return [rows.load(type, start + v * 4 * self.lanes) for v in range(self.n_vectors)]

    def load_sums(self, tokens: Sequence[Value]) -> list[list[Cell]]:
        """Some tokens' sums in registers: n_vectors each."""
        type = f32[self.lanes]
        return [
            [self.k.cell(vector, "sum") for vector in self.load_row(self.sums, token, type)]
            for token in tokens
        ]

    def store_sums(self, tokens: Sequence[Value], sums: Sequence[Sequence[Cell]]) -> None:
        """The reverse."""
        for token, row in zip(tokens, sums, strict=True):
            for v, total in enumerate(row):
                self.sums.store(total.get(), token * self.row_bytes + v * 4 * self.lanes)

    def add_sums(self, tokens: Sequence[Value], sums: Sequence[Sequence[Cell]]) -> None:
        """Add what was summed from zero."""
        for token, row in zip(tokens, sums, strict=True):
            for v, total in enumerate(row):
                at = token * self.row_bytes + v * 4 * self.lanes
                self.sums.store(self.sums.load(total.type, at) + total.get(), at)

    def _clear(self) -> None:
        zero = self.k.constant(f32[self.lanes], 0)
        for i in self.k.range(self.n_tokens * self.n_vectors, name="clear"):
            self.sums.store(zero, i * (4 * self.lanes))

    def _finish(self, tokens: Tokens) -> None:
        """Copy sums [token][width] to out [token][first row on], no further than its last row."""
        k, n_out, first = self.k, self._n_out, self._first
        for token in k.range(self.n_tokens, name="out"):
            source = self.sums.at(token * self.row_bytes)
            target = tokens.out_of(token).at(first)
            whole = first + self.width <= n_out
            with k.when(whole):
                for vector in range(self.n_vectors):
                    at = self.lanes * vector
                    target.store(source.load(f32[self.lanes], 4 * at), at)
            with k.when(whole ^ 1):
                for i in k.range(n_out - first, name="rest"):
                    target.store(source.load(f32, i * 4), i)
