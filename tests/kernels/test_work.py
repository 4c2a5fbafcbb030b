"""What ops say they cost, against numbers written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from linnet.kernels.ops.attention import NO_WINDOW, Attend
from linnet.kernels.ops.base import Array, Op
from linnet.kernels.ops.cache_types import CACHE_TYPES, CacheType
from linnet.kernels.ops.elementwise import Add, ScaleByPosition
from linnet.kernels.ops.kv_cache import StoreKeys, StoreValues
from linnet.kernels.ops.norm import RmsNorm
from linnet.kernels.ops.recurrent import DeltaNet, ShortConvolution
from linnet.kernels.ops.rope import Rope
from linnet.kernels.ops.routing import PerExpert
from linnet.kernels.ops.rows import PickRows
from linnet.kernels.ops.work import Work
from linnet.kernels.quants import WEIGHT_TYPES

I4 = np.int32
PLACES: dict[str, Any] = {"slots": I4([3, 0, 3]), "positions": I4([8, 2, 9])}  # two sequences


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


CASES: list[tuple[Op, dict[str, Any], Work]] = [
    # x, y and out: 3 x 10 numbers of 4 bytes each
    (Add(), {"x": ones(3, 10), "y": ones(3, 10), "out": ones(3, 10),
             "width": 10}, Work(30, 360)),
    (RmsNorm(), {"x": ones(3, 10), "weight": ones(10), "out": ones(3, 10),
                 "width": 10, "eps": 1e-5}, Work(30, 120 + 40 + 120)),
    # one number of y for each of the three tokens, not all 50
    (ScaleByPosition(), {"x": ones(3, 10), "y": ones(50), "out": ones(3, 10),
                         "positions": PLACES["positions"], "width": 10}, Work(30, 240 + 12 + 12)),
    # rows of 34 bytes, two of the table's 99
    (PickRows(WEIGHT_TYPES["Q8_0"]), {"table": np.ones((99, 34), np.uint8), "rows": I4([98, 7]),
                                      "out": ones(2, 32), "width": 32},
     Work(64, 2 * 34 + 8 + 256)),
    # three rows of 2 x 4 cosines and sines of the table's 50
    (Rope(True), {"x": ones(3, 16), "positions": PLACES["positions"],
                  "table": ones(50, 2, 4), "n_heads": 2, "head_dim": 8, "n_pairs": 4},
     Work(48, 192 + 12 + 3 * 32)),
    # the states of slots 0 and 3, of the six there are
    (ShortConvolution(3), {"x": ones(3, 10), "kernel": ones(3, 10),
                           "state": ones(6, 2, 10), "out": ones(3, 10),
                           "width": 10, **PLACES}, Work(180, 120 + 120 + 2 * 80 + 120 + 24)),
    (DeltaNet(4), {"queries": ones(3, 4), "keys": ones(3, 4),
                   "values": ones(3, 8), "decay": ones(3, 2),
                   "beta": ones(3, 2), "state": ones(6, 2, 4, 4),
                   "out": ones(3, 8), "n_k_heads": 1, "n_heads": 2, **PLACES},
     Work(7 * 32 * 3, 48 + 48 + 96 + 24 + 24 + 2 * 128 + 96 + 24)),
    # the scales and biases of experts 1 and 5, of eight
    (PerExpert(), {"x": ones(2, 20), "experts": I4([[1, 5], [5, 1]]),
                   "scales": ones(8), "biases": ones(8, 10),
                   "out": ones(2, 20), "n_used": 2, "width": 10},
     Work(40, 160 + 16 + 2 * 4 + 2 * 40 + 160)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "arguments", "expected"), CASES, ids=lambda x: type(x).__name__)
def test_work(op: Op, arguments: dict[str, Any], expected: Work) -> None:
    assert arguments.keys() == op.parameters.keys() - {"n_rows"}
    assert op.work(**arguments) == expected


HEAD_BYTES = {"f16": 64, "f32": 128, "q8_0": 34}  # of a head of 32 numbers


@pytest.mark.parametrize("type", CACHE_TYPES.values(), ids=str)
@pytest.mark.parametrize("store", [StoreKeys, StoreValues])
def test_what_is_stored_is_written_not_the_cache(type: CacheType, store: Any) -> None:
    shape = (type.keys_shape if store is StoreKeys else type.values_shape)(4, 2, 32, 32)
    arguments = {"x": ones(3, 64), "cache": np.ones(shape, type.dtype), **PLACES}
    done = store(type).work(**arguments, n_heads=2, capacity=32, head_dim=32)
    assert done == Work(192, 768 + 24 + 6 * HEAD_BYTES[type.name])


@pytest.mark.parametrize("type", CACHE_TYPES.values(), ids=str)
@pytest.mark.parametrize(("window", "seen", "read"), [(NO_WINDOW, 9 + 3 + 10, 10 + 3), (5, 13, 8)])
def test_attention_reads_what_the_last_token_of_each_sequence_sees(
    type: CacheType, window: int, seen: int, read: int
) -> None:
    """Two KV heads of three query heads each, of 32 numbers; values take what f16 does."""
    shape, f16 = (4, 2, 32, 32), CACHE_TYPES["f16"]
    q = ones(3, 192)
    caches = {"keys": np.ones(type.keys_shape(*shape), type.dtype),
              "values": np.ones(f16.values_shape(*shape), f16.dtype)}  # fmt: skip
    sizes = {"n_kv_heads": 2, "capacity": 32, "scale": 1.0, "softcap": 0.0, "window": window}
    sinks = ones(6)
    done = Attend(type, f16, 32, 3).work(q=q, out=q, sinks=sinks, **caches, **sizes, **PLACES)
    assert done == Work(2 * 2 * 192 * seen, 2 * (HEAD_BYTES[type.name] + 64) * read)
