"""Random calls of attention, and of what stores keys and values for it."""

from __future__ import annotations

from typing import Any

import numpy as np

from linnet.kernels.isa.generic import Generic
from linnet.kernels.ops.attention import NO_WINDOW, Attend
from linnet.kernels.ops.cache_types import CACHE_TYPES, LANES
from linnet.kernels.ops.kv_cache import StoreKeys, StoreValues
from support.guarded_memory import Array
from support.random_cases import LARGEST, UNIT, Case, blank, close, exact, f64, halves, numbers

Random = np.random.Generator

F16, F32 = CACHE_TYPES["f16"], CACHE_TYPES["f32"]
HEADS = ((F16, 64, 4, False), (F32, 80, 1, True), (F16, 8, 7, True), (F32, 16, 16, False))


def caching(rng: Random) -> Case:
    type = (F16, F32)[int(rng.integers(2))]
    n, n_slots, n_heads = (int(rng.integers(1, end)) for end in (5, 4, 4))
    head_dim, n_ctx = int(rng.integers(1, 70)), int(rng.integers(1, 40))
    shape, keys = (n_slots, n_heads, n_ctx, head_dim), bool(rng.integers(2))
    n = min(n, n_ctx * n_slots)
    places = rng.permutation(n_ctx * n_slots)[:n].astype(np.int32)
    x = numbers(rng, n, n_heads * head_dim)
    if rng.random() < 0.5:
        x *= np.float32(3e4)  # about where halves end
    before = np.full((type.keys_shape if keys else type.values_shape)(*shape), -5, type.dtype)
    arguments = {
        "x": x, "slots": places // n_ctx, "positions": places % n_ctx, "cache": before,
        "n_heads": n_heads, "capacity": n_ctx, "head_dim": head_dim,
    }  # fmt: skip
    truth, op = before.copy(), StoreKeys(type) if keys else StoreValues(type)
    op.reference(**arguments | {"cache": truth})
    return Case(op, n, arguments, exact(truth, "cache"), frozenset())


def attention(rng: Random) -> Case:
    """Positions that a token does not see are NaN; scores may be of any size."""
    type, head_dim, group, capped = HEADS[int(rng.integers(len(HEADS)))]
    n, n_heads, n_slots = int(rng.integers(1, 7)), int(rng.integers(1, 3)), int(rng.integers(1, 3))
    n_ctx = int(rng.choice([rng.integers(8, 20), rng.integers(8, 150)]))
    window = int(rng.choice([NO_WINDOW, rng.integers(1, n_ctx + 1)]))
    if rng.random() < 0.5:  # tokens that follow each other, as blocks take them
        n = min(n + 4, n_ctx)
        first = int(rng.integers(0, n_ctx - n + 1))
        positions, slots = np.arange(first, first + n), np.full(n, rng.integers(n_slots))
    else:
        positions, slots = rng.integers(0, n_ctx, n), rng.integers(0, n_slots, n)
    positions, slots = positions.astype(np.int32), slots.astype(np.int32)
    shape = n_slots, n_heads, n_ctx, head_dim
    kind = "any" if rng.random() < 0.1 else ""
    keys, values = (
        halves(rng, *shape, kind=kind)
        if type == F16
        else numbers(rng, *shape, kind=kind or "normal")
        for _ in range(2)
    )
    seen = np.zeros((n_slots, n_ctx), bool)
    for slot, position in zip(slots, positions, strict=True):
        seen[slot, max(0, position + 1 - window) : position + 1] = True
    for cache in (keys, values):
        np.moveaxis(cache, 2, 1)[~seen] = np.nan
    laid = np.full(type.keys_shape(*shape), np.nan, keys.dtype)
    laid_of = laid.swapaxes(3, 4).reshape(n_slots, n_heads, -1, head_dim)
    laid_of[:, :, :n_ctx] = keys
    laid = np.ascontiguousarray(
        laid_of.reshape(n_slots, n_heads, -1, LANES, head_dim).swapaxes(3, 4)
    )
    q = numbers(rng, n, n_heads * group * head_dim, kind=str(
        rng.choice(["normal", "normal", "mixed", "steps", "zeros", "holes"])
    ))  # fmt: skip
    sinks = np.full(n_heads * group, -np.inf, np.float32)
    if rng.random() < 0.5:
        sinks[:] = rng.standard_normal(sinks.size) * 5
    arguments = {
        "q": q, "keys": laid, "values": values, "slots": slots, "positions": positions,
        "n_kv_heads": n_heads, "capacity": n_ctx, "scale": float(np.float32(head_dim**-0.5)),
        "softcap": 20.0, "sinks": sinks, "window": window,
    }  # fmt: skip
    op = Attend(type, type, head_dim, group, capped)
    truth = blank(*q.shape, dtype=np.float64)
    op.reference(**arguments, out=truth)
    within = _attention_tolerance(arguments, keys, truth, capped)
    run = op if rng.random() < 0.5 else op.lowered(None, Generic())
    return Case(run, n, {**arguments, "out": blank(*q.shape)}, close(truth, within))


def _attention_tolerance(a: dict[str, Any], keys: Array, truth: Array, capped: bool) -> Array:
    """A score is off by roundings of its terms, a weight by a factor of e to that."""
    n, (_, n_heads, n_ctx, head_dim) = len(truth), keys.shape
    q = np.abs(f64(a["q"])).reshape(n, n_heads, -1, head_dim) * a["scale"]
    within = np.empty(q.shape)
    for token, (slot, position) in enumerate(zip(a["slots"], a["positions"], strict=True)):
        seen = slice(max(0, position + 1 - a["window"]), position + 1)
        k, v = (np.abs(f64(x[slot][:, seen])) for x in (keys, a["values"]))
        largest = (q[token] @ k.swapaxes(1, 2)).max(-1)[..., None]
        off = largest * (UNIT * (head_dim + 8)) + (30 * 20 * UNIT if capped else 0)
        relative = np.where(off < 1, np.expm1(2 * np.minimum(off, 1)), 2.1)
        relative = relative + UNIT * (n_ctx + 64)
        bound = v.max(1)[:, None] * relative + 1e-40
        within[token] = np.where((largest < LARGEST) & (v.max(1)[:, None] < 1e35), bound, np.inf)
    return within.reshape(truth.shape)


OF_ATTENTION = {"caching": caching, "attention": attention}
