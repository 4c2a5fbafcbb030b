"""x86 with AMX (Sapphire Rapids and what came after): matrices of 16 rows in tile registers."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache

from linnet.kernels.ir import Value, bf16, u16
from linnet.kernels.isa.avx512 import AVX512VNNI
from linnet.kernels.isa.tiles import Tiles

ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, TILE_DATA = 158, 0x1023, 18  # Linux, asm/prctl.h


class AMX(AVX512VNNI):
    """Prompts multiply in bf16 tiles; all else is AVX-512 VNNI."""

    name = "amx"
    needs = AVX512VNNI.needs | {"avx512bf16", "amx-tile", "amx-bf16"}
    tiles = Tiles

    def permitted(self) -> bool:
        return _tiles_permitted()

    def f32_to_bf16(self, value: Value) -> Value:
        """Rounded to nearest, ties to even; numbers below 2^-126 become zero."""
        lanes, of_two = value.type.lanes, value.type.lanes == 32
        name = f"cvtne2ps2bf16.{16 * lanes}" if of_two else f"cvtneps2bf16.{32 * lanes}"
        registers = (value[16:], value[:16]) if of_two else (value,)
        name = f"llvm.x86.avx512bf16.{name}"
        return value.k.intrinsic(name, bf16[lanes], *registers).bits(u16[lanes])


@cache
def _tiles_permitted() -> bool:
    """Ask Linux, once, to let this process use the tiles' 8 KB of state."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    answer = ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, TILE_DATA)
    return bool(answer == 0)
