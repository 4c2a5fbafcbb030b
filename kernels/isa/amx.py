"""x86 with AMX (Sapphire Rapids and what came after): matrices of 16 rows in tile registers."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache

from linnet.kernels.ir import Kernel, Pointer, Value, bf16, u16
from linnet.kernels.isa.avx512 import AVX512VNNI

ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, TILE_DATA = 158, 0x1023, 18  # Linux, asm/prctl.h


class Tiles:
    """Eight registers of 16 rows of 64 bytes, by number, as a kernel under construction uses them.

    A configuration is 64 bytes: 1, then from byte 16 the bytes in a row of each tile (u16), from
    byte 48 the rows of each (u8); see Intel's manual, volume 1, 18.2.
    """

    def __init__(self, k: Kernel) -> None:
        self._k = k

    def configure(self, configuration: Pointer) -> None:
        """Zero the tiles, and say what each holds from now on."""
        self._k.command("llvm.x86.ldtilecfg", configuration)

    def load(self, tile: int, address: Pointer, stride: Value) -> None:
        """`stride`: bytes from row to row."""
        self._k.command("llvm.x86.tileloadd64", tile, address, stride)

    def store(self, tile: int, address: Pointer, stride: Value) -> None:
        self._k.command("llvm.x86.tilestored64", tile, address, stride)

    def dot(self, total: int, a: int, b: int) -> None:
        """total (16, 16) f32 += a (16, 32) bf16 @ b (32, 16) bf16, b's rows in pairs:
        row i of its tile holds b[2i][0], b[2i + 1][0], b[2i][1], ..."""
        self._k.command("llvm.x86.tdpbf16ps", total, a, b)

    def release(self) -> None:
        """Leave the tiles, so that nobody needs to save them."""
        self._k.command("llvm.x86.tilerelease")


class AMX(AVX512VNNI):
    """Prompts multiply in bf16 tiles; all else is AVX-512 VNNI."""

    name = "amx"
    needs = AVX512VNNI.needs | {"avx512bf16", "amx-tile", "amx-bf16"}
    tiles = Tiles

    def permitted(self) -> bool:
        return _tiles_permitted()

    def f32_to_bf16(self, value: Value) -> Value:
        """Rounded to nearest, ties to even; numbers below 2^-126 become zero."""
        lanes = value.type.lanes
        name = f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * lanes}"
        return value.k.intrinsic(name, bf16[lanes], value).bits(u16[lanes])


@cache
def _tiles_permitted() -> bool:
    """Ask Linux, once, to let this process use the tiles' 8 KB of state."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    answer = ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, TILE_DATA)
    return bool(answer == 0)
