"""A panel of rows of weights in scratch memory, and the loops around it that every GEMM has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from linnet.kernels.ir import Cell, Pointer, Type, Value, f32
from linnet.kernels.ops.base import Numbers, OpKernel
from linnet.kernels.quants import WeightType
from linnet.kernels.quants.packed_rows import CACHE_LINE, chunks, row_stride

CHUNK = 256  # the most columns unpacked at a time


class Panel:
    """`n_vectors` vectors' worth of rows, unpacked to `element_bytes` a weight, 256 columns each.

    Scratch memory holds `rows` as they are unpacked, `columns` as they are transposed, `more` for
    what a kernel has besides, and `sums` f32 (tokens, width).
    """

    def __init__(
        self, k: OpKernel, type: WeightType, weights: Pointer, out: Numbers,
        n_columns: Value, n_out: Value, n_rows: Numbers, *,
        n_vectors: int, element_bytes: int, more_bytes: int = 0,
    ) -> None:  # fmt: skip
        """`n_rows`: i64, the number of tokens."""
        self.k, self.lanes, self.n_vectors = k, k.isa.lanes, n_vectors
        self.width = self.lanes * n_vectors  # rows
        self.row_bytes = 4 * self.width  # of a row of `columns` or of `sums`
        self._type, self._weights, self._out = type, weights, out
        self._n_columns, self._n_out = n_columns, n_out
        self._stride = row_stride(type, n_columns)
        self.n_tokens = n_rows.load()
        n_bytes = self.width * CHUNK * element_bytes
        self.rows = k.scratch
        self.columns = k.scratch.at(n_bytes)
        self.more = k.scratch.at(2 * n_bytes)
        self.sums = k.scratch.at(2 * n_bytes + more_bytes)

    def chunks(self) -> Iterator[tuple[int, Value, Pointer]]:
        """The chunks of each panel of the items, as `chunks` gives those of row 0 of the weights.

        Sums are zero before the first chunk, and go to out behind the last.
        """
        for item in self.k.items("panel"):
            self._first = item * self.width
            self._clear()
            yield from chunks(self.k, self._type, self._weights, self._n_columns)
            self._finish()

    def each_row(self, packed: Pointer, size: int) -> Iterator[tuple[Value, Pointer]]:
        """(index in the panel, where `packed` of row 0 lies in this row of weights); past the
        matrix's end the last row, again. `size`: the weights of a chunk.

        Each asks for its place in the next panel: rows lie too far apart for a CPU to see a stream
        in them, and with few tokens there is nothing else to hide the memory behind.
        """
        n_bytes, ahead = size // self._type.block * self._type.bytes, self.width * self._stride
        for i in self.k.range(self.width, name="row"):
            row = self.k.minimum(self._first + i, self._n_out - 1)
            source = packed.at(row * self._stride)
            for line in range(0, n_bytes, CACHE_LINE):
                source.prefetch(ahead + line, level=2)
            yield i, source

    def transpose(
        self, source: Pointer, stride: int, target: Pointer, n_words: int, type: Type
    ) -> None:
        """Words [width rows at `stride`][n_words] -> [n_words][width], rounding n_words up."""
        k, lanes = self.k, self.lanes
        for block in k.range(-(-n_words // lanes), name="transpose"):
            for vector in range(self.n_vectors):
                rows = range(vector * lanes, (vector + 1) * lanes)
                words = [source.load(type[lanes], block * (4 * lanes) + r * stride) for r in rows]
                for i, column in enumerate(k.transpose(words)):
                    at = block * (4 * lanes * self.width) + 4 * (i * self.width + vector * lanes)
                    target.store(column, at)

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

    def _finish(self) -> None:
        """Copy sums [token][width] to out [token][first row on], no further than its last row."""
        k, n_out, first = self.k, self._n_out, self._first
        for token in k.range(self.n_tokens, name="out"):
            source = self.sums.at(token * self.row_bytes)
            target = self._out.at(token * n_out + first)
            whole = first + self.width <= n_out
            with k.when(whole):
                for vector in range(self.n_vectors):
                    at = self.lanes * vector
                    target.store(source.load(f32[self.lanes], 4 * at), at)
            with k.when(whole ^ 1):
                for i in k.range(n_out - first, name="rest"):
                    target.store(source.load(f32, i * 4), i)
