"""Random calls of kernels that read packed weights, and of those that pack activations for them."""

from __future__ import annotations

import numpy as np

from linnet.kernels.isa.generic import Generic
from linnet.kernels.ops.base import Op
from linnet.kernels.ops.rows import PickRows
from linnet.kernels.products.activations import (
    LEAST,
    ONE,
    STEPS,
    Quantize,
    packed_bytes,
    spans,
)  # fmt: skip
from linnet.kernels.products.experts import ExpertLinear, FloatExpertLinear
from linnet.kernels.products.matmul import FloatMatMul, MatMul
from linnet.kernels.products.matvec import FloatMatVec, MatVec
from linnet.kernels.products.tilemul import RoundToBF16
from linnet.kernels.quants import WEIGHT_TYPES, QuantType, WeightType
from support.guarded_memory import Array
from support.random_cases import (
    UNIT,
    Case,
    Check,
    Weights,
    close,
    exact,
    numbers,
    tolerance,
    weights,
)

HUGE = 8e34  # activations above this overflow on their way to a scale
OFF = 0.04  # of a squared step: how far from the truth `Quantize` may find a group's error


def columns(rng: np.random.Generator, type: WeightType) -> int:
    """A width of whole blocks: whole chunks of 256, and something left behind them."""
    return int(rng.integers(1, 300 if type.block == 1 else 512 // type.block + 1)) * type.block


def quantized(x: Array) -> Array:
    out = np.zeros((len(x), packed_bytes(x.shape[1])), np.uint8)
    Quantize().reference(x=x, out=out, width=x.shape[1])
    return out


def multiply(x: Array, w: Weights, *, packed: bool) -> tuple[Array, Array]:
    """x @ weights.T, and how far from it a product may be."""
    units = x.shape[1] / (16 if packed else 1) + 16
    truth, size = x @ w.values.T, np.abs(x) @ w.sizes.T
    within = tolerance(size, units, 1e-36 if packed else 1e-40)
    if packed:  # the sum of 16 activations is in f32, too
        within[(np.abs(x) > 1e36).any(axis=1)] = np.inf
    return truth, within


def squared_error(groups: Array, steps: int) -> Array:
    """What rounding to so many steps costs groups (..., 32) of finite numbers, in float64.

    In squares of a 127th of the largest number, or of LEAST where all are smaller.
    """
    x = groups.astype(np.float64)
    scaled = x / np.abs(x).max(axis=-1, initial=LEAST, keepdims=True) * steps
    error: Array = ((scaled - np.rint(scaled)) ** 2).sum(axis=-1) * (STEPS[0] / steps) ** 2
    return error


def product(rng: np.random.Generator, type: WeightType) -> Case:
    n_columns, n_out = columns(rng, type), int(rng.integers(1, 70))
    w = weights(rng, type, n_out, n_columns)
    in_f32 = not isinstance(type, QuantType) or rng.random() < 0.4
    op: Op
    if rng.random() < 0.6:
        several = 2 + list(WEIGHT_TYPES).index(type.name) % 7
        n_tokens = int(rng.choice([1, several]))
        op = (FloatMatVec if in_f32 else MatVec)(type, n_tokens)  # type: ignore[arg-type]
    else:
        n_tokens = int(rng.integers(1, 14))
        op = (FloatMatMul if in_f32 else MatMul)(type)  # type: ignore[arg-type]
    x = numbers(rng, n_tokens, n_columns) if in_f32 else quantized(
        numbers(rng, n_tokens, n_columns)
    )  # fmt: skip
    values = x.astype(np.float64) if in_f32 else Quantize().values(x, n_columns)
    out = np.empty((n_tokens, n_out), np.float32)
    arguments = {"weights": w.packed, "x": x, "out": out, "n_columns": n_columns, "n_out": n_out}
    return Case(op, n_tokens, arguments, close(*multiply(values, w, packed=not in_f32)))


def rows(rng: np.random.Generator, type: WeightType) -> Case:
    n_rows, width = int(rng.integers(1, 9)), columns(rng, type)
    w, n = weights(rng, type, n_rows, width), int(rng.integers(1, 7))
    picked = rng.integers(0, n_rows, n).astype(np.int32)
    out = np.empty((n, width), np.float32)
    arguments = {"table": w.packed, "rows": picked, "out": out, "width": width}
    return Case(PickRows(type), n, arguments, exact(type.dequantize(w.packed[picked])))


def experts(rng: np.random.Generator, type: WeightType) -> Case:
    """One product at a time, or those of an expert together; widths are few, as code has them."""
    in_f32 = not isinstance(type, QuantType) or rng.random() < 0.5
    n_columns = int(rng.choice([1, 2])) * max(type.block, 64)
    n_columns += type.block if 1 < type.block < 256 else 0
    n_experts, n_out = int(rng.integers(1, 5)), int(rng.integers(1, 150))
    n_tokens, n_used = int(rng.integers(1, 13)), int(rng.integers(1, 4))
    n_sharing = int(rng.choice([1, n_used]))
    w = weights(rng, type, n_experts * n_out, n_columns)
    chosen = rng.integers(0, n_experts, (n_tokens, n_used)).astype(np.int32)
    n_x = n_tokens * n_used // n_sharing
    x = numbers(rng, n_x, n_columns) if in_f32 else quantized(numbers(rng, n_x, n_columns))
    values = x.astype(np.float64) if in_f32 else Quantize().values(x, n_columns)
    truth, within = multiply(values, w, packed=not in_f32)
    of = np.arange(n_tokens * n_used) // n_sharing, chosen.reshape(-1)
    check = close(*(all.reshape(n_x, n_experts, n_out)[of] for all in (truth, within)))
    single = (FloatExpertLinear if in_f32 else ExpertLinear)(type, n_columns)
    order = np.argsort(chosen.reshape(-1), kind="stable").astype(np.int32)
    starts = np.bincount(chosen.reshape(-1), minlength=n_experts).cumsum()
    arguments = {
        "weights": w.packed, "x": x, "n_columns": n_columns, "n_out": n_out, "experts": chosen,
        "out": np.empty((n_tokens, n_used * n_out), np.float32), "n_experts": n_experts,
        "order": order, "starts": np.int64([0, *starts]), "n_used": n_used,
        "n_sharing": n_sharing, "expert_bytes": n_out * w.packed.shape[1],
    }  # fmt: skip
    op = single if rng.random() < 0.5 else single.lowered(None, Generic())
    return Case(op, n_tokens, arguments, check)


# ---- activations ---------------------------------------------------------------------------------


def packing(rng: np.random.Generator) -> Case:
    width, n_rows = 32 * int(rng.integers(1, 19)), int(rng.integers(1, 4))
    x = numbers(rng, n_rows, width)
    arguments = {"x": x, "out": np.empty((n_rows, packed_bytes(width)), np.uint8), "width": width}
    groups = x.reshape(n_rows, -1, 32)
    good = np.isfinite(groups).all(axis=-1)
    return Case(
        Quantize(), n_rows, arguments, _quantized_from(groups, good),
        bits=lambda written: b"".join(a.tobytes() for a in _parts(written["out"], good)),
    )  # fmt: skip


def _parts(packed: Array, where: Array) -> list[Array]:
    """Of the groups where it is said: lanes (n, 32); (n, 2) each: scales and sums of groups, twice,
    sums and sums of lanes of halves."""
    n, parts = len(packed), list(spans(packed))
    lanes = [span["lanes"].swapaxes(2, 3).reshape(n, -1, 32) for span in parts]
    pairs = [
        [span[name].swapaxes(-1, -2).reshape(n, -1, 2) for span in parts]
        for name in ("scales", "group_sums")
    ]
    pairs += [[span[name].reshape(n, -1, 2) for span in parts] for name in ("sums", "lane_sums")]
    return [np.concatenate(each, axis=1)[where] for each in (lanes, *pairs)]


def _quantized_from(groups: Array, good: Array) -> Check:
    """The check of what `Quantize` makes of groups, of which the `good` ones are finite.

    Sums of lanes times numbers overflow where these are as large as `HUGE`. Any of STEPS will do
    whose error is the least, or further from it by what two errors may be off.
    """
    x = groups[good]
    largest = np.abs(x).max(axis=-1, initial=0)
    usual, candidates, errors = largest <= HUGE, [], []
    unit = np.float32(ONE) / np.maximum(largest, np.float32(LEAST))
    for steps in STEPS:
        scaled = x * (unit * np.float32(steps / ONE))[:, None]
        candidates.append(np.rint(scaled))
        errors.append(squared_error(x, steps))
    allowed = errors <= np.min(errors, axis=0) + 2 * OFF

    def check(written: dict[str, Array]) -> str:
        _, *floats, _ = _parts(written["out"], ~good)
        if any(np.isfinite(numbers).any() for numbers in floats):
            return "a group that is not finite has a scale that is"
        parts = (part[usual] for part in _parts(written["out"], good))
        lanes, scales, group_sums, sums, lane_sums = parts
        for twice in (scales.view("u4"), group_sums.view("u4")):
            if (twice[:, 0] != twice[:, 1]).any():
                return "the two scales or sums of a group differ"
        right = np.zeros(len(lanes), bool)
        for candidate, may_be in zip(candidates, allowed, strict=True):
            right |= (lanes == candidate[usual]).all(axis=-1) & may_be[usual]
        if not right.all():
            return "lanes are not the nearest integers, or not of the better steps"
        counted = lanes.reshape(-1, 2, 16).sum(axis=-1, dtype=np.int32)
        if (lane_sums != counted).any():
            return "sums of lanes are wrong"
        wide = lanes.astype(np.float64)
        truth = (x[usual] * wide).sum(axis=-1) / np.maximum((wide * wide).sum(axis=-1), 1)
        within = np.abs(truth) * (32 * UNIT) + 1e-44
        right = np.abs(scales[:, 0] - truth) <= within
        for total, count in ((sums, counted), (group_sums, counted.sum(axis=-1, keepdims=True))):
            truth = scales * count.astype(np.float64)
            right &= (np.abs(total - truth) <= np.abs(truth) * (2 * UNIT) + 1e-44).all(axis=-1)
        return "" if right.all() else "scales, or sums, are wrong"

    return check


def rounding(rng: np.random.Generator) -> Case:
    width, n_rows = 32 * int(rng.integers(1, 10)), int(rng.integers(1, 35))
    x = numbers(rng, n_rows, width)
    out = np.zeros((n_rows, packed_bytes(width)), np.uint8)
    RoundToBF16().reference(x=x, out=out, width=width)
    truth = RoundToBF16().values(out, width)

    def cut(written: dict[str, Array]) -> Array:
        return RoundToBF16().values(written["out"], width)

    return Case(
        RoundToBF16(), n_rows, {"x": x, "out": out, "width": width},
        lambda written: exact(truth)({"out": cut(written)}),
        bits=lambda written: cut(written).tobytes(),
    )  # fmt: skip


OF_TYPES = {"product": product, "rows": rows, "experts": experts}
OF_ACTIVATIONS = {"packing": packing, "rounding": rounding}
