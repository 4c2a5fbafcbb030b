"""What a ggml weight type says of itself; kernels, tests and the quantiser follow from it.

A type describes how a block unpacks, as vector expressions: 8-bit lanes, and for every `group` of
weights a scale and an offset, so that `weight = scale * (lane - zero) + offset`. From this one
description come row look-up, the products of few rows and of many (GEMV, GEMM), and their tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import Kernel, Pointer, Value, f16, f32, u8, u32

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Records = npt.NDArray[Any]  # (n,) blocks

BATCH = 1 << 20  # weights quantised at a time: threads take turns in Python, so turns are long
HALF_MAX = 65504.0  # the largest F16 number
BLOCKS, GROUPS = (32, 64, 128, 256), (16, 32)  # weights in a block, and under one scale


@dataclass(frozen=True, slots=True)
class Unpacked:
    """`lanes`: u8 vectors of one length, whole groups of 32 weights in the type's `order`.

    `scales`, `offsets`: f32[n_groups], in the order of columns.
    """

    lanes: Sequence[Value]
    scales: Value
    offsets: Value | None = None


class WeightType:
    """A ggml tensor type: `id` in files, `block` weights in `bytes` bytes."""

    name: ClassVar[str]
    id: ClassVar[int]
    block: ClassVar[int] = 1
    fields: ClassVar[dict[str, tuple[str, int]]] = {}
    limit: ClassVar[float] = HALF_MAX  # the largest weight it can hold

    @property
    def chunks(self) -> tuple[int, ...]:
        """Weights that kernels take at a time: as many of the first as fit a row, then the next."""
        return (256,) if self.block == 256 else (256, self.block)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """One block as a numpy record: the fields in file order, without padding."""
        return np.dtype([(n, d, (c,)) if c > 1 else (n, d) for n, (d, c) in self.fields.items()])

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize

    def row_bytes(self, n_columns: int) -> int:
        """Raises ValueError where a row is not a whole number of blocks."""
        if n_columns % self.block:
            raise ValueError(f"{self.name}: {n_columns} columns are not a multiple of {self.block}")
        return n_columns // self.block * self.bytes

    def dequantize(self, packed: Bytes) -> Floats:
        """Packed rows (..., row_bytes) -> weights (..., n_columns), bit-exact with gguf-py."""
        blocks = np.ascontiguousarray(packed).reshape(-1, self.bytes).view(self.dtype)[:, 0]
        return self.decode(blocks).astype(np.float32, copy=False).reshape(*packed.shape[:-1], -1)

    def decode(self, blocks: Records) -> Floats:
        """Records (n,) -> weights (n, block)."""
        raise NotImplementedError

    def n_not_finite(self, packed: Bytes) -> int:
        """How many blocks of a tensor's bytes have NaN or infinity for a scale or a weight."""
        blocks, bad = packed.reshape(-1).view(self.dtype), 0
        for start in range(0, len(blocks), BATCH):
            batch = blocks[start : start + BATCH]
            fields = [batch[n] for n, (dtype, _) in self.fields.items() if "f" in dtype]
            if fields:
                finite = np.logical_and.reduce(list(map(np.isfinite, fields)))
                bad += int(np.count_nonzero(~finite))
        return bad

    def quantize(self, rows: Floats) -> Bytes:
        """Weights (n_rows, n_columns) -> packed rows (n_rows, row_bytes).

        Raises ValueError where a row is not a whole number of blocks, and for weights that are not
        finite or too large for the type.
        """
        packed = np.empty((len(rows), self.row_bytes(rows.shape[1])), np.uint8)
        records = packed.reshape(-1, self.bytes).view(self.dtype)[:, 0]
        blocks = np.asarray(rows, np.float32).reshape(-1, self.block)
        step = BATCH // self.block
        for start in range(0, len(blocks), step):
            batch = blocks[start : start + step]
            self._check_range(batch)
            records[start : start + step] = self.encode(batch)
        return packed

    def encode(self, weights: Floats) -> Records:
        """Weights (n, block), finite and in range -> records (n,); without it, no `quantize`."""
        raise NotImplementedError(f"linnet does not quantise to {self.name}")

    @property
    def can_quantize(self) -> bool:
        return type(self).encode is not WeightType.encode

    def _check_range(self, weights: Floats) -> None:
        largest = np.maximum(weights.max(initial=0), -weights.min(initial=0))
        if not np.isfinite(largest):
            raise ValueError(f"{self.name}: the weights hold NaN or infinity")
        if largest > self.limit:
            raise ValueError(
                f"{self.name}: a weight is {largest:g} in size; at most {self.limit:g} fits"
            )

    def floats(self, k: Kernel, packed: Pointer, n_weights: int) -> list[Value]:
        """The next `n_weights` weights as f32 vectors of the CPU's width, in order."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.name


class FloatType(WeightType):
    """Weights stored as floating-point numbers; a block is one weight."""

    def load(self, packed: Pointer, lanes: int) -> Value:
        """f32[lanes] from `lanes` stored weights."""
        raise NotImplementedError

    @property
    def chunks(self) -> tuple[int, ...]:
        return (64, 8, 1)

    def floats(self, k: Kernel, packed: Pointer, n_weights: int) -> list[Value]:
        lanes = min(k.isa.lanes, n_weights)
        return [self.load(packed.at(i * self.bytes), lanes) for i in range(0, n_weights, lanes)]


class QuantType(WeightType):
    """Weights packed in blocks. `group`: weights that share a scale; `largest`: no lane is above;
    `zero`: the lane that stands for a weight of no scale; `order`: the numbers of the eight groups
    of 32 weights of 256 in the order in which `unpack` gives them."""

    group: ClassVar[int] = 32
    order: ClassVar[tuple[int, ...]] = tuple(range(8))
    largest: ClassVar[int]
    zero: ClassVar[int] = 0

    def __init_subclass__(cls) -> None:
        """Raises ValueError for a block or a group of weights that kernels do not take."""
        for name, allowed in (("block", BLOCKS), ("group", GROUPS)):
            if (value := getattr(cls, name)) not in allowed:
                known = ", ".join(map(str, allowed))
                raise ValueError(f"{cls.__name__}: {name} is {value}; it must be one of {known}")

    def unpack(self, b: Blocks) -> Unpacked:
        """The blocks as IR values."""
        raise NotImplementedError

    def unpack_chunk(self, k: Kernel, packed: Pointer, n_weights: int) -> Unpacked:
        return self.unpack(Blocks(k, packed, self, n_weights // self.block))

    def in_column_order(self, k: Kernel, chunk: Unpacked) -> list[Value]:
        """u8[32] for each 32 weights of a chunk, in the order of columns."""
        parts = k.regroup(chunk.lanes, 32)
        return [part for _, part in sorted(zip(self.order, parts, strict=False), key=_first)]

    def groups(self, k: Kernel, chunk: Unpacked) -> Iterator[Unpacked]:
        """Each 32 weights of a chunk by themselves, in the order of columns."""
        n = 32 // self.group
        for i, lanes in enumerate(self.in_column_order(k, chunk)):
            own = slice(n * i, n * (i + 1))
            offsets = None if chunk.offsets is None else chunk.offsets[own]
            yield Unpacked([lanes], chunk.scales[own], offsets)

    def constants(self, chunk: Unpacked) -> Value | None:
        """What every group adds for each unit of its activations' sum: f32[n_groups], or nothing.

        weight = scale * (lane - zero) + offset, so it is -scale * zero, or the offset.
        """
        return chunk.scales * -self.zero if self.zero else chunk.offsets

    def floats(self, k: Kernel, packed: Pointer, n_weights: int) -> list[Value]:
        """Rounded as `dequantize` rounds: scale times lane, then the offset."""
        chunk, lanes = self.unpack_chunk(k, packed, n_weights), min(k.isa.lanes, 16)
        parts = k.regroup(self.in_column_order(k, chunk), lanes)
        floats = []
        for start, within in zip(range(0, n_weights, lanes), parts, strict=True):
            weight = (within.to(f32) - self.zero) * chunk.scales[start // self.group]
            if chunk.offsets is not None:
                weight = weight + chunk.offsets[start // self.group]
            floats.append(weight)
        return floats


class Blocks:
    """A few blocks side by side, read by field name as IR values."""

    def __init__(self, k: Kernel, packed: Pointer, type: WeightType, n_blocks: int) -> None:
        self.k, self.n_blocks = k, n_blocks
        self._packed, self._type = packed, type

    def _offset(self, field: str, block: int) -> int:
        fields: Any = self._type.dtype.fields
        return int(block * self._type.bytes + fields[field][1])

    def halves(self, field: str) -> Value:
        """An f16 of every block, as f32[n_blocks]."""
        halves = [self._packed.load(f16, self._offset(field, i)) for i in range(self.n_blocks)]
        return self.k.vector(halves).to(f32)

    def bytes(self, field: str, start: int = 0, count: int = 0, *, block: int = 0) -> Value:
        """`count` bytes of a field (all of it by default) from its byte `start`, as u8[count]."""
        count = count or math.prod(self._type.dtype[field].shape)
        return self._packed.load(u8[count], self._offset(field, block) + start)


def nibbles(q: Value) -> Value:
    """u8[n] -> u8[2n]: the low halves, then the high ones."""
    return shifted(q.repeat(2), [0, 4]) & 15


def shifted(lanes: Value, bits: Sequence[int]) -> Value:
    """u8 lanes in as many equal runs as `bits` has numbers; run i shifted right by bits[i].

    As 32-bit words, which CPUs shift lane by lane: bits of the byte above come in at the top.
    """
    words = lanes.bits(u32[lanes.type.lanes // 4])
    each = words.type.lanes // len(bits)
    amounts = lanes.k.constant(words.type, [n for n in bits for _ in range(each)])
    return (words >> amounts).bits(lanes.type)


def with_bit(lanes: Value, is_set: Value, bit: int) -> Value:
    """u8 lanes, which lack this bit, with it where the u1 lanes are set."""
    return is_set.select(lanes + bit, lanes)


def _first(pair: tuple[int, Value]) -> int:
    return pair[0]


def nibbles_of(q: Bytes) -> Bytes:
    """(n, m) -> (n, 2m): the low halves, then the high ones."""
    return np.concatenate([q & 15, q >> 4], axis=-1)
