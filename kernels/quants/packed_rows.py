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

    Chunks of a cache line and more prefetch what lies `prefetch_bytes` ahead, as the ISA's tuning
    says.
    """
    for size, column in k.strips(n_columns, type.chunks):
        packed = row.at(row_stride(type, column))
        n_bytes = size // type.block * type.bytes
        ahead = k.isa.tuning.prefetch_bytes
        if ahead and n_bytes >= CACHE_LINE:
            for line in range(0, n_bytes, CACHE_LINE):
                packed.prefetch(ahead + line)
        yield size, column, packed
