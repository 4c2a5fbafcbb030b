"""Number types: kind, width and lanes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir


class _BFloat(ir.types._BaseFloatType):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite lacks: for the results of intrinsics only."""

    def __str__(self) -> str:
        return "bfloat"


_BFloat._create_instance()  # the one there is of every floating-point type


@dataclass(frozen=True, slots=True)
class Type:
    """A number type: kind "i" (signed), "u" (unsigned), "f" or "b" (bfloat); bits; lanes (0 for a
    scalar)."""

    kind: str
    bits: int
    lanes: int = 0

    def __getitem__(self, lanes: int) -> Type:
        return Type(self.kind, self.bits, lanes)

    @property
    def scalar(self) -> Type:
        return Type(self.kind, self.bits)

    @property
    def bytes(self) -> int:
        return self.bits // 8 * max(self.lanes, 1)

    @property
    def llvm(self) -> Any:
        floats = {"f16": ir.HalfType, "f32": ir.FloatType, "f64": ir.DoubleType, "b16": _BFloat}
        made = floats.get(f"{self.kind}{self.bits}")
        scalar = made() if made else ir.IntType(self.bits)
        return ir.VectorType(scalar, self.lanes) if self.lanes else scalar

    def __str__(self) -> str:
        return f"{self.kind}{self.bits}" + (f"[{self.lanes}]" if self.lanes else "")


u1, u8, u16, u32, u64 = (Type("u", bits) for bits in (1, 8, 16, 32, 64))
i8, i16, i32, i64 = (Type("i", bits) for bits in (8, 16, 32, 64))
f16, f32, bf16 = Type("f", 16), Type("f", 32), Type("b", 16)
pointer = Type("p", 64)
