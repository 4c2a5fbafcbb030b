"""What a ggml weight type says of itself; kernels, tests and the quantiser follow from it.

A type describes how a block unpacks, as vector expressions: 8-bit lanes, and for every `group` of
weights a scale and an offset, so that `weight = scale * (lane - zero) + offset`. From this one
description come row look-up, the products of few rows and of many (GEMV, GEMM), and their tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import Kernel, Pointer, Target, Value, f16, f32
from linnet.kernels.quants.blocks import Blocks, eights, side_by_side

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
Records = npt.NDArray[Any]  # (n,) blocks

Factors = tuple[Value, Value | None]  # scales, offsets

BATCH = 1 << 20  # weights quantised at a time: threads take turns in Python, so turns are long
HALF_MAX = 65504.0  # the largest F16 number
LARGEST_SIGNED = 127
BLOCKS, GROUPS = (32, 64, 128, 256), (16, 32)  # weights in a block, and under one scale


@dataclass(frozen=True, slots=True)
class Unpacked:
    """`lanes`: u8 vectors of one length, whole groups of 32 weights in the type's `order`.

    `scales`, `offsets`: f32[n_groups], in the order of columns. `multipliers`: i16[n_groups], where
    a type is `folded`; scales are these times `unit`, an f32.
    """

    lanes: Sequence[Value]
    scales: Value
    offsets: Value | None = None
    multipliers: Value | None = None
    unit: Value | None = None


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

    def quantize(self, rows: Floats, importance: Floats | None = None) -> Bytes:
        """Weights (n_rows, n_columns) -> packed rows (n_rows, row_bytes).

        `importance`: what each weight's squared error counts, above 0, of the same shape or
        (n_columns,); all count the same by default. Raises ValueError where a row is not a whole
        number of blocks, and for weights that are not finite or too large for the type.
        """
        packed = np.empty((len(rows), self.row_bytes(rows.shape[1])), np.uint8)
        records = packed.reshape(-1, self.bytes).view(self.dtype)[:, 0]
        blocks = np.asarray(rows, np.float32).reshape(-1, self.block)
        if importance is not None:
            importance = np.broadcast_to(importance, rows.shape).reshape(-1, self.block)
        step = BATCH // self.block
        for start in range(0, len(blocks), step):
            batch = blocks[start : start + step]
            self._check_range(batch)
            records[start : start + step] = self.encode(
                batch, None if importance is None else importance[start : start + step]
            )
        return packed

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        """Weights (n, block), finite and in range -> records (n,); without it, no `quantize`.

        `importance`: (n, block), above 0; types without a search have no use for it.
        """
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
    of 32 weights of 256 in the order in which `unpack` gives them; `folded`: where scales are
    integers so small that `lane - zero` times one of them fits a byte, the `largest` and the `zero`
    of such bytes; `signs`: whether lanes are as well made as signed bytes, without a zero.

    A new type needs `unpack` and `decode`: all kernels work then. Products with few rows, which
    decoding is made of, read a matrix once, so what unpacking takes is their speed. `runs` and
    `factors` say the same as `unpack` in the order in which they multiply, for whole 256 weights;
    a type writes its own to get there in fewer instructions, of which these weigh most:

    - Bytes are brought to their places while they still hold several weights (`eights`), and then
      split: a shuffle of 64 bytes takes the port that dot products take.
    - Every eight bytes can be shifted or rotated by another number of bits (`shifted_eights`,
      `rotated_eights`), so that one mask takes out of all of them what belongs to a lane.
    - The scales of two rows fill one register: both are decoded at once.
    """

    group: ClassVar[int] = 32
    order: ClassVar[tuple[int, ...]] = tuple(range(8))
    largest: int
    zero: int = 0
    folded: ClassVar[tuple[int, int] | None] = None
    signs: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        """Raises ValueError for a block or a group of weights that kernels do not take."""
        for name, allowed in (("block", BLOCKS), ("group", GROUPS)):
            if (value := getattr(cls, name)) not in allowed:
                known = ", ".join(map(str, allowed))
                raise ValueError(f"{cls.__name__}: {name} is {value}; it must be one of {known}")

    def on(self, isa: Target) -> QuantType:
        """The type as products of an instruction set take it: with signed lanes, where both can."""
        if not (self.signs and isa.signed_weights):
            return self
        signed = copy(self)
        signed.largest, signed.zero = LARGEST_SIGNED, 0
        return signed

    def unpack(self, b: Blocks) -> Unpacked:
        """The blocks as IR values."""
        raise NotImplementedError

    def levels(self, table: Sequence[int], q: Value) -> Value:
        """Lanes of the levels that have these numbers, u8, in a table of 16."""
        return q.k.isa.lookup([(level + self.zero) & 255 for level in table], q)

    def runs(self, b: Blocks) -> list[Value]:
        """256 weights in the order of products (`linnet.kernels.products.interleave`): u8[64] for
        each of four runs, the run's eight lanes of group 0, then those of group 1, and so on."""
        return self.in_runs(b.k, self.unpack(b))

    def in_runs(self, k: Kernel, chunk: Unpacked) -> list[Value]:
        """The lanes of 256 weights, as `runs` has them."""
        groups = self.in_column_order(k, chunk)
        pairs = [k.concat([groups[i], groups[i + 2]]) for i in (0, 1, 4, 5)]
        # Each run of two groups side by side, then of all eight.
        twos = [[side_by_side(run, *pairs[i : i + 2]) for i in (0, 2)] for run in range(2)]
        halves = [[4 * i + j for i in range(4) for j in (half, half + 1)] for half in (0, 2)]
        return [eights(half, *two) for half in halves for two in twos]

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        """Scales and offsets of 256 weights of a row or two, f32[16] each, as products are folded
        (`linnet.kernels.products.folds`).

        Where groups have 32, those of two rows together: of groups 2i and 2i + 1 of the first row,
        then of the second. Where they have 16, those of each row: of every 64 weights the first,
        the third, the second and the fourth group, but in the order of columns where an instruction
        set does not interleave weights.
        """
        chunks = [self.unpack(row) for row in rows]
        scales = self.in_fold_order([chunk.scales for chunk in chunks])
        offsets = [chunk.offsets for chunk in chunks if chunk.offsets is not None]
        none: list[Value | None] = [None] * len(scales)
        return list(zip(scales, self.in_fold_order(offsets) if offsets else none, strict=True))

    def in_fold_order(self, numbers: Sequence[Value]) -> list[Value]:
        """Each row's numbers, in the order of columns -> as `factors` has them."""
        if self.group == 16 and not numbers[0].k.isa.interleaves:
            return list(numbers)
        if self.group == 16:
            return [
                row.shuffle([i + j for i in range(0, 16, 4) for j in (0, 2, 1, 3)])
                for row in numbers
            ]
        first, second = numbers
        return [first.shuffle([i + j for i in range(0, 8, 2) for j in (0, 1, 8, 9)], second)]

    def folded_halves(self, rows: Sequence[Blocks], field: str) -> Value:
        """An f16 of each of eight blocks of two rows, as `factors` has them: f32[16]."""
        (words,) = self.in_fold_order([row.words(field) for row in rows])
        return words.bits(f16[16]).to(f32)

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


def _first(pair: tuple[int, Value]) -> int:
    return pair[0]


def nibbles_of(q: Bytes) -> Bytes:
    """(n, m) -> (n, 2m): the low halves, then the high ones."""
    return np.concatenate([q & 15, q >> 4], axis=-1)
