"""What CPUs have that LLVM does not look for: what their operating systems say of ARM's."""

from __future__ import annotations

import ctypes
import platform
import sys

from linnet.kernels import macos

# LLVM's names of bits, as in Linux's asm/hwcap.h, by the number of the word that has them.
HWCAPS = {
    16: {1: "neon", 8: "lse", 10: "fullfp16", 20: "dotprod", 22: "sve"},
    26: {1: "sve2", 13: "i8mm", 14: "bf16"},
}
# What sysctl calls them on macOS; NEON is in all of these machines.
SYSCTLS = {
    "lse": "LSE", "fullfp16": "FP16", "dotprod": "DotProd", "i8mm": "I8MM", "bf16": "BF16",
}  # fmt: skip


def system_features() -> dict[str, bool]:
    """LLVM's names for features of this CPU, and whether the system says that it has them."""
    if platform.machine() not in ("aarch64", "arm64"):
        return {}
    if sys.platform == "linux":
        return _from_hwcaps()
    return _from_sysctl() if sys.platform == "darwin" else {}


def _from_hwcaps() -> dict[str, bool]:
    get = ctypes.CDLL(None).getauxval
    get.restype, get.argtypes = ctypes.c_ulong, (ctypes.c_ulong,)
    return {
        name: bool(get(word) >> bit & 1)
        for word, bits in HWCAPS.items()
        for bit, name in bits.items()
    }


def _from_sysctl() -> dict[str, bool]:
    said = {name: macos.number(f"hw.optional.arm.FEAT_{word}") for name, word in SYSCTLS.items()}
    return {"neon": True, **{name: bool(value) for name, value in said.items()}}
