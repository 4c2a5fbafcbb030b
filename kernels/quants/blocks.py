"""Packed blocks as IR values, and how their bytes become lanes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from linnet.kernels.ir import Kernel, Pointer, Type, Value, f16, f32, u8, u16, u32, u64

LINE = 64  # bytes: what `Blocks.words` loads at once


class Layout(Protocol):
    """Where the fields of a block lie, and how many bytes it takes: a `WeightType`."""

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def bytes(self) -> int: ...


class Blocks:
    """A few blocks side by side, read by field name as IR values."""

    def __init__(self, k: Kernel, packed: Pointer, type: Layout, n_blocks: int) -> None:
        self.k, self.n_blocks = k, n_blocks
        self._packed, self._type = packed, type

    def part(self, first: int, n_blocks: int) -> Blocks:
        """Some of them."""
        start = self._packed.at(first * self._type.bytes)
        return Blocks(self.k, start, self._type, n_blocks)

    def _offset(self, field: str, block: int) -> int:
        fields: Any = self._type.dtype.fields
        return int(block * self._type.bytes + fields[field][1])

    def halves(self, field: str) -> Value:
        """An f16 of every block, as f32[n_blocks]."""
        halves = [self._packed.load(f16, self._offset(field, i)) for i in range(self.n_blocks)]
        return self.k.vector(halves).to(f32)

    def words(self, field: str) -> Value:
        """Of each block the 16 bits at an even offset in which a field begins: u16[n_blocks]."""
        return self.picked(u16, [self._offset(field, i) // 2 for i in range(self.n_blocks)])

    def picked(self, type: Type, numbers: Sequence[int]) -> Value:
        """Words of the blocks' bytes by their numbers; `type` u16, u32 or u64.

        The bytes are read 64 at a time. What is wanted of one read may lie in other lanes than what
        is wanted of another: these are blended first, which no port is short of, and at most two
        vectors are left to be shuffled.
        """
        if not self.k.isa.interleaves:
            return self.k.vector([self._packed.load(type, n * type.bytes) for n in numbers])
        lanes, n_bytes = LINE // type.bytes, self.n_blocks * self._type.bytes
        blended: list[tuple[Value, set[int]]] = []
        place: dict[int, int] = {}
        for start in sorted({*range(0, n_bytes - LINE + 1, LINE), n_bytes - LINE}):
            first = start // type.bytes
            new = {n: n - first for n in numbers if n not in place and 0 <= n - first < lanes}
            used, read = set(new.values()), self._packed.load(type[lanes], start)
            at = next((i for i, (_, taken) in enumerate(blended) if not taken & used), len(blended))
            if at == len(blended):
                blended.append((read, used))
            else:
                other, taken = blended[at]
                blend = [lane + lanes * (lane in used) for lane in range(lanes)]
                blended[at] = other.shuffle(blend, read), taken | used
            place |= {n: lane + lanes * at for n, lane in new.items()}
        return blended[0][0].shuffle([place[n] for n in numbers], *(v for v, _ in blended[1:]))

    def heads(self) -> Value:
        """The first eight bytes of every block: u64[n_blocks]."""
        starts = range(0, self.n_blocks * self._type.bytes, self._type.bytes)
        return self.k.vector([self._packed.load(u64, start) for start in starts])

    def header(self, count: int) -> Value:
        """The first block's first bytes, whatever fields they are of: u8[count]."""
        return self._packed.load(u8[count])

    def footer(self, count: int) -> Value:
        """The first block's last bytes: u8[count]."""
        return self._packed.load(u8[count], self._type.bytes - count)

    def bytes(self, field: str, start: int = 0, count: int = 0, *, block: int = 0) -> Value:
        """`count` bytes of a field (all of it by default) from its byte `start`, as u8[count]."""
        count = count or math.prod(self._type.dtype[field].shape)
        return self._packed.load(u8[count], self._offset(field, block) + start)


def nibbles(q: Value) -> Value:
    """u8[n] -> u8[2n]: the low halves, then the high ones."""
    return shifted(q.repeat(2), [0, 4]) & 15


def shifted(lanes: Value, bits: Sequence[int]) -> Value:
    """u8 lanes in as many equal runs as `bits` has numbers; run i shifted right by bits[i].

    As 32-bit words, where CPUs shift no smaller ones lane by lane: bits of the byte above come in
    at the top.
    """
    if lanes.k.isa.shifts_bytes:
        each = lanes.type.lanes // len(bits)
        return lanes >> lanes.k.constant(lanes.type, [n for n in bits for _ in range(each)])
    words = lanes.bits(u32[lanes.type.lanes // 4])
    each = words.type.lanes // len(bits)
    amounts = lanes.k.constant(words.type, [n for n in bits for _ in range(each)])
    return (words >> amounts).bits(lanes.type)


def eights(places: Sequence[int], *parts: Value) -> Value:
    """u8[64] of bytes taken eight at a time, by their numbers in u8 vectors of one length."""
    words = [part.bits(u64[part.type.lanes // 8]) for part in parts]
    return words[0].shuffle(places, *words[1:]).bits(u8[64])


def side_by_side(run: int, a: Value, b: Value) -> Value:
    """u8[64]: of every sixteen bytes of a and b the first eight, or of run 1 the second."""
    return eights([i + j + run for i in range(0, 8, 2) for j in (0, 8)], a, b)


def shifted_eights(lanes: Value, bits: Sequence[int]) -> Value:
    """u8[64], of which each eight is shifted to the right by so many bits, as a u64."""
    words = lanes.bits(u64[8])
    return (words >> lanes.k.constant(words.type, bits)).bits(lanes.type)


def rotated_eights(lanes: Value, bits: Sequence[int]) -> Value:
    """u8[64], of which each eight is rotated to the left by so many bits, as a u64; to the right,
    where they are negative."""
    k, words = lanes.k, lanes.bits(u64[8])
    amounts = k.constant(words.type, [n % 64 for n in bits])
    return k.intrinsic("llvm.fshl.v8i64", words.type, words, words, amounts).bits(lanes.type)


def nibble_runs(first: Value, last: Value) -> list[Value]:
    """What `runs` gives of eight groups of 16 bytes, four groups each, low nibbles first."""
    return split_nibbles([eights(range(i, 16, 2), first, last) for i in range(2)])


def nibble_runs_of_blocks(b: Blocks) -> list[Value]:
    """The same of `qs` of eight blocks."""
    even, odd = (
        b.k.concat([b.bytes("qs", block=i) for i in range(first, 8, 2)]) for first in range(2)
    )
    return split_nibbles([side_by_side(run, even, odd) for run in range(2)])


def split_nibbles(runs: Sequence[Value]) -> list[Value]:
    """Runs 0 and 1 in the low nibbles, 2 and 3 in the high ones -> each."""
    return [run & 15 for run in runs] + [run >> 4 for run in runs]


def with_bit(lanes: Value, is_set: Value, bit: int) -> Value:
    """u8 lanes, which lack this bit, with it where the u1 lanes are set."""
    return is_set.select(lanes + bit, lanes)


def with_bits(lanes: Value, bytes: Value, numbers: Sequence[int], place: int) -> Value:
    """u8 lanes, which lack the bit at `place`, with it where bytes have one: in as many equal runs
    as there are `numbers`, run i where bit numbers[i] of its byte is set."""
    k, each = lanes.k, lanes.type.lanes // len(numbers)
    of_lane = [number for number in numbers for _ in range(each)]
    if not k.isa.shifts_bytes:
        bits = k.constant(lanes.type, [1 << number for number in of_lane])
        return with_bit(lanes, bytes & bits > 0, 1 << place)
    up, down = (
        k.constant(lanes.type, [max(sign * (place - number), 0) for number in of_lane])
        for sign in (1, -1)
    )
    return lanes | ((bytes << up) >> down) & (1 << place)
