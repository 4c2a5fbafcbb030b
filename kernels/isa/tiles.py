"""Matrix registers, as kernels use them: those of x86 with AMX."""

from __future__ import annotations

from linnet.kernels.ir import Kernel, Pointer, Value, u8, u16

N_TILES = 8
TILE, CONFIGURATION = 16 * 64, 64  # bytes


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

    def zero(self, tile: int) -> None:
        self._k.command("llvm.x86.tilezero", tile)

    def configure_whole(self, memory: Pointer) -> None:
        """All with 16 rows of 64 bytes; `memory`: room for a configuration."""
        memory.store(self._k.constant(u8[CONFIGURATION], [1, *[0] * (CONFIGURATION - 1)]))
        memory.store(self._k.constant(u16[N_TILES], 64), 16)
        memory.store(self._k.constant(u8[N_TILES], 16), 48)
        self.configure(memory)

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
