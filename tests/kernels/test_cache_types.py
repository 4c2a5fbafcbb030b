"""How keys and values are stored: every type of cache, held against what it is to keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.guarded_memory import Array
from support.kernel_harness import nmse, run, unwritten

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.attention import NO_WINDOW, Attend
from linnet.kernels.ops.cache_types import CACHE_TYPES, CacheType
from linnet.kernels.ops.kv_cache import StoreKeys, StoreValues
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.models.parts.cache import Cache, Ring

TYPES = list(CACHE_TYPES.values())
F32, Q8_0 = CACHE_TYPES["f32"], CACHE_TYPES["q8_0"]
N_HEADS, CAPACITY = 2, 150
ERRORS = {"f16": 1e-7, "f32": 1e-13, "q8_0": 1e-4}  # of attention, to that with what was stored
SCORES = {"f16": 1e-12, "f32": 1e-12, "q8_0": 1e-9}  # to that with what is kept


def stored(
    library: Library, type: CacheType, x: Array, *, keys: bool, head_dim: int
) -> tuple[Array, Array]:
    """A cache that natively holds x at the first places of slot 1, and one by numpy."""
    n = len(x)
    shape = (type.keys_shape if keys else type.values_shape)(2, N_HEADS, CAPACITY, head_dim)
    cache, expected = np.zeros((2, *shape), type.dtype)
    place = {"slots": np.full(n, 1, np.int32), "positions": np.arange(n, dtype=np.int32)}
    sizes = {"n_heads": N_HEADS, "capacity": CAPACITY, "head_dim": head_dim}
    op = StoreKeys(type) if keys else StoreValues(type)
    run(library, op, n, x=x, cache=cache, **sizes, **place)
    op.reference(x=x, cache=expected, **sizes, **place)
    return cache, expected


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("type", TYPES, ids=str)
@pytest.mark.parametrize("keys", [True, False], ids=["keys", "values"])
def test_numbers_of_all_sizes_are_stored_as_numpy_stores_them(
    library: Library, type: CacheType, keys: bool
) -> None:
    """Bit for bit, and what is kept is near what came."""
    x = normal(1, 20, N_HEADS * 64) * np.exp2(np.arange(-10, 10, dtype=np.float32))[:, None] ** 2
    x[3, :32], x[4, 5], x[5, 40] = 0, 127, -0.5
    x[6, :32], x[7, :32] = np.linspace(-1, 1, 32), np.linspace(0, 3e-6, 32)
    with np.errstate(over="ignore"):
        cache, expected = stored(library, type, x, keys=keys, head_dim=64)
    assert cache.tobytes() == expected.tobytes()
    assert not cache[0].any()
    read = type.read_keys if keys else type.read_values
    kept = read(cache, 1, np.arange(20)).swapaxes(0, 1).reshape(x.shape)
    assert nmse(kept[:17], x[:17].astype(np.float64)) <= 1e-4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e7])
@pytest.mark.parametrize("keys", [True, False], ids=["keys", "values"])
def test_a_block_with_what_no_half_can_scale_is_nan(
    library: Library, keys: bool, bad: float
) -> None:
    x = normal(2, 3, N_HEADS * 64)
    x[1, 70] = bad
    cache, expected = stored(library, Q8_0, x, keys=keys, head_dim=64)
    assert cache.tobytes() == expected.tobytes()
    kept = (Q8_0.read_keys if keys else Q8_0.read_values)(cache, 1, np.arange(3))
    assert np.isnan(kept[1, 1, :32]).all()
    kept[1, 1, :32] = 0
    assert np.isfinite(kept).all()


def test_blocks_of_values_are_those_of_ggml(best_library: Library) -> None:
    x = normal(3, 5, N_HEADS * 64)
    cache, _ = stored(best_library, Q8_0, x, keys=False, head_dim=64)
    kept = WEIGHT_TYPES["Q8_0"].dequantize(cache[1, :, :5].reshape(N_HEADS, 5, -1))
    assert kept.tobytes() == Q8_0.read_values(cache, 1, np.arange(5)).tobytes()


@pytest.mark.parametrize(
    ("key_type", "value_type"),
    [*((type, type) for type in TYPES), (CACHE_TYPES["f16"], Q8_0), (Q8_0, F32)],
    ids=str,
)
@pytest.mark.parametrize(("head_dim", "group"), [(32, 4), (96, 1), (64, 5)])
def test_attention_of_what_is_kept(
    library: Library, key_type: CacheType, value_type: CacheType, head_dim: int, group: int
) -> None:
    """By one token and by blocks of tokens the same bits; near numpy's, and near those of the
    numbers that came."""
    n = 140
    x = normal(head_dim, 2, n, N_HEADS * head_dim)
    keys, _ = stored(library, key_type, x[0], keys=True, head_dim=head_dim)
    values, _ = stored(library, value_type, x[1], keys=False, head_dim=head_dim)
    q = normal(4, n, N_HEADS * group * head_dim)
    arguments: dict[str, Any] = {
        "q": q, "n_kv_heads": N_HEADS, "capacity": CAPACITY, "scale": head_dim**-0.5,
        "softcap": 0.0, "window": NO_WINDOW, "slots": np.full(n, 1, np.int32),
        "positions": np.arange(n, dtype=np.int32),
        "sinks": np.full(N_HEADS * group, -np.inf, np.float32),
    }  # fmt: skip
    attend = Attend(key_type, value_type, head_dim, group)
    out, blocks, truth = unwritten(*q.shape), unwritten(*q.shape), np.zeros(q.shape)
    run(library, attend, n, **arguments, keys=keys, values=values, out=out)
    many = attend.lowered(None, library.isa)
    run(library, many, n, **arguments, keys=keys, values=values, out=blocks)
    attend.reference(**arguments, keys=keys, values=values, out=truth)
    assert out.tobytes() == blocks.tobytes()
    assert nmse(out, truth) <= SCORES[key_type.name]
    keys, _ = stored(library, F32, x[0], keys=True, head_dim=head_dim)
    values, _ = stored(library, F32, x[1], keys=False, head_dim=head_dim)
    Attend(F32, F32, head_dim, group).reference(**arguments, keys=keys, values=values, out=truth)
    assert nmse(out, truth) <= max(ERRORS[key_type.name], ERRORS[value_type.name])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_shows(library: Library, bad: float) -> None:
    x, q = normal(5, 2, 3, N_HEADS * 32), normal(6, 3, N_HEADS * 32)
    q[1, 40] = bad
    keys, _ = stored(library, Q8_0, x[0], keys=True, head_dim=32)
    values, _ = stored(library, Q8_0, x[1], keys=False, head_dim=32)
    out = unwritten(*q.shape)
    run(
        library, Attend(Q8_0, Q8_0, 32, 1), 3, q=q, keys=keys, values=values, out=out,
        slots=np.int32([1, 1, 1]), positions=np.int32([0, 1, 2]), n_kv_heads=N_HEADS,
        capacity=CAPACITY, scale=1.0, softcap=0.0, window=NO_WINDOW,
        sinks=np.full(N_HEADS, -np.inf, np.float32),
    )  # fmt: skip
    assert np.isnan(out[1, 32:]).all()
    out[1, 32:] = 0
    assert np.isfinite(out).all()


def test_heads_of_no_whole_blocks_are_refused() -> None:
    ring = Ring(64, NO_WINDOW)
    message = "a cache of values in q8_0 takes heads of a multiple of 32 numbers; .* have 80"
    with pytest.raises(ValueError, match=message):
        Cache.of(F32, Q8_0, ring, n_heads=1, head_dim=80)
