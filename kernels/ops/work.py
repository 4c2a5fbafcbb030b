"""What a kernel has to do, whatever the machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """`n_operations`: multiplications and additions; `n_bytes`: bytes to read and to write."""

    n_operations: int
    n_bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.n_operations + other.n_operations, self.n_bytes + other.n_bytes)
