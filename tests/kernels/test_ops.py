"""What every op of `linnet.kernels.ops` says of its arguments."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.kernel_harness import LocalOp, run

import linnet.kernels.ops
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import Pointer, f32, i32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import (
    Float,
    Float32s,
    Int,
    Int32s,
    Int64s,
    Op,
    OpKernel,
)


def ops() -> Iterator[type[Op]]:
    """Every op that can be recorded: those with a kernel and a reference."""
    for module in pkgutil.iter_modules(linnet.kernels.ops.__path__):
        found = importlib.import_module(f"linnet.kernels.ops.{module.name}")
        for op in vars(found).values():
            own = inspect.isclass(op) and op.__module__ == found.__name__
            if own and issubclass(op, Op) and op.reference is not Op.reference:
                yield op


@pytest.mark.parametrize("op", list(ops()), ids=lambda op: op.__name__)
def test_kernel_and_reference_take_the_same_arguments(op: type[Op]) -> None:
    """By name; but the number of rows, which numpy sees from its arrays."""
    parameters = [name for name in op.parameters if name != "n_rows"]
    reference = [*inspect.signature(op.reference).parameters][1:]
    assert reference == parameters
    assert op.writes <= set(parameters)
    assert {*op.picks, *op.picks.values()} <= set(parameters)


@dataclass(frozen=True)
class Mixed(LocalOp):
    """Reads the second number of arrays of every kind, and numbers."""

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def emit(
        self, k: OpKernel, floats: Float32s, ints: Int32s, longs: Int64s, raw: Pointer,
        out: Float32s, n: Int, x: Float,
    ) -> None:  # fmt: skip
        for _ in k.items():
            out.store(floats.at(1).load(0, 2))
            out.at(2).store(ints.load(1).to(f32))
            out.store((longs.index(1) + ints.index(1) + n).to(f32), 3)
            out.store(raw.load(f32, 4) + x, 4)


def test_arguments_are_what_the_signature_says(library: Library) -> None:
    assert list(Mixed.parameters.values()) == [pointer] * 5 + [i64, f32]
    assert Mixed.elements == {"floats": f32, "ints": i32, "longs": i64, "out": f32}
    out = np.zeros(5, np.float32)
    run(
        library, Mixed(), floats=np.float32([1, 2, 3]), ints=np.int32([4, -5]),
        longs=np.array([6, 7]), raw=np.float32([8, 9]).view(np.uint8), out=out, n=1 << 20, x=0.5,
    )  # fmt: skip
    assert out.tolist() == [2, 3, -5, (1 << 20) + 2, 9.5]
