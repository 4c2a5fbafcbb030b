"""How kernels walk a row of packed weights."""

from __future__ import annotations

from collections.abc import Iterator

from linnet.kernels.ir import Kernel, Pointer, Value
from linnet.kernels.quants.base import WeightType

CACHE_LINE = 64


def row_stride(type: WeightType, n_columns: Value) -> Value:
    """Bytes that the packed weights of `n_columns` columns take."""
    return (n_columns >> (type.block.bit_length() - 1)) * type.bytes


def chunks(
    k: Kernel, type: WeightType, row: Pointer, n_columns: Value
) -> Iterator[tuple[int, Value, Pointer]]:
    """A loop over a row: (weights in the chunk, its first column, its packed bytes).

    Each prefetches as `prefetch_ahead` does.
    """
    for size, column in k.strips(n_columns, type.chunks):
        packed = row.at(row_stride(type, column))
        prefetch_ahead(k, packed, size // type.block * type.bytes)
        yield size, column, packed


def prefetch_ahead(k: Kernel, packed: Pointer, n_bytes: int) -> None:
    """Ask for what lies `prefetch_bytes` ahead of a chunk, where that is a cache line or more."""
    ahead = k.isa.tuning.prefetch_bytes
    if ahead and n_bytes >= CACHE_LINE:
        for line in range(0, n_bytes, CACHE_LINE):
            packed.prefetch(ahead + line)


def panel_rows(
    k: Kernel, type: WeightType, packed: Pointer, stride: Value, first: Value, n_rows: int,
    n_out: Value, size: int,
) -> Iterator[tuple[Value, Pointer]]:  # fmt: skip
    """The rows of a panel: (index in it, where `packed` of row 0 lies in this row of weights); past
    the matrix's end, at `n_out`, the last row, again. `size`: the weights of a chunk.

    Each asks for its place in the next panel: rows lie too far apart for a CPU to see a stream in
    them, and with few tokens there is nothing else to hide the memory behind.
    """
    n_bytes, ahead = size // type.block * type.bytes, n_rows * stride
    for i in k.range(n_rows, name="row"):
        source = packed.at(k.minimum(first + i, n_out - 1) * stride)
        for line in range(0, n_bytes, CACHE_LINE):
            source.prefetch(ahead + line, level=2)
        yield i, source
