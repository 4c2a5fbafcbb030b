"""Kernels read and write nothing beyond their arrays: these lie against pages no one may touch.

All kernels of an instruction set run in one child process, which says before each what it is about
to do; a signal ends the child, and fails the test.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.guarded_memory import guarded
from support.isas import isas_to_test
from support.kernel_harness import (
    TYPES,
    Array,
    few_row_ops,
    many_row_ops,
    random_weights,
    run,
    run_python,
    unwritten,
)
from support.systems import needs_posix

from linnet.kernels.compiler.host import choose_isa
from linnet.kernels.compiler.jit import Library
from linnet.kernels.isa.generic import Generic
from linnet.kernels.ops.attention import NO_WINDOW, Attend
from linnet.kernels.ops.bandwidth import ReadBytes
from linnet.kernels.ops.base import Op
from linnet.kernels.ops.cache_types import CACHE_TYPES
from linnet.kernels.ops.elementwise import Add, AddRow, SiluMultiply
from linnet.kernels.ops.kv_cache import StoreKeys, StoreValues
from linnet.kernels.ops.norm import LayerNorm, RmsNorm
from linnet.kernels.ops.recurrent import Decay, DeltaNet, ShortConvolution
from linnet.kernels.ops.rope import Rope, rope_table
from linnet.kernels.ops.routing import (
    GroupByExpert,
    PerExpert,
    SumExperts,
    TopExperts,
)
from linnet.kernels.ops.rows import PickColumns, PickRows
from linnet.kernels.ops.split_attention import SplitAttend, part_floats
from linnet.kernels.products.activations import Quantize, packed_bytes
from linnet.kernels.products.experts import FloatExpertLinear
from linnet.kernels.quants import WEIGHT_TYPES, QuantType, WeightType

pytestmark = needs_posix

Case = tuple[Op, int, dict[str, Any]]  # an op, the rows of the pass, and the arguments


# ---- tests ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [isa.name for isa in isas_to_test()])
def test_no_kernel_touches_memory_beside_its_arrays(name: str) -> None:
    child = run_python(__file__, name)
    last_words = child.stdout.splitlines()[-1:]
    assert child.returncode == 0, f"ended by {child.returncode} at {last_words}\n{child.stderr}"
    assert last_words == ["done"]


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_touch_beside_an_array_is_a_signal(place: str) -> None:
    """The tests above could fail."""
    assert run_python(__file__, place).returncode == -signal.SIGSEGV


# ---- what the child runs -------------------------------------------------------------------------


def product_cases(type: WeightType) -> Iterator[Case]:
    """Rows of one block, of whole chunks, and with something left behind these."""
    rng = np.random.default_rng(1)
    odd = (1, 64, 73) if type.block == 1 else (type.block, 256, 256 + type.block)
    columns = sorted({*odd})
    for n_columns, n_out in zip(columns, (63, 64, 1), strict=False):
        weights = random_weights(type, n_out, n_columns, rng)
        sizes = {"weights": weights, "n_columns": n_columns, "n_out": n_out}
        for op, n_tokens in ((few_row_ops(type)[-1], 1), (many_row_ops(type)[-1], 7)):
            x: Array = np.ones((n_tokens, n_columns), np.float32)
            if isinstance(type, QuantType):
                x = np.zeros((n_tokens, packed_bytes(n_columns)), np.uint8)
            kernel: Any = op(type, 1) if n_tokens == 1 else op(type)  # type: ignore[call-arg]
            yield kernel, n_tokens, {"x": x, **sizes, "out": unwritten(n_tokens, n_out)}
        rows = np.int32([n_out - 1, 0])
        out = unwritten(2, n_columns)
        table = {"table": weights, "rows": rows, "width": n_columns}
        yield PickRows(type), 2, {**table, "out": out}


def attention_cases() -> Iterator[Case]:
    shapes = ("f16", 64, 4), ("f32", 80, 1), ("f16", 8, 7), ("q8_0", 96, 2)
    for name, head_dim, group in shapes:
        type = CACHE_TYPES[name]
        # Contexts of which all positions are seen, and rings that have come around.
        for n_ctx, capacity in ((1, 1), (15, 15), (16, 16), (17, 17), (65, 65), (64, 64),
                                (128, 64), (150, 64), (321, 128)):  # fmt: skip
            n_slots, n_heads = 2, 2
            shape = n_slots, n_heads, capacity, head_dim
            values = np.ones(type.values_shape(*shape), type.dtype)
            keys = np.ones(type.keys_shape(*shape), type.dtype)
            place = {
                "slots": np.int32([0, 1]),
                "positions": np.int32([n_ctx - 1, n_ctx - 1]),
                "capacity": capacity,
            }
            x = np.ones((2, n_heads * head_dim), np.float32)
            sizes = {"n_heads": n_heads, "head_dim": head_dim}
            yield StoreKeys(type), 2, {"x": x, "cache": keys, **sizes, **place}
            yield StoreValues(type), 2, {"x": x, "cache": values, **sizes, **place}
            q = np.ones((2, n_heads * group * head_dim), np.float32)
            scale = {"n_kv_heads": n_heads, "scale": 0.1}
            sinks = np.zeros(n_heads * group, np.float32)
            arguments = {"q": q, "keys": keys, "values": values, **place, **scale}
            for window in (NO_WINDOW if n_ctx == capacity else capacity, 3):
                masks = {"softcap": 5.0, "sinks": sinks, "window": window}
                out = unwritten(*q.shape)
                op = Attend(type, type, head_dim, group, True)
                yield op, 2, {**arguments, **masks, "out": out}
                split = SplitAttend.of(op, 2)
                parts = unwritten(2, n_heads * 2 * part_floats(head_dim, group))
                yield split, 2, {**arguments, **masks, "parts": parts, "out": out}
            # The last block of a prompt that fills the context, and its tokens one by one.
            n = min(n_ctx, 16 // group)
            arguments |= {
                "q": np.ones((n, n_heads * group * head_dim), np.float32),
                "slots": np.ones(n, np.int32),
                "positions": np.arange(n_ctx - n, n_ctx, dtype=np.int32),
            }
            out = unwritten(*arguments["q"].shape)  # type: ignore[union-attr]
            yield op.lowered(None, Generic()), n, {**arguments, **masks, "out": out}


def other_cases() -> Iterator[Case]:
    for width in (1, 5, 64, 73, 256, 300):
        x, row = np.ones((3, width), np.float32), np.ones(width, np.float32)
        out = unwritten(3, width)
        yield RmsNorm(), 3, {"x": x, "weight": row, "out": out, "width": width, "eps": 1e-5}
        for op, y in ((Add(), x), (AddRow(), row), (SiluMultiply(), x)):
            yield op, 3, {"x": x, "y": y.copy(), "out": out, "width": width}
    for adjacent in (True, False):
        for n_pairs in (1, 5, 16, 36):
            table = {"table": rope_table(8, np.ones(n_pairs)), "n_pairs": n_pairs}
            sizes = {"n_heads": 2, "head_dim": 2 * n_pairs, "positions": np.int32([0, 7])}
            x = np.ones((2, 4 * n_pairs), np.float32)
            yield Rope(adjacent), 2, {"x": x, **table, **sizes}
    for n in (32, 96, 256, 320):
        out = np.zeros((2, packed_bytes(n)), np.uint8)
        yield Quantize(), 2, {"x": np.ones((2, n), np.float32), "out": out, "width": n}
    for n_bytes in (64, 127, (1 << 16) + 64):
        data, out = np.ones(n_bytes, np.uint8), np.zeros(-(-n_bytes >> 16), np.uint64)
        yield ReadBytes(), 1, {"data": data, "out": out, "n_bytes": n_bytes}


def block_cases() -> Iterator[Case]:
    """What experts and blocks with a state are made of."""
    x = np.ones((2, 150), np.float32)
    tokens = {"slots": np.int32([0, 1]), "positions": np.int32([0, 3])}
    for width in (1, 75, 150):
        row, out = np.ones((150 // width, width), np.float32), unwritten(2, 150)
        sizes = {"width": width, "n_weights": 150 // width, "eps": 1e-5}
        yield LayerNorm(), 2, {"x": x, "weight": row, "bias": row.copy(), "out": out, **sizes}
        sizes = {"start": width // 2, "width": width - width // 2, "stride": width}
        picked = unwritten(2, 150 // width * sizes["width"])
        yield PickColumns(), 2, {"x": x, "out": picked, "n_parts": 150 // width, **sizes}
    for size in (2, 4):
        arrays = {"kernel": np.ones((size, 150), np.float32), "out": unwritten(2, 150)}
        state = np.ones((2, size - 1, 150), np.float32)
        yield ShortConvolution(size), 2, {"x": x, **arrays, "state": state, "width": 150, **tokens}
    of_heads = {name: np.full((2, 3), 0.5, np.float32) for name in ("decay", "beta")}
    for head_dim in (16, 20):
        heads = {n: np.ones((2, 3 * head_dim), np.float32) for n in ("queries", "keys", "values")}
        state = np.ones((2, 3, head_dim, head_dim), np.float32)
        sizes = {"n_k_heads": 3, "n_heads": 3}
        out = unwritten(2, 3 * head_dim)
        yield (
            DeltaNet(head_dim),
            2,
            {**heads, **of_heads, "state": state, "out": out, **sizes, **tokens},
        )
    row = {name: np.ones(150, np.float32) for name in ("bias", "rate")}
    yield Decay(), 2, {"x": x, **row, "out": unwritten(2, 150), "width": 150}


def expert_cases() -> Iterator[Case]:
    for n_experts in (3, 19):
        arrays = {"logits": np.ones((2, n_experts), np.float32), "bias": np.zeros(n_experts, "f4")}
        chosen = {"experts": unwritten(2, 3, dtype=np.int32), "weights": unwritten(2, 3)}
        sizes = {"n_experts": n_experts, "n_used": 3, "scale": 1.0}
        yield TopExperts("softmax", True), 2, {**arrays, **chosen, **sizes}
    rng, experts = np.random.default_rng(2), np.int32([[0, 2], [2, 1]])
    lists = {"order": unwritten(2, 2, dtype=np.int32), "starts": unwritten(4, dtype=np.int64)}
    yield GroupByExpert(), 2, {"experts": experts, **lists, "n_used": 2, "n_experts": 3}
    for type in (WEIGHT_TYPES["Q4_K"], WEIGHT_TYPES["F32"]):
        n_columns = 2 * type.block + 17 * (type.block == 1)
        weights = random_weights(type, 3 * 5, n_columns, rng).reshape(3, 5, -1)
        sizes = {"n_columns": n_columns, "n_out": 5, "n_used": 2, "n_sharing": 2}
        own = {"weights": weights, "expert_bytes": weights.strides[0], "experts": experts}
        x = {"x": np.ones((2, n_columns), np.float32), "out": unwritten(2, 10)}
        lists = {"order": np.int32([[0, 3], [1, 2]]), "starts": np.int64([0, 1, 2, 4])}
        own |= {**lists, "n_experts": 3}
        single = FloatExpertLinear(type, n_columns)
        for op in (single, single.lowered(None, Generic())):
            yield op, 2, {**x, **own, **sizes}
    for width in (1, 21):
        x, sizes = {"x": np.ones((2, 2 * width), np.float32)}, {"n_used": 2, "width": width}
        own = {"scales": np.ones(3, np.float32), "biases": np.ones((3, width), np.float32)}
        yield (
            PerExpert(),
            2,
            {**x, **own, "experts": experts, **sizes, "out": unwritten(2, 2 * width)},
        )
        weights = np.ones((2, 2), np.float32)
        yield SumExperts(), 2, {**x, "weights": weights, **sizes, "out": unwritten(2, width)}


def put(argument: Any, place: str) -> Any:
    """An array with a page that may not be touched before it, or behind it; or just a copy."""
    if not isinstance(argument, np.ndarray):
        return argument
    return argument.copy() if place == "free" else guarded(argument, at_end=place == "behind")


def run_guarded(library: Library, op: Op, n_rows: int, arguments: dict[str, Any]) -> None:
    """Run an op on arrays in each place, and see that the place makes no difference."""
    results = []
    for place in ("free", "before", "behind"):
        print(op.symbol, place, {n: a for n, a in arguments.items() if isinstance(a, int)})
        sys.stdout.flush()
        placed = {name: put(argument, place) for name, argument in arguments.items()}
        run(library, op, n_rows, **placed)
        results.append([placed[name].tobytes() for name in sorted(op.writes)])
    if results[0] != results[1] or results[0] != results[2]:
        raise RuntimeError(f"{op.symbol} depends on where its arrays lie")


def touch(place: str) -> None:
    """Read the byte before or behind a guarded array."""
    array = guarded(np.arange(1000, dtype=np.uint8), at_end=place == "behind")
    beside = array.ctypes.data - 1 if place == "before" else array.ctypes.data + array.nbytes
    print(ctypes.c_uint8.from_address(beside).value)


def main(argument: str) -> None:
    if argument in ("before", "behind"):
        touch(argument)
        return
    library = Library(choose_isa(argument))
    for type in TYPES:
        for op, n_rows, arguments in product_cases(type):
            run_guarded(library, op, n_rows, arguments)
    for op, n_rows, arguments in (
        *attention_cases(),
        *other_cases(),
        *block_cases(),
        *expert_cases(),
    ):
        run_guarded(library, op, n_rows, arguments)
    print("done")


if __name__ == "__main__":
    main(sys.argv[1])
