"""The vector-expression language kernels are written in; the only wing that spells llvmlite.ir.

A `Kernel` is one native function under construction. Its `Value`s carry a type with a sign and a
lane count, so that `+`, `>>` or `.to(f32)` know which instruction they mean:

    q = block.load(u8[32], 16)                  # 32 bytes, 16 bytes into the block
    low, high = q & 15, q >> 4                  # logical shift: the lanes are unsigned
    total = k.cell(f32[8])                      # a mutable register, zero at first
    for i in k.range(n_blocks):                 # a native loop; its body is traced once
        total.set(k.fma(x.load(f32[8], i * 32), scale, total.get()))
    out.store(total.get().sum())

Floating-point results are reproducible: nothing here lets LLVM reassociate or contract. A fused
multiply-add happens where a kernel says `k.fma`, and only on CPUs that have one.
"""

from linnet.kernels.ir.kernel import Kernel, Loop
from linnet.kernels.ir.memory import Cell, Pointer
from linnet.kernels.ir.types import (
    Type,
    bf16,
    f16,
    f32,
    i8,
    i16,
    i32,
    i64,
    pointer,
    u1,
    u8,
    u16,
    u32,
    u64,
)  # fmt: skip
from linnet.kernels.ir.values import Emitter, Family, Target, Value

__all__ = [
    "Cell", "Emitter", "Family", "Kernel", "Loop", "Pointer", "Target", "Type", "Value", "bf16",
    "f16", "f32", "i8", "i16", "i32", "i64", "pointer", "u1", "u8", "u16", "u32", "u64",
]  # fmt: skip
