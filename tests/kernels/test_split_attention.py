"""Attention of few tokens, split over positions and joined; held against that of whole tokens."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from support.guarded_memory import Array
from support.kernel_harness import nmse, run, unwritten

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.attention import NO_WINDOW, Attend
from linnet.kernels.ops.base import MOST_FEW_ROWS
from linnet.kernels.ops.cache_types import CACHE_TYPES, CacheType
from linnet.kernels.ops.split_attention import (
    MOST_SPLITS,
    PIECE,
    JoinSplits,
    SplitAttend,
    n_splits,
    part_floats,
)

N_HEADS, N_CTX = 2, PIECE * 11 + 64
POSITIONS = (0, PIECE - 1, PIECE, 5 * PIECE + 3, 9 * PIECE + 100, N_CTX - 1)
TYPES = list(CACHE_TYPES.values())


def arguments(
    type: CacheType, head_dim: int, group: int, *, window: int = NO_WINDOW
) -> dict[str, Any]:
    """Of `Attend` but `out`: tokens of two slots; what nobody sees is NaN."""
    rng, n = np.random.default_rng(head_dim), len(POSITIONS)
    shape = 2, N_HEADS, N_CTX, head_dim
    keys = np.full(type.keys_shape(*shape), 0x7F, type.dtype)
    values = np.full(type.values_shape(*shape), 0x7F, type.dtype)
    if type.block == 1:
        keys[...], values[...] = np.nan, np.nan
    slots = np.arange(n, dtype=np.int32) % 2
    for slot in range(2):
        last = max(p for p, of in zip(POSITIONS, slots, strict=True) if of == slot)
        places = np.arange(last + 1)
        x = rng.standard_normal((2, last + 1, N_HEADS, head_dim)).astype(np.float32)
        where = np.full(last + 1, slot), places
        type.write_keys(keys, *where, x[0])
        type.write_values(values, *where, x[1])
    return {
        "q": rng.standard_normal((n, N_HEADS * group * head_dim)).astype(np.float32),
        "keys": keys, "values": values, "slots": slots, "positions": np.int32(POSITIONS),
        "n_kv_heads": N_HEADS, "capacity": N_CTX, "scale": head_dim**-0.5, "softcap": 5.0,
        "sinks": np.linspace(-3, 3, N_HEADS * group, dtype=np.float32), "window": window,
    }  # fmt: skip


def ops(type: CacheType, head_dim: int, group: int) -> tuple[Attend, SplitAttend, JoinSplits]:
    whole, n = Attend(type, type, head_dim, group, capped=True), n_splits(N_HEADS)
    return whole, SplitAttend.of(whole, n), JoinSplits(head_dim, group, n).lowered(1, None)  # type: ignore[arg-type, return-value]


def split(
    library: Library, attend: SplitAttend, join: JoinSplits, given: dict[str, Any],
    *, pieces: int = 1,
) -> tuple[Array, Array]:  # fmt: skip
    """(out, parts), of which items are made in so many calls, the last of them first."""
    n = len(given["positions"])
    out = unwritten(*given["q"].shape)
    width = N_HEADS * attend.n_splits * part_floats(attend.head_dim, attend.group)
    parts = unwritten(MOST_FEW_ROWS, width)
    n_items = n * N_HEADS * attend.n_splits
    ends = np.linspace(0, n_items, pieces + 1).astype(int)
    for items in reversed(list(pairwise(ends))):
        run(library, attend, n, items=items, **given, parts=parts, out=out)
    own = {name: given[name] for name in ("positions", "n_kv_heads", "sinks", "window")}
    run(library, join, n, parts=parts, out=out, **own)
    return out, parts


@pytest.mark.parametrize("type", TYPES, ids=str)
@pytest.mark.parametrize("window", [NO_WINDOW, 1, 700, 5 * PIECE])
def test_splits_come_to_what_a_whole_token_does(
    library: Library, type: CacheType, window: int
) -> None:
    whole, attend, join = ops(type, 32, 3)
    given = arguments(type, 32, 3, window=window)
    out, parts = split(library, attend, join, given)
    truth, joined, of_parts = np.zeros(out.shape), np.zeros(out.shape), np.zeros_like(parts)
    whole.reference(**given, out=truth)
    attend.reference(**given, parts=of_parts, out=joined)
    assert joined.tobytes() == truth.tobytes()
    own = {name: given[name] for name in ("positions", "n_kv_heads", "sinks", "window")}
    join.reference(parts=of_parts, out=joined, **own)
    assert nmse(joined, truth) <= 1e-12
    bound = 1e-9 if type.block > 1 else 1e-12
    assert nmse(out, truth) <= bound
    written = ~np.isnan(parts)
    assert nmse(parts[written], of_parts[written].astype(np.float64)) <= bound
    assert not of_parts[~written].any()


@pytest.mark.parametrize("type", TYPES, ids=str)
def test_a_tokens_splits_are_the_same_in_any_company_and_order(
    library: Library, type: CacheType
) -> None:
    _, attend, join = ops(type, 64, 2)
    given = arguments(type, 64, 2, window=2000)
    together, _ = split(library, attend, join, given)
    apart, _ = split(library, attend, join, given, pieces=7)
    assert apart.tobytes() == together.tobytes()
    for token in range(len(POSITIONS)):
        own = {name: given[name][token : token + 1] for name in ("q", "slots", "positions")}
        alone, _ = split(library, attend, join, given | own)
        assert alone.tobytes() == together[token : token + 1].tobytes()


def test_many_tokens_are_attended_to_whole(library: Library) -> None:
    """And nothing is left to join."""
    whole, attend, join = ops(TYPES[0], 32, 3)
    for n in (None, MOST_FEW_ROWS + 1):
        assert attend.lowered(n, library.isa) == whole.lowered(n, library.isa)
        assert join.lowered(n, library.isa).items(library.isa, n_kv_heads=N_HEADS) == (0, 1)
    assert attend.lowered(MOST_FEW_ROWS, library.isa) == attend


def test_a_nan_in_one_split_comes_out(library: Library) -> None:
    _, attend, join = ops(TYPES[0], 32, 3)
    for name in ("keys", "values"):
        given = arguments(TYPES[0], 32, 3)
        at = (1, 0, 300 // 16, 4, 300 % 16) if name == "keys" else (1, 0, 300, 4)
        given[name][at] = np.nan
        out, _ = split(library, attend, join, given)
        sees = (given["slots"] == 1) & (given["positions"] >= 300)
        assert (np.isnan(out[:, : 3 * 32]).any(axis=1) == sees).all()
        assert np.isfinite(out[:, 3 * 32 :]).all()


@pytest.mark.parametrize("n_kv_heads", range(1, 130))
def test_splits_are_a_power_of_two_and_make_enough_items(n_kv_heads: int) -> None:
    n = n_splits(n_kv_heads)
    assert n in (1, 2, 4, 8)
    assert n == MOST_SPLITS or 2 * n * n_kv_heads > 32
    assert n == 1 or n * n_kv_heads <= 32
