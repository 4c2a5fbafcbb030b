"""A cache type of the tests' own, in blocks of 8-bit numbers that share a scale."""

from __future__ import annotations

import hashlib
import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.guarded_memory import Array
from support.kernel_harness import nmse, run, unwritten

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import Pointer, Type, Value, f32, i8
from linnet.kernels.isa import ISA
from linnet.kernels.ops.attention import NO_WINDOW, Attend
from linnet.kernels.ops.cache_types import CACHE_TYPES, LANES, CacheType
from linnet.kernels.ops.kv_cache import StoreKeys, StoreValues

BLOCK = 32
BLOCK_BYTES = 4 + BLOCK  # the scale, f32, then the numbers
N_HEADS, CAPACITY = 2, 150


@dataclass(frozen=True)
class ByteBlocks(CacheType):
    """x = scale * q, scale = max |x| / 127 of each 32 numbers.

    values: (n_slots, n_heads, capacity, head_bytes) u8, of blocks: scale, q[32]
    keys: (n_slots, n_heads, runs, LANES * head_bytes) u8, of blocks: scale[LANES], q[32][LANES]
    """

    type: Type = i8

    __str__ = CacheType.__str__

    @property
    def name(self) -> str:  # the cache of kernels knows only the package's sources
        return "blocks_" + hashlib.sha256(inspect.getsource(ByteBlocks).encode()).hexdigest()[:12]

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def head_bytes(self, head_dim: Any) -> Any:
        return head_dim // BLOCK * BLOCK_BYTES

    def values_shape(self, *shape: int) -> tuple[int, ...]:
        return *shape[:3], self.head_bytes(shape[3])

    def keys_shape(self, *shape: int) -> tuple[int, ...]:
        return *shape[:2], -(-shape[2] // LANES), LANES * self.head_bytes(shape[3])

    def sizes(self, isa: ISA) -> tuple[int, ...]:
        return (BLOCK,)

    def store_values(self, values: Pointer, i: Value, x: Value) -> None:
        scale, numbers = self._quantize(x)
        block = values.at(i // BLOCK * BLOCK_BYTES)
        block.store(scale)
        block.store(numbers, 4)

    def load_values(self, values: Pointer, i: Value, lanes: int) -> Value:
        block = values.at(i // BLOCK * BLOCK_BYTES)
        return block.load(i8[lanes], i % BLOCK + 4).to(f32) * block.load(f32)

    def store_keys(self, keys: Pointer, lane: Value, i: Value, x: Value) -> None:
        scale, numbers = self._quantize(x)
        block = keys.at(i // BLOCK * (LANES * BLOCK_BYTES))
        block.store(scale, lane * 4)
        for j in range(BLOCK):
            block.store(numbers[j], lane + LANES * (4 + j))

    def load_keys(self, keys: Pointer, i: Value) -> Value:
        block = keys.at(i // BLOCK * (LANES * BLOCK_BYTES))
        numbers = block.load(i8[LANES], (i % BLOCK + 4) * LANES).to(f32)
        return numbers * block.load(f32[LANES])

    def _quantize(self, x: Value) -> tuple[Value, Value]:
        k = x.k
        largest = k.maximum(k.maximum(x, -x).max(), 1e-30)
        shifted = x * (127.0 / largest) + 12582912.0  # rounds to an integer, ties to even
        return largest * (1 / 127), (shifted - 12582912.0).to(i8)

    def write_values(self, cache: Array, slots: Array, places: Array, x: Array) -> None:
        scale, numbers = self._encode(x)
        blocks = np.concatenate([scale.view(np.uint8), numbers.view(np.uint8)], axis=-1)
        cache[slots, :, places] = blocks.reshape(*x.shape[:2], -1)

    def read_values(self, cache: Array, slot: int, places: Array) -> Array:
        blocks = cache[slot][:, places].reshape(N_HEADS, len(places), -1, BLOCK_BYTES)
        scale = np.ascontiguousarray(blocks[..., :4]).view(np.float32)
        return (blocks[..., 4:].view(np.int8) * scale).reshape(N_HEADS, len(places), -1)

    def write_keys(self, cache: Array, slots: Array, places: Array, x: Array) -> None:
        scale, numbers = self._encode(x)
        for i, (slot, place) in enumerate(zip(slots, places, strict=True)):
            blocks = cache[slot, :, place // LANES].reshape(N_HEADS, -1, BLOCK_BYTES, LANES)
            scales = blocks[:, :, :4].reshape(N_HEADS, -1, 4 * LANES).view(np.float32)
            scales[..., place % LANES] = scale[i, ..., 0]
            blocks[:, :, :4] = scales.view(np.uint8).reshape(N_HEADS, -1, 4, LANES)
            blocks[:, :, 4:, place % LANES] = numbers[i].view(np.uint8)

    def read_keys(self, cache: Array, slot: int, places: Array) -> Array:
        blocks = cache[slot].reshape(N_HEADS, cache.shape[2], -1, BLOCK_BYTES, LANES)
        scale = blocks[:, :, :, :4].reshape(*blocks.shape[:3], 4 * LANES).view(np.float32)
        numbers = blocks[:, :, :, 4:].view(np.int8) * scale[..., None, :]
        keys: Array = np.moveaxis(numbers, -1, 2).reshape(N_HEADS, cache.shape[2] * LANES, -1)
        return keys[:, places]

    def _encode(self, x: Array) -> tuple[Array, Array]:
        blocks = x.reshape(*x.shape[:2], -1, BLOCK)
        largest = np.maximum(np.abs(blocks).max(axis=-1, keepdims=True), np.float32(1e-30))
        numbers = np.rint(blocks * (np.float32(127) / largest)).astype(np.int8)
        return largest * np.float32(1 / 127), numbers


@pytest.mark.parametrize("head_dim", [32, 96])
def test_a_cache_in_blocks_of_bytes_is_stored_and_read(library: Library, head_dim: int) -> None:
    """The ops themselves know nothing of blocks: bit for bit as numpy stores them, and read alike
    by one token and by blocks of tokens."""
    type, group, n = ByteBlocks(), 4, 140
    x = np.random.default_rng(head_dim).standard_normal((2, n, N_HEADS * head_dim))
    place = {"slots": np.full(n, 1, np.int32), "positions": np.arange(n, dtype=np.int32)}
    shape = 2, N_HEADS, CAPACITY, head_dim
    sizes = {"n_heads": N_HEADS, "capacity": CAPACITY, "head_dim": head_dim, **place}
    caches = {}
    for op, numbers, laid in ((StoreKeys(type), x[0], type.keys_shape(*shape)),
                              (StoreValues(type), x[1], type.values_shape(*shape))):  # fmt: skip
        cache, expected = np.zeros((2, *laid), np.uint8)
        narrow = numbers.astype(np.float32)
        run(library, op, n, x=narrow, cache=cache, **sizes)
        op.reference(x=narrow, cache=expected, **sizes)
        assert cache.tobytes() == expected.tobytes()
        assert not cache[0].any()
        caches["keys" if isinstance(op, StoreKeys) else "values"] = cache
    q = np.random.default_rng(1).standard_normal((n, N_HEADS * group * head_dim))
    arguments: dict[str, Any] = {
        "q": q.astype(np.float32), "n_kv_heads": N_HEADS, "capacity": CAPACITY,
        "scale": head_dim**-0.5, "softcap": 0.0, "window": NO_WINDOW,
        "sinks": np.full(N_HEADS * group, -np.inf, np.float32), **place,
    }  # fmt: skip
    attend = Attend(type, head_dim, group)
    out, blocks, truth = unwritten(*q.shape), unwritten(*q.shape), np.zeros(q.shape)
    run(library, attend, n, **arguments, **caches, out=out)
    run(library, attend.lowered(None, library.isa), n, **arguments, **caches, out=blocks)
    attend.reference(**arguments, **caches, out=truth)
    assert out.tobytes() == blocks.tobytes()
    assert nmse(out, truth) <= 1e-12
    floats = CACHE_TYPES["f32"]
    plain = {"keys": np.zeros(floats.keys_shape(*shape)),
             "values": np.zeros(floats.values_shape(*shape))}  # fmt: skip
    floats.write_keys(
        plain["keys"], place["slots"], place["positions"], x[0].reshape(n, N_HEADS, -1)
    )
    floats.write_values(
        plain["values"], place["slots"], place["positions"], x[1].reshape(n, N_HEADS, -1)
    )
    Attend(floats, head_dim, group).reference(**arguments, **plain, out=truth)
    assert 1e-8 < nmse(out, truth) <= 1e-3
