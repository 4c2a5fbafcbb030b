"""Kernels called one at a time from tests, on random packed weights and in guarded memory."""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ir import Kernel, Pointer, Type, Value, f32, pointer, u8
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Op
from linnet.kernels.products.interleave import SPAN
from linnet.kernels.products.matmul import FloatMatMul, MatMul
from linnet.kernels.products.matvec import FloatMatVec, MatVec
from linnet.kernels.quants import WEIGHT_TYPES, QuantType, WeightType
from support import ROOT
from support.guarded_memory import Array
from support.isas import isas_to_test

TYPES = list(WEIGHT_TYPES.values())
QUANT_TYPES = [type for type in TYPES if isinstance(type, QuantType)]
NUMBER_TYPES = {
    np.dtype(f"{kind}{bits // 8}"): Type(kind, bits)
    for kind, all_bits in {"i": (8, 16, 32, 64), "u": (8, 16, 32, 64), "f": (16, 32, 64)}.items()
    for bits in all_bits
}
DTYPES = {type: dtype for dtype, type in NUMBER_TYPES.items()}


# Kernels that unpack weights to floats, and those for several rows: all types on the fastest
# instruction set, and every third type in turn on the others. To compile them all takes minutes;
# how each type unpacks is seen on every instruction set where rows are picked.
IN_TURN = [
    (isa, type)
    for i, isa in enumerate(isas_to_test())
    for j, type in enumerate(TYPES)
    if i == 0 or (i + j) % 3 == 0
]


def by_name(value: object) -> str:
    """The id of a test's parameter: a type's or an ISA's name, a class's."""
    return str(getattr(value, "name", None) or getattr(value, "__name__", value))


def nmse(actual: Array, truth: Array) -> float:
    """Squared error relative to the square of the truth; NaN where anything is NaN."""
    difference = actual.astype(np.float64) - truth
    return float((difference**2).sum() / (truth.astype(np.float64) ** 2).sum())


def widths(type: WeightType) -> tuple[int, ...]:
    """Widths of matrices: whole blocks, and all that may be left of a row behind whole chunks."""
    if type.block == 1:
        return 1, 8, 64, 172, 257
    if type.block == SPAN:
        return (2 * SPAN,)
    return type.block, 3 * type.block, SPAN + type.block, 9 * SPAN + 3 * type.block


# ---- ops -----------------------------------------------------------------------------------------


def few_row_ops(type: WeightType) -> list[type[Op]]:
    """The products with few rows that there are for a type; first with activations in f32."""
    return [FloatMatVec, MatVec] if isinstance(type, QuantType) else [FloatMatVec]


def many_row_ops(type: WeightType) -> list[type[Op]]:
    """The products with any number of rows."""
    return [FloatMatMul, MatMul] if isinstance(type, QuantType) else [FloatMatMul]


class LocalOp(Op):
    """An op of a test's own. The cache knows only the package's sources; so its name holds its."""

    @property
    def symbol(self) -> str:
        source = inspect.getsource(type(self)).encode()
        return f"{super().symbol}_{hashlib.sha256(source).hexdigest()[:12]}"


def run(
    library: Library,
    op: Op,
    n_rows: int = 1,
    *,
    items: tuple[int, int] | None = None,
    **arguments: Array | float,
) -> None:
    """Run an op natively on one thread: all its items in a pass of `n_rows` rows, or those given.

    An op that counts its rows itself finds them. Scratch memory is exactly what the op asks for,
    full of NaN; writing past it raises.
    """
    if "n_rows" in op.parameters:
        arguments["n_rows"] = np.array([n_rows])
    assert arguments.keys() == op.parameters.keys()
    sizes = {n: a.shape[-1] if isinstance(a, np.ndarray) else a for n, a in arguments.items()}
    count, rows = op.items(library.isa, **sizes)
    n_bytes = op.scratch_bytes(library.isa, n_rows)
    scratch = np.full(n_bytes + 64, 0xFF, np.uint8)
    function = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
    )(library.address(op))
    slots = argument_slots(op, arguments)
    first, last = items or (0, count * -(-n_rows // rows))
    function(slots.ctypes.data, first, last, scratch.ctypes.data)
    assert (scratch[n_bytes:] == 0xFF).all(), f"{op.symbol} writes past its scratch memory"


def argument_slots(op: Op, arguments: dict[str, Any]) -> npt.NDArray[np.uint64]:
    """The arguments as kernels take them, 8 bytes each."""
    slots = np.zeros(len(op.parameters), np.uint64)
    for slot, (name, type) in zip(slots.reshape(-1, 1), op.parameters.items(), strict=True):
        if type == pointer:
            slot[0] = arguments[name].ctypes.data
        elif type == f32:
            slot.view(np.float32)[0] = arguments[name]
        else:
            slot[0] = arguments[name]
    return slots


def unwritten(*shape: int, dtype: Any = np.float32) -> Array:
    """An array for results in which whatever stays unwritten shows: NaN, or -1."""
    return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else -1, dtype)


# ---- expressions ---------------------------------------------------------------------------------


class Snippet:
    """A function over pointers, traced by a test; its name holds a digest of its own IR."""

    def __init__(
        self, isa: ISA, n_pointers: int, trace: Callable[..., None], name: str = "snippet"
    ) -> None:
        """`trace(k, *pointers)`"""
        self._n_pointers, self._trace = n_pointers, trace
        digest = hashlib.sha256(self._text(isa, name).encode()).hexdigest()[:16]
        self.symbol = f"{name}_{digest}"

    def ir(self, isa: ISA) -> str:
        return self._text(isa, self.symbol)

    def _text(self, isa: ISA, symbol: str) -> str:
        k = Kernel(symbol, {f"p{i}": pointer for i in range(self._n_pointers)}, isa)
        self._trace(k, *k.parameters.values())
        return k.finish()


def run_traced(library: Library, trace: Callable[..., None], *arrays: Array) -> None:
    """Trace `trace(k, *pointers)`, one pointer an array, and run it once."""
    address = library.address(Snippet(library.isa, len(arrays), trace))
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(arrays))(address)
    function(*(array.ctypes.data for array in arrays))


def evaluate(
    library: Library, expression: Callable[..., Sequence[Value]], *inputs: Array
) -> list[Array]:
    """The values of `expression(k, *vectors)`, each input being one vector; lanes of u1 as u8."""
    types: list[Type] = []

    def trace(k: Kernel, out: Pointer, *pointers: Pointer) -> None:
        vectors = [
            p.load(NUMBER_TYPES[x.dtype][x.size]) for p, x in zip(pointers, inputs, strict=True)
        ]
        types.clear()
        for value in expression(k, *vectors):
            value = value.to(u8) if value.type.bits == 1 else value
            out.store(value, sum(type.bytes for type in types))
            types.append(value.type)

    out = np.zeros(1 << 14, np.uint8)
    run_traced(library, trace, out, *inputs)
    ends = np.cumsum([type.bytes for type in types])
    return [
        out[end - type.bytes : end].view(DTYPES[type.scalar])
        for end, type in zip(ends, types, strict=True)
    ]


def map_vectors(
    library: Library,
    function: Callable[[Kernel, Value], Value],
    x: Array,
    dtype: Any,
    lanes: int,
) -> Array:
    """`function(k, vector)` over all of x, `lanes` at a time (0: one scalar at a time)."""
    source, target, step = NUMBER_TYPES[x.dtype], NUMBER_TYPES[np.dtype(dtype)], max(lanes, 1)
    assert x.size % step == 0

    def trace(k: Kernel, x_at: Pointer, out_at: Pointer) -> None:
        for i in k.range(x.size // step):
            value = x_at.load(source[lanes], i * (step * source.bytes))
            out_at.store(function(k, value), i * (step * target.bytes))

    out = np.zeros(x.shape, dtype)
    run_traced(library, trace, x, out)
    return out


# ---- memory --------------------------------------------------------------------------------------


def random_weights(
    type: WeightType, n_rows: int, n_columns: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Packed rows (n_rows, row_bytes): random bits under normally distributed scales."""
    n_blocks = n_rows * n_columns // type.block
    packed = rng.integers(0, 256, (n_blocks, type.bytes), dtype=np.uint8)
    blocks = packed.view(type.dtype)[:, 0]
    for field, (dtype, _) in type.fields.items():
        shape = blocks[field].shape if dtype.startswith("<f") else n_blocks
        numbers = rng.standard_normal(shape).astype(np.float32) * np.float32(0.01)
        if type.name == "BF16":
            blocks[field] = numbers.view(np.uint32) >> 16
        elif field == "e":  # an exponent: subnormal scales, and usual ones
            blocks[field] = rng.choice([0, 1, 2, 118, 119, 120, 121], n_blocks)
        elif dtype.startswith("<f"):
            blocks[field] = numbers
    return packed.reshape(n_rows, -1)


def unaligned(array: Array) -> Array:
    """A copy of bytes at an odd address."""
    memory = np.zeros(array.nbytes + 64, np.uint8)
    start = 63 - memory.ctypes.data % 2
    copy = memory[start : start + array.nbytes].reshape(array.shape)
    copy[...] = array
    return copy


def run_python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, in which a signal ends no test but this one."""
    paths = [str(ROOT / folder) for folder in ("", "tests", "tests/kernels", "scripts")]
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
