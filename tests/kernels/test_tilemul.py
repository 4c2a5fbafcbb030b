"""Products in matrix registers: by numbers where the CPU has them, elsewhere on emulated ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.kernel_harness import QUANT_TYPES, Array, by_name, nmse, random_weights, run, unwritten
from support.made_types import MADE_TYPES

from linnet.kernels.compiler.host import available_isas
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import Pointer, Value, f32, i64, u8, u16, u32
from linnet.kernels.isa import ISA
from linnet.kernels.isa.amx import AMX
from linnet.kernels.isa.tiles import Tiles
from linnet.kernels.products.activations import packed_bytes
from linnet.kernels.products.tilemul import RoundToBF16, TileMatMul
from linnet.kernels.quants import QuantType

TILE_BYTES = 1024
EMULATED_AT = 1 << 20  # where tiles lie in scratch memory


class EmulatedTiles(Tiles):
    """Tiles in memory, with what Intel's manual says of each instruction, row by row."""

    def __init__(self, k: Any) -> None:
        super().__init__(k)
        self._configuration = k.scratch.at(EMULATED_AT)
        self._tiles = [k.scratch.at(EMULATED_AT + TILE_BYTES * (1 + i)) for i in range(8)]

    def _rows(self, tile: int) -> Any:
        n_rows = self._configuration.load(u8, 48 + tile).to(i64)
        return self._k.range(n_rows, name="row")

    def configure(self, configuration: Pointer) -> None:
        self._configuration.store(configuration.load(u8[64]))
        for tile in range(8):
            self.zero(tile)

    def zero(self, tile: int) -> None:
        for i in self._k.range(TILE_BYTES):
            self._tiles[tile].store(self._k.constant(u8, 0), i)

    def load(self, tile: int, address: Pointer, stride: Value) -> None:
        for row in self._rows(tile):
            self._tiles[tile].store(address.load(u8[64], row * stride), row * 64)

    def store(self, tile: int, address: Pointer, stride: Value) -> None:
        for row in self._rows(tile):
            address.store(self._tiles[tile].load(u8[64], row * 64), row * stride)

    def dot(self, total: int, a: int, b: int) -> None:
        for row in self._rows(total):
            for pair in self._k.range(16, name="pair"):
                sums = self._tiles[total].load(f32[16], row * 64)
                columns = self._tiles[b].load(u16[32], pair * 64)
                for i in range(2):
                    number = _widened(self._tiles[a].load(u16, row * 64 + pair * 4 + 2 * i))
                    sums = sums + _widened(columns.shuffle(range(i, 32, 2))) * number
                self._tiles[total].store(sums, row * 64)

    def release(self) -> None:
        pass


def _widened(halves: Value) -> Value:
    return (halves.to(u32) << 16).bits(f32[halves.type.lanes])


@dataclass(frozen=True)
class Emulated(TileMatMul):
    """With room for the emulated tiles."""

    def scratch_bytes(self, isa: ISA, n_tokens: int) -> int:
        assert super().scratch_bytes(isa, n_tokens) <= EMULATED_AT
        return EMULATED_AT + 9 * TILE_BYTES


def emulating(isa: ISA) -> ISA:
    emulator = type("Emulating", (type(isa),), {"tiles": EmulatedTiles})
    made: ISA = emulator(isa.tuning)
    return made


@pytest.fixture(scope="module")
def tiled() -> Library:
    """Tiles as the CPU has them; emulated ones where it has none, if its vectors are as wide."""
    for isa in available_isas():
        if isa.tiles is not None:
            return Library(isa)
        if isa.bits == AMX.bits:
            return Library(emulating(isa))
    pytest.skip("tiles come with vectors of 512 bits, which this CPU lacks")


def round_to_bf16(library: Library, x: Array) -> Array:
    out = np.full((len(x), packed_bytes(x.shape[1])), 0x55, np.uint8)
    run(library, RoundToBF16(), len(x), x=x, out=out, width=x.shape[1])
    return out


def as_bf16(x: Array) -> Array:
    """Rounded to nearest, ties to even."""
    out = np.zeros((len(x), packed_bytes(x.shape[1])), np.uint8)
    RoundToBF16().reference(x=x, out=out, width=x.shape[1])
    return RoundToBF16().values(out, x.shape[1])


@pytest.mark.parametrize("type", [*QUANT_TYPES, *MADE_TYPES], ids=by_name)
def test_products_in_tiles_are_those_of_the_rounded_activations(
    tiled: Library, type: QuantType
) -> None:
    """Numbers of tokens and rows around whole tiles; a chunk of columns, two, and what is left."""
    columns = type.block, 512, 256 + type.block
    op = TileMatMul(type) if tiled.isa.tiles is Tiles else Emulated(type)
    for n_tokens, n_columns, n_out in zip((1, 33, 70), columns, (5, 32, 45), strict=True):
        rng = np.random.default_rng(n_tokens)
        weights = random_weights(type, n_out, n_columns, rng)
        x = rng.standard_normal((n_tokens, n_columns)).astype(np.float32)
        out = unwritten(n_tokens, n_out)
        sizes = {"n_columns": n_columns, "n_out": n_out}
        run(tiled, op, n_tokens, weights=weights, x=round_to_bf16(tiled, x), out=out, **sizes)
        x_rounded, w_rounded = (
            as_bf16(a).astype(np.float64) for a in (x, type.dequantize(weights))
        )
        truth = x_rounded @ w_rounded.T
        assert nmse(out, truth) <= 1e-10, (n_tokens, n_columns, n_out)
        alone = unwritten(1, n_out)
        last = round_to_bf16(tiled, x[-1:])
        run(tiled, op, 1, weights=weights, x=last, out=alone, **sizes)
        assert alone.tobytes() == out[-1:].tobytes()


@pytest.mark.parametrize("type", QUANT_TYPES, ids=by_name)
def test_roundings_to_bf16_are_far_less_than_those_to_int8(type: QuantType) -> None:
    """Weights and activations to eight bits each: against the unrounded product."""
    rng = np.random.default_rng(2)
    weights = type.dequantize(random_weights(type, 64, 2048, rng))
    x = rng.standard_normal((16, 2048)).astype(np.float32)
    truth = x.astype(np.float64) @ weights.astype(np.float64).T
    assert nmse(as_bf16(x).astype(np.float64) @ as_bf16(weights).T, truth) <= 1e-5


def test_numbers_are_rounded_to_the_nearest_bf16(tiled: Library) -> None:
    x = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    x[1, :8] = 0, -0.0, np.inf, -np.inf, np.nan, 3.38e38, 1 + 2**-8, 1 + 3 * 2**-8
    x[2, :2] = np.array([0x7FFFFFFF, 0xFF800001], np.uint32).view(np.float32)
    expected = np.zeros((3, packed_bytes(64)), np.uint8)
    RoundToBF16().reference(x=x, out=expected, width=64)
    ours, theirs = (
        RoundToBF16().values(packed, 64) for packed in (round_to_bf16(tiled, x), expected)
    )
    assert np.array_equal(ours, theirs, equal_nan=True)
    exact = np.isfinite(x)
    assert (np.abs(theirs[exact] - x[exact]) <= np.abs(x[exact]) * 2**-8).all()
    assert theirs[1, 6:8].tolist() == [1, 1 + 2**-6]  # ties, to even


def test_the_cpus_own_tiles_are_what_is_compiled() -> None:
    """Where no CPU here has them, the instructions can at least be seen."""
    text = TileMatMul(QUANT_TYPES[0]).ir(AMX())
    for name in ("ldtilecfg", "tileloadd64", "tdpbf16ps", "tilestored64", "tilerelease"):
        assert f"@llvm.x86.{name}" in text or f'@"llvm.x86.{name}"' in text
    assert AMX().permitted() or AMX() not in available_isas()
    code = Library(AMX())._compile(TileMatMul(QUANT_TYPES[0]))
    # tdpbf16ps tmm0, tmm6, tmm4 (VEX.128.F3.0F38.W0 5C)
    assert b"\xc4\xe2\x5a\x5c\xc6" in code
    assert b"\xc4\xe2\x78\x49\xc0" in code  # tilerelease
