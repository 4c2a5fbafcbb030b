"""Attention, and the cache of keys and values, on every instruction set; held against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.guarded_memory import Array
from support.kernel_harness import nmse, run, unwritten

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.attention import NO_WINDOW, Attend
from linnet.kernels.ops.cache_types import CACHE_TYPES, LANES, CacheType
from linnet.kernels.ops.kv_cache import StoreKeys, StoreValues

F16, F32 = CACHE_TYPES["f16"], CACHE_TYPES["f32"]


@pytest.mark.parametrize("type", [F16, F32], ids=str)
@pytest.mark.parametrize("head_dim", [8, 13, 64])
@pytest.mark.parametrize("turns", [(0, 0, 0, 0), (2, 1, 2, 5)])
def test_keys_and_values_are_stored_at_their_slots_and_positions(
    library: Library, type: CacheType, head_dim: int, turns: tuple[int, ...]
) -> None:
    """`turns`: how often the positions have come around."""
    x = np.random.default_rng(head_dim).standard_normal((4, 2 * head_dim)).astype(np.float32)
    x[0, :6] = 65519, 65520, -7e4, 6e-8, 2.9e-8, 3e-5  # the ends of halves, and subnormals
    x[3, -1] = np.inf
    dtype = type.dtype
    slots, positions = np.int32([2, 0, 2, 0]), np.int32([18, 0, 17, 18])
    shape = 3, 2, 19, head_dim
    arguments = {"x": x, "slots": slots, "positions": positions}
    arguments |= {"n_heads": 2, "capacity": 19, "head_dim": head_dim}
    expected = np.full(shape, -5, dtype)
    with np.errstate(over="ignore"):
        for i in range(4):
            expected[slots[i], :, positions[i]] = x[i].reshape(2, head_dim).astype(dtype)
    arguments["positions"] = positions + 19 * np.int32(turns)
    for op, laid in ((StoreValues(type), expected), (StoreKeys(type), by_lanes(expected, -5))):
        cache = np.full(laid.shape, -5, dtype)
        run(library, op, 4, cache=cache, **arguments)
        assert cache.tobytes() == laid.tobytes()
        cache = np.full(laid.shape, -5, dtype)
        with np.errstate(over="ignore"):
            op.reference(cache=cache, **arguments)
        assert cache.tobytes() == laid.tobytes()


def by_lanes(keys: Array, unwritten: float) -> Array:
    """Keys (n_slots, n_heads, capacity, head_dim) as a cache holds them."""
    n_slots, n_heads, capacity, head_dim = keys.shape
    shape = n_slots, n_heads, -(-capacity // LANES), head_dim, LANES
    laid = np.full(shape, unwritten, keys.dtype)
    for position in range(capacity):
        laid[:, :, position // LANES, :, position % LANES] = keys[:, :, position]
    return laid


def in_a_ring(arguments: dict[str, Any], capacity: int) -> dict[str, Any]:
    """The same, with caches that hold the last positions alone, up to each slot's last token."""
    n_slots, n_heads, _, head_dim = arguments["values"].shape
    keys = arguments["keys"].swapaxes(3, 4).reshape(n_slots, n_heads, -1, head_dim)
    shape = 2, n_slots, n_heads, capacity, head_dim
    rings = np.full(shape, np.nan, arguments["values"].dtype)
    for slot in set(arguments["slots"].tolist()):
        last = int(arguments["positions"][arguments["slots"] == slot].max())
        for position in range(max(0, last + 1 - capacity), last + 1):
            place = slot, slice(None), position % capacity
            rings[0][place] = keys[slot, :, position]
            rings[1][place] = arguments["values"][slot, :, position]
    caches = {"keys": by_lanes(rings[0], np.nan), "values": rings[1], "capacity": capacity}
    return arguments | caches


HEADS = [(F16, 64, 4), (F32, 80, 1), (F16, 8, 7)]
MORE_HEADS = [(F16, 32, 1), (F32, 32, 4), (F16, 128, 1), (F32, 128, 7), (F16, 80, 4), (F32, 8, 1)]


def attention(
    type: CacheType, head_dim: int, group: int, *, q_size: float = 1.0, window: int = NO_WINDOW
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Arguments of `Attend` but `out`, whose shape comes second.

    Whatever a token may not see is NaN: other positions, and slots of others.
    """
    rng = np.random.default_rng(head_dim)
    positions = np.int32([0, 139, 63, 64, 1, 31])
    slots = np.int32([4, 2, 0, 3, 1, 5])
    n_kv_heads, n_ctx = 2, 140
    shape = (7, n_kv_heads, n_ctx, head_dim)
    keys, values = rng.standard_normal((2, *shape)).astype(type.dtype)
    for slot in range(7):
        (end,) = positions[slots == slot] + 1 if slot in slots else [0]
        for unseen in (slice(end, None), slice(max(0, end - window))):
            keys[slot, :, unseen], values[slot, :, unseen] = np.nan, np.nan
    width = n_kv_heads * group * head_dim
    arguments = {
        "q": rng.standard_normal((6, width)).astype(np.float32) * np.float32(q_size),
        "keys": by_lanes(keys, np.nan),
        "values": values,
        "slots": slots,
        "positions": positions,
        "n_kv_heads": n_kv_heads,
        "capacity": n_ctx,
        "scale": head_dim**-0.5,
        "softcap": 0.0,
        "sinks": np.full((n_kv_heads, group), -np.inf, np.float32),
        "window": window,
    }
    return arguments, (6, width)


def check_attention(
    library: Library, type: CacheType, head_dim: int, group: int, q_size: float,
    window: int = NO_WINDOW, **options: Any,
) -> None:  # fmt: skip
    op = Attend(type, type, head_dim, group, capped="softcap" in options)
    arguments, shape = attention(type, head_dim, group, q_size=q_size, window=window)
    arguments |= options
    out, expected = unwritten(*shape), np.zeros(shape)
    run(library, op, 6, **arguments, out=out)
    op.reference(**arguments, out=expected)
    assert nmse(out, expected) <= 1e-12 * max(1, q_size**2)


@pytest.mark.parametrize(("type", "head_dim", "group"), HEADS)
@pytest.mark.parametrize("q_size", [1.0, 100.0])
def test_attention(
    library: Library, type: CacheType, head_dim: int, group: int, q_size: float
) -> None:
    """Large queries make weights that differ by more than a float can hold."""
    check_attention(library, type, head_dim, group, q_size)


@pytest.mark.parametrize(("type", "head_dim", "group"), MORE_HEADS)
def test_attention_with_other_heads(
    best_library: Library, type: CacheType, head_dim: int, group: int
) -> None:
    check_attention(best_library, type, head_dim, group, 1.0)


@pytest.mark.parametrize("window", [1, 5, 16, 17, 64, 76, 77, 100, 140])
def test_attention_within_a_window(library: Library, window: int) -> None:
    """What is out of sight is NaN."""
    check_attention(library, *HEADS[1], 1.0, window=window)


@pytest.mark.parametrize(("type", "head_dim", "group"), HEADS)
@pytest.mark.parametrize(("window", "capacity"), [(1, 64), (17, 64), (64, 64), (100, 128)])
def test_attention_in_a_ring_is_that_in_a_whole_context(
    library: Library, type: CacheType, head_dim: int, group: int, window: int, capacity: int
) -> None:
    """Bit for bit, up to windows that fill the ring."""
    arguments, shape = attention(type, head_dim, group, window=window)
    ring = in_a_ring(arguments, capacity)
    op = Attend(type, type, head_dim, group)
    out, expected, truth = unwritten(*shape), unwritten(*shape), np.zeros(shape)
    run(library, op, 6, **ring, out=out)
    run(library, op, 6, **arguments, out=expected)
    op.reference(**ring, out=truth)
    assert out.tobytes() == expected.tobytes()
    assert nmse(out, truth) <= 1e-12


@pytest.mark.parametrize("softcap", [0.5, 50.0])
def test_attention_with_capped_scores(library: Library, softcap: float) -> None:
    check_attention(library, *HEADS[0], 10.0, softcap=softcap)


def test_attention_with_sinks(library: Library) -> None:
    """From one that hardly counts to one that takes nearly all the weight; one head has none."""
    type, head_dim, group = HEADS[0]
    sinks = np.float32([[-90, -np.inf, 0, 3], [1, 20, -3, 40]])
    check_attention(library, type, head_dim, group, 1.0, sinks=sinks)


def test_attention_with_everything(library: Library) -> None:
    sinks = np.linspace(-1, 1, 14, dtype=np.float32).reshape(2, 7)
    check_attention(library, *HEADS[2], 3.0, sinks=sinks, window=19, softcap=2.0)


def test_attention_is_the_mean_of_the_values_it_weighs(library: Library) -> None:
    """Written out: one head, equal keys but for one position of another weight."""
    op = Attend(F32, F32, 8, 7)
    keys, values = np.zeros((2, 1, 1, 80, 8), np.float32)
    values[0, 0] = np.arange(80)[:, None]
    keys[0, 0, 63, 0] = np.log(5)
    keys = by_lanes(keys, np.nan)
    q = np.zeros((1, 7 * 8), np.float32)
    q[0, ::8] = 1
    out = unwritten(1, 7 * 8)
    place = {"slots": np.int32([0]), "positions": np.int32([76])}
    sizes = {"n_kv_heads": 1, "capacity": 80, "scale": 1.0, "softcap": 0.0, "window": NO_WINDOW}
    sinks = np.full(7, -np.inf, np.float32)
    run(library, op, 1, q=q, keys=keys, values=values, out=out, sinks=sinks, **place, **sizes)
    expected = (sum(range(77)) + 4 * 63) / 81
    assert np.allclose(out, expected, rtol=1e-6)


def test_a_tokens_attention_is_the_same_in_any_company(library: Library) -> None:
    type, head_dim, group = HEADS[0]
    op = Attend(type, type, head_dim, group)
    arguments, shape = attention(type, head_dim, group)
    together = unwritten(*shape)
    run(library, op, 6, **arguments, out=together)
    for token in range(6):
        alone, part = unwritten(1, shape[1]), slice(token, token + 1)
        own = {name: arguments[name][part].copy() for name in ("q", "slots", "positions")}
        run(library, op, 1, **(arguments | own), out=alone)
        assert alone.tobytes() == together[part].tobytes()


def prompt_attention(
    type: CacheType, head_dim: int, group: int, n_tokens: int, start: int, window: int = NO_WINDOW
) -> dict[str, Any]:
    """Arguments of `Attend` but `out`: tokens that follow each other from `start` on."""
    rng, n_ctx = np.random.default_rng(start), start + n_tokens
    keys, values = rng.standard_normal((2, 2, 2, n_ctx, head_dim)).astype(type.dtype)
    keys[0], values[0] = np.nan, np.nan  # a slot of others
    return {
        "q": rng.standard_normal((n_tokens, 2 * group * head_dim)).astype(np.float32),
        "keys": by_lanes(keys, np.nan),
        "values": values,
        "slots": np.full(n_tokens, 1, np.int32),
        "positions": np.arange(start, start + n_tokens, dtype=np.int32),
        "n_kv_heads": 2,
        "capacity": n_ctx,
        "scale": head_dim**-0.5,
        "softcap": 3.0,
        "sinks": np.linspace(-1, 1, 2 * group, dtype=np.float32),
        "window": window,
    }


@pytest.mark.parametrize("window", [1, 20, 70, NO_WINDOW])
@pytest.mark.parametrize(("type", "head_dim", "group"), [*HEADS, (F16, 16, 16), (F16, 16, 20)])
def test_attention_in_blocks_is_that_of_every_token_alone(
    library: Library, type: CacheType, head_dim: int, group: int, window: int
) -> None:
    """Bit for bit: whole blocks, and what is left; from the start, and within a sequence."""
    alone = Attend(type, type, head_dim, group, capped=True)
    blocks = alone.lowered(None, library.isa)
    for n_tokens, start in ((37, 0), (16, 100), (1, 64)):
        arguments = prompt_attention(type, head_dim, group, n_tokens, start, window)
        shape = arguments["q"].shape
        out, expected, truth = unwritten(*shape), unwritten(*shape), np.zeros(shape)
        run(library, blocks, n_tokens, **arguments, out=out)
        run(library, alone, n_tokens, **arguments, out=expected)
        alone.reference(**arguments, out=truth)
        assert out.tobytes() == expected.tobytes()
        assert nmse(out, truth) <= 1e-12


@pytest.mark.parametrize(("type", "head_dim", "group"), HEADS)
@pytest.mark.parametrize("start", [0, 40, 300, 320])
def test_attention_in_blocks_in_a_ring(
    library: Library, type: CacheType, head_dim: int, group: int, start: int
) -> None:
    """As large as what 37 tokens write and see: bit for bit that of each alone in a whole one."""
    alone = Attend(type, type, head_dim, group, capped=True)
    arguments = prompt_attention(type, head_dim, group, 37, start, window=28)
    ring = in_a_ring(arguments, 64)
    out, expected = (unwritten(*arguments["q"].shape) for _ in range(2))
    run(library, alone.lowered(None, library.isa), 37, **ring, out=out)
    run(library, alone, 37, **arguments, out=expected)
    assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["slots", "positions"])
@pytest.mark.parametrize("token", [1, 2, 3])
def test_tokens_that_do_not_follow_each_other_make_no_block(
    best_library: Library, name: str, token: int
) -> None:
    arguments = prompt_attention(F16, 8, 4, 4, 70)
    arguments["keys"][0], arguments["values"][0] = 0, 1
    arguments[name][token] -= 1
    out, truth = unwritten(*arguments["q"].shape), np.zeros(arguments["q"].shape)
    op = Attend(F16, F16, 8, 4, capped=True).lowered(None, best_library.isa)
    run(best_library, op, 4, **arguments, out=out)
    op.reference(**arguments, out=truth)
    assert isinstance(op, Attend)
    assert op.n_together == 4
    assert nmse(out, truth) <= 1e-12


def test_a_nan_among_what_is_seen_comes_out(library: Library) -> None:
    type, head_dim, group = HEADS[0]
    for name in ("q", "keys", "values"):
        arguments, shape = attention(type, head_dim, group)
        place = {"q": (1, 5), "keys": (2, 0, 1, 5, 4), "values": (2, 0, 20, 5)}[name]
        arguments[name][place] = np.nan
        out = np.zeros(shape, np.float32)
        run(library, Attend(type, type, head_dim, group), 6, **arguments, out=out)
        assert np.isnan(out[1, : group * head_dim]).any()
        assert np.isfinite(np.delete(out, 1, axis=0)).all()
        assert np.isfinite(out[1, group * head_dim :]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_reaches_no_token_of_a_block_that_does_not_see_it(
    library: Library, bad: float
) -> None:
    """A value, which a weight of 0 would not keep out, of a position in the middle of a block."""
    alone = Attend(F16, F16, 64, 4)
    arguments = prompt_attention(F16, 64, 4, 12, 70, window=6)
    arguments["values"][1, 0, 75, 3] = bad
    out, expected = (unwritten(*arguments["q"].shape) for _ in range(2))
    run(library, alone, 12, **arguments, out=expected)
    run(library, alone.lowered(None, library.isa), 12, **arguments, out=out)
    assert out.tobytes() == expected.tobytes()
    sees = [70 + token >= 75 > 70 + token - 6 for token in range(12)]
    assert (~np.isfinite(out).all(axis=1)).tolist() == sees
