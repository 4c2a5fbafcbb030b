"""What random calls of kernels are made of: numbers and packed weights of all kinds, and what a
kernel may make of them.

A result may differ from the truth, which numpy computes in float64, by `tolerance`: rounding errors
in units of 2^-24 of the sum of the sizes of all terms, not of the sum itself, so that the bound is
tight for any data, whatever cancels out. Where an input that a result depends on is NaN or infinite
and the truth is too, the result must not be finite. Where finite terms add up to a size beyond
`LARGEST`, so that a sum in f32 may overflow on its way, the result may be anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ops.base import Op
from linnet.kernels.quants import QuantType, WeightType
from support.guarded_memory import Array
from support.kernel_harness import random_weights

UNIT = 2.0**-24  # of rounding to f32
LARGEST = 1e37
Check = Callable[[dict[str, Array]], str]  # of the arrays that were written; "" is right


def bits_of(written: dict[str, Array]) -> bytes:
    """All bits, but that a NaN may be any NaN."""
    return b"".join(canonical(written[name]).tobytes() for name in sorted(written))


def canonical(array: Array) -> Array:
    is_nan = array.dtype.kind == "f" and np.isnan(array)
    return np.where(is_nan, array.dtype.type(np.nan), array) if np.any(is_nan) else array


@dataclass(frozen=True)
class Case:
    """A call: what an op is to make of its arguments.

    `check` gets what the op wrote. `bits`: what of it does not depend on where arrays lie, nor on
    how many pieces it is made in, nor on some instruction sets.
    Arrays that are written hold what they hold before the call; `blank` ones hold nothing.
    """

    op: Op
    n_rows: int
    arguments: dict[str, Any]
    check: Check
    blank: frozenset[str] = frozenset({"out"})
    bits: Callable[[dict[str, Array]], bytes] = bits_of


def close(truth: Array, tolerance: Array | float, name: str = "out") -> Check:
    """The check that one array is as close to the truth as that; NaN where the truth is not finite,
    infinite where it may be anything."""
    truth, tolerance = np.broadcast_arrays(truth, tolerance)

    def check(written: dict[str, Array]) -> str:
        actual = written[name].reshape(truth.shape)
        right = np.abs(actual - truth) <= tolerance
        if right.all():
            return ""
        finite = np.isfinite(truth)
        right |= ~finite & ~np.isfinite(actual) | finite & (tolerance == np.inf)
        if right.all():
            return ""
        at = tuple(int(i[0]) for i in np.nonzero(~right))
        n = np.count_nonzero(~right)
        return (
            f"{n} of {right.size} {name} differ; {at}: {actual[at]!r}, not {truth[at]!r} "
            f"to {tolerance[at]:.3g}"
        )

    return check


def exact(truth: Array, name: str = "out") -> Check:
    """The check that one array is the truth, bit for bit, but that a NaN may be any NaN."""

    def check(written: dict[str, Array]) -> str:
        actual = written[name].reshape(truth.shape)
        if actual.tobytes() == truth.tobytes():
            return ""
        right = actual.view(f"u{actual.itemsize}") == truth.view(f"u{truth.itemsize}")
        if truth.dtype.kind == "f":
            right |= np.isnan(actual) & np.isnan(truth)
        if right.all():
            return ""
        at = tuple(int(i[0]) for i in np.nonzero(~right))
        return f"{name}{list(at)} is {actual[at]!r}, not {truth[at]!r}"

    return check


def all_of(*checks: Check) -> Check:
    return lambda written: next(filter(None, (check(written) for check in checks)), "")


def tolerance(size: Array, units: float, floor: float = 1e-40) -> Array:
    """So many units of rounding of terms of that total size; infinite where these may overflow."""
    bound: Array = np.where(size < LARGEST, size * (units * UNIT) + floor, np.inf)
    return bound


def blank(*shape: int, dtype: Any = np.float32) -> Array:
    return np.empty(shape, dtype)


def f64(x: Array) -> Array:
    return x.astype(np.float64)


# ---- numbers -------------------------------------------------------------------------------------

KINDS = ("normal", "mixed", "small", "large", "steps", "zeros", "subnormal", "holes", "any")


def numbers(rng: np.random.Generator, *shape: int, kind: str = "") -> Array:
    """f32 numbers of one kind; of a random one if none is named."""
    kind = kind or str(rng.choice(KINDS))
    normal = rng.standard_normal(shape, np.float32)
    if kind == "mixed":  # rows of very different sizes
        return normal * np.exp2(rng.integers(-20, 20, (*shape[:-1], 1))).astype(np.float32)
    if kind in ("small", "large"):
        power = -rng.integers(60, 110) if kind == "small" else rng.integers(40, 110)
        return normal * np.float32(2.0**power)
    if kind == "steps":  # ties, and sums that come out exactly
        return rng.integers(-9, 10, shape).astype(np.float32) / 2
    if kind == "zeros":
        return np.where(rng.random(shape) < 0.9, normal * 0, normal)
    if kind in ("subnormal", "any"):
        bits = rng.integers(0, 1 << 32, shape, np.uint32)
        return (bits & 0x807FFFFF if kind == "subnormal" else bits).view(np.float32)
    if kind == "holes":  # a few that are not finite
        bad = rng.choice(np.float32([np.nan, np.inf, -np.inf]), shape)
        return np.where(rng.random(shape) < 1.5 / normal.size, bad, normal)
    return normal


def halves(rng: np.random.Generator, *shape: int, kind: str = "") -> Array:
    """f16 numbers, of random bits where they may be any."""
    if kind == "any":
        return rng.integers(0, 1 << 16, shape, np.uint16).view(np.float16)
    return rng.standard_normal(shape, np.float32).astype(np.float16)


# ---- packed weights ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """Packed rows, what they stand for in float64, and the size of the terms of each weight."""

    type: WeightType
    packed: Array
    values: Array
    sizes: Array


def weights(rng: np.random.Generator, type: WeightType, n_rows: int, n_columns: int) -> Weights:
    """Random packed rows: usual scales, the largest, random bits throughout, or all zeros or ones.

    A weight is scale * lane + offset, which may cancel out; its size is that of both.
    """
    kind = rng.choice(["usual", "usual", "large", "any", "same"])
    if kind in ("usual", "large"):
        packed = random_weights(type, n_rows, n_columns, rng)
        blocks = packed.reshape(-1, type.bytes).view(type.dtype)[:, 0]
        for name, (dtype, _) in type.fields.items() if kind == "large" else ():
            if dtype == "<f2":
                blocks[name] = rng.choice(np.float16([65504, -65504, 6e-8, -6e-8, 0]), len(blocks))
    else:
        shape = n_rows, type.row_bytes(n_columns)
        packed = rng.integers(0, 256, shape, np.uint8)
        if kind == "same":
            packed[:] = rng.choice([0, 0xFF, 0x80, 0x7F])
    values = type.dequantize(packed).astype(np.float64)
    if not isinstance(type, QuantType):
        return Weights(type, packed, values, np.abs(values))
    ends = []
    for byte in (0x80, 0x7F) if type.name == "Q8_0" else (0, 0xFF):
        blocks = packed.reshape(-1, type.bytes).view(type.dtype)[:, 0].copy()
        for name in type.fields:
            if name in ("qs", "qh", "ql", "hmask"):
                blocks[name] = byte
        ends.append(type.decode(blocks).reshape(values.shape).astype(np.float64))
    sizes = np.abs(ends[0]) + np.abs(ends[1]) + np.abs(ends[0] - ends[1])
    if type.name == "MXFP4":  # 2^127 times a level is infinite, but a product need not be
        values[~np.isfinite(values)] = 0
    return Weights(type, packed, values, sizes)
