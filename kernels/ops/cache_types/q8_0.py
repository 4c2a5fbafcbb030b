"""Keys and values in blocks of 32 8-bit numbers under one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from linnet.kernels.ir import Kernel, Pointer, Type, Value, f16, f32, i8, i32, u8, u16, u32
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Array, Numbers
from linnet.kernels.ops.cache_types.base import LANES, CacheType, Count, Shape

ROUNDING, ROUNDING_BITS = 12582912.0, 0x4B400000  # 1.5 * 2^23: see `_nearest`
LEAST = 2.0**-110  # smaller blocks of a query are rounded as if one number were this
HALF_MAX, HALF_NAN = 65504.0, 0x7E00


@dataclass(frozen=True)
class Q8_0(CacheType):
    """Blocks of 32 numbers under one scale: x = d * q (ggml block_q8_0), 34 bytes each.

    values: (n_slots, n_heads, capacity, head_dim / 32, 34) u8: d f16, q i8[32]
    keys: (n_slots, n_heads, runs, head_dim / 32, 544) u8: q + 128 as u8[8][LANES][4], d f16[LANES]

    d = max |x| / 127 as f16, q = x / d to nearest, ties to even; d is NaN where it would be above
    the largest half. Scores are sums of integers, exact for each block: 32 numbers of a query are
    254 * high + low steps, of 1 / 32258 of the largest, in 72 bytes of scratch memory:

        high i8[32], low i8[32], step f32, offset i32 = 128 * sum(254 * high + low)

        score = sum over blocks: step * d * (254 * high @ u8 + low @ u8 - offset)
    """

    type: Type = i8

    block: ClassVar[int] = 32
    value_bytes: ClassVar[int] = 34
    key_bytes: ClassVar[int] = LANES * 34
    query_block: ClassVar[int] = 72

    __str__ = CacheType.__str__

    @property
    def name(self) -> str:
        return "q8_0"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def head_bytes(self, head_dim: Count) -> Count:
        return head_dim // self.block * self.value_bytes

    def values_shape(self, n_slots: int, n_heads: int, capacity: int, head_dim: int) -> Shape:
        return n_slots, n_heads, capacity, head_dim // self.block, self.value_bytes

    def keys_shape(self, n_slots: int, n_heads: int, capacity: int, head_dim: int) -> Shape:
        return n_slots, n_heads, -(-capacity // LANES), head_dim // self.block, self.key_bytes

    # -- in kernels -----------------------------------------------------------------------------
    def sizes(self, isa: ISA) -> tuple[int, ...]:
        return (self.block,)

    def store_values(self, values: Pointer, i: Value, x: Value) -> None:
        d, numbers = self._quantize(x)
        block = values.at(i // self.block * self.value_bytes)
        block.store(d)
        block.store(numbers, 2)

    def load_values(self, values: Pointer, i: Value, lanes: int, n: int) -> Sequence[Value]:
        first, start = values.at(i // self.block * self.value_bytes), i % self.block + 2
        places = (divmod(j * lanes, self.block) for j in range(n))
        return [
            first.load(i8[lanes], start + (block * self.value_bytes + rest)).to(f32)
            for block, rest in places
        ]

    def weights(
        self, k: Kernel, weights: Numbers, n: int, stride: int, values: Pointer, head_bytes: int,
        i: Value, first: Value, end: Value, room: Numbers,
    ) -> Numbers:  # fmt: skip
        """Weights times d: in 16 places at once, and not in every vector of each place."""
        scales, last = values.at(i // self.block * self.value_bytes), end - 1
        for place in k.range(end, first & -LANES, LANES, name="scales"):
            places = [k.minimum(place + lane, last) for lane in range(LANES)]  # none that is not
            halves = [scales.load(f16, each * head_bytes) for each in places]
            d = k.vector(halves).to(f32)
            for row in range(n):
                at = place + row * stride
                room.store(weights.load(at, LANES) * d, at)
        return room

    def store_keys(self, keys: Pointer, lane: Value, i: Value, x: Value) -> None:
        d, numbers = self._quantize(x)
        block = keys.at(i // self.block * self.key_bytes)
        words = (numbers.bits(u8[self.block]) ^ 128).bits(u32[self.block // 4])
        for j in range(self.block // 4):
            block.store(words[j], (lane + j * LANES) * 4)
        block.store(d, lane * 2 + LANES * self.block)

    def _quantize(self, x: Value) -> tuple[Value, Value]:
        """x f32[32] -> d f16[1], q i8[32]"""
        k = x.k
        wanted = _largest(x) * (1 / 127)
        fits = wanted <= HALF_MAX  # nor is NaN
        half = k.vector([wanted]).to(f16)
        d = fits.select(half.bits(u16[1])[0], k.constant(u16, HALF_NAN))
        rounded = half.to(f32)[0]
        inverse = ((rounded > 0.0) & fits).select(1.0 / rounded, k.constant(f32, 0))
        finite = fits.splat(self.block).select(x, 0.0)
        scaled = k.maximum(k.minimum(finite * inverse, 127.0), -127.0)
        return d, _nearest(scaled)[1].to(i8)

    # -- queries, as they meet keys of this type -------------------------------------------------
    def query_bytes(self, head_dim: int) -> int:
        return head_dim // self.block * self.query_block

    def query_size(self, lanes: int) -> int:
        return self.block

    def store_query(self, query: Pointer, i: Value, x: Value) -> None:
        k, block = x.k, query.at(i // self.block * self.query_block)
        largest = _largest(x)
        bounded = k.maximum(largest, LEAST)
        number, bits = _nearest(x * (127 * 254 / bounded))
        high, high_bits = _nearest(number * (1 / 254))
        block.store(high_bits.to(i8))
        block.store(_nearest(number - high * 254.0)[1].to(i8), 32)
        block.store(bounded * (1 / (127 * 254)) + (largest - largest), 64)  # NaN if not finite
        block.store((bits - ROUNDING_BITS).sum() * 128, 68)

    def scores(
        self, k: Kernel, keys: Pointer, queries: Pointer, n: int, head_dim: int
    ) -> list[Value]:
        totals = [k.cell(f32[LANES], "score") for _ in range(n)]
        signed = k.isa.signed_weights  # q itself, of which nothing has to be taken away
        for block in k.range(head_dim // self.block, name="block"):
            key = keys.at(block * self.key_bytes)
            rows = [
                queries.at(block * self.query_block + row * self.query_bytes(head_dim))
                for row in range(n)
            ]
            sums = [[k.constant(i32[LANES], 0) for _ in range(2)] for _ in rows]
            for i in range(0, self.block, 4):
                four = key.load(u8[4 * LANES], i * LANES)
                four, largest = (four ^ 128, 127) if signed else (four, 255)
                for row, digits in zip(rows, sums, strict=True):
                    for digit, at in enumerate((i, i + self.block)):
                        same = row.load(i32, at).splat(LANES).bits(i8[4 * LANES])
                        digits[digit] = k.isa.dot(digits[digit], four, same, largest)
            d = key.load(f16[LANES], self.block * LANES).to(f32)
            for row, (high, low), total in zip(rows, sums, totals, strict=True):
                whole = (high << 8) - (high << 1) + low
                whole = whole if signed else whole - row.load(i32, 68)
                total.set(k.fma(whole.to(f32), d * row.load(f32, 64), total.get()))
        return [total.get() for total in totals]

    # -- in numpy -------------------------------------------------------------------------------
    def write_values(self, cache: Array, slots: Array, places: Array, x: Array) -> None:
        d, numbers = self._encode(x)
        cache[slots, :, places] = np.concatenate([d, numbers], axis=-1)

    def read_values(self, cache: Array, slot: int, places: Array) -> Array:
        blocks = cache[slot][:, places]
        return self._decode(blocks[..., :2], blocks[..., 2:])

    def write_keys(self, cache: Array, slots: Array, places: Array, x: Array) -> None:
        d, numbers = self._encode(x)
        heads = np.arange(cache.shape[1])[:, None, None]
        blocks = np.arange(cache.shape[3])[:, None]
        for i, (slot, place) in enumerate(zip(slots, places, strict=True)):
            for at, part in zip(self._places(place), (d, numbers ^ np.uint8(128)), strict=True):
                cache[slot, heads, place // LANES, blocks, at] = part[i]

    def read_keys(self, cache: Array, slot: int, places: Array) -> Array:
        runs = cache[slot][:, places // LANES]
        each = np.arange(len(places))[:, None, None], np.arange(cache.shape[3])[:, None]
        d, numbers = (runs[:, *each, at[:, None]] for at in self._places(places))
        return self._decode(d, numbers ^ np.uint8(128))

    def _places(self, places: Array) -> tuple[Array, Array]:
        """In a block of keys, those of the bytes of d (..., 2) and of the numbers (..., 32)."""
        lane, i = np.asarray(places)[..., None] % LANES, np.arange(self.block)
        return self.block * LANES + 2 * lane + i[:2], (i // 4 * LANES + lane) * 4 + i % 4

    def _encode(self, x: Array) -> tuple[Array, Array]:
        """x (..., head_dim) -> the bytes of d (..., head_dim / 32, 2) and of q (..., 32)."""
        blocks = x.reshape(*x.shape[:-1], -1, self.block)
        wanted = np.abs(blocks).max(axis=-1, keepdims=True) * np.float32(1 / 127)
        fits = wanted <= HALF_MAX
        d = np.where(fits, wanted, np.nan).astype(np.float16)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = np.where(fits & (d > 0), 1 / d.astype(np.float32), np.float32(0))
            scaled = np.clip(np.where(fits, blocks, 0) * inverse, -127, 127)
        return d.view(np.uint8), np.rint(scaled).astype(np.int8).view(np.uint8)

    def _decode(self, d: Array, numbers: Array) -> Array:
        """The bytes of d and of q -> (n_heads, n, head_dim)"""
        scales = np.ascontiguousarray(d).view(np.float16).astype(np.float32)
        decoded: Array = (numbers.view(np.int8) * scales).reshape(*numbers.shape[:-2], -1)
        return decoded


def _largest(x: Value) -> Value:
    """The largest size of the lanes; NaN where one is."""
    sizes = (x.bits(u32[x.type.lanes]) & 0x7FFFFFFF).bits(i32[x.type.lanes])
    return sizes.max().bits(f32)  # as integers they order like floats, and NaN is above them all


def _nearest(x: Value) -> tuple[Value, Value]:
    """The nearest integers, ties to even, of sizes below 2^22: as f32, and as i32 with
    ROUNDING_BITS added, of which the low bytes are theirs."""
    shifted = x + ROUNDING
    return shifted - ROUNDING, shifted.bits(i32[x.type.lanes])
