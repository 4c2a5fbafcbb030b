"""What the instruction sets of a family of CPUs have in common."""

from __future__ import annotations

import platform

from linnet.kernels.ir import Emitter, Family, Value, i32, i64


class X86(Family):
    """The time stamp counter runs evenly on CPUs since 2008 (invariant TSC)."""

    vector_register, triple = "v", "x86_64-unknown-linux-gnu"

    def pause(self, k: Emitter) -> None:
        k.command("llvm.x86.sse2.pause")

    def ticks(self, k: Emitter) -> Value:
        return k.intrinsic("llvm.readcyclecounter", i64)


class ARM64(Family):
    """The virtual counter, which programs may read. YIELD does nothing on most cores; ISB takes
    about as long as PAUSE."""

    vector_register, triple = "w", "aarch64-unknown-linux-gnu"

    def pause(self, k: Emitter) -> None:
        k.command("llvm.aarch64.isb", k.constant(i32, 15))

    def ticks(self, k: Emitter) -> Value:
        return k.read_register("CNTVCT_EL0")


FAMILIES = {"x86_64": X86, "AMD64": X86, "aarch64": ARM64, "arm64": ARM64}


def family() -> Family:
    """That of this machine's CPU; one without words of its own where it is not known."""
    return FAMILIES.get(platform.machine(), Family)()
