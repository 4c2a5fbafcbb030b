"""Blocks with a state: natively as in numpy, from token to token, from slot to slot."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from support.kernel_harness import Array, nmse, run, unwritten

from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.base import Op
from linnet.kernels.ops.recurrent import Decay, DeltaNet, ShortConvolution

SLOTS = np.int32([1, 1, 3, 1, 3, 0])
POSITIONS = np.int32([0, 1, 7, 2, 8, 0])  # slot 3 goes on from what was there before


def check(library: Library, op: Op, state: Array, n_out: int, **arguments: Any) -> None:
    """Output and state, in one pass and in two, are those of the reference."""
    arguments |= {"slots": SLOTS, "positions": POSITIONS}
    expected, expected_state = np.zeros((6, n_out)), state.astype(np.float64)
    op.reference(**arguments, state=expected_state, out=expected)
    for splits in ([0, 6], [0, 1, 4, 6]):
        out, own = unwritten(6, n_out), state.copy()
        for first, last in pairwise(splits):
            part = {
                name: a[first:last].copy() if isinstance(a, np.ndarray) and len(a) == 6 else a
                for name, a in arguments.items()
            }
            rows = unwritten(last - first, n_out)
            run(library, op, last - first, **part, state=own, out=rows)
            out[first:last] = rows
        assert nmse(out, expected) <= 1e-12
        assert nmse(own, expected_state) <= 1e-12
        assert np.array_equal(own[2], state[2])  # nobody's


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("width", [1, 24, 64, 150])
def test_a_convolution_takes_what_came_before(library: Library, size: int, width: int) -> None:
    rng = np.random.default_rng(width)
    x, kernel = (rng.standard_normal((n, width)).astype(np.float32) for n in (6, size))
    state = rng.standard_normal((4, size - 1, width)).astype(np.float32)
    state[:2] = 1e9  # left by others; new sequences begin there
    expected = [x[0] * kernel[-1], x[1] * kernel[-1] + x[0] * kernel[-2]]
    out = np.zeros((6, width), np.float32)
    arguments = {"x": x, "kernel": kernel, "width": width}
    ShortConvolution(size).reference(
        **arguments, state=state.copy(), slots=SLOTS, positions=POSITIONS, out=out
    )
    assert np.allclose(out[:2], expected, rtol=1e-4, atol=1e-5)
    state[:2] = 5
    check(library, ShortConvolution(size), state, width, **arguments)


@pytest.mark.parametrize(
    ("head_dim", "n_heads", "n_k_heads"), [(16, 4, 2), (24, 2, 2), (128, 3, 1)]
)
def test_a_delta_net_is_its_reference(
    library: Library, head_dim: int, n_heads: int, n_k_heads: int
) -> None:
    rng = np.random.default_rng(head_dim)
    keys, queries = rng.standard_normal((2, 6, n_k_heads * head_dim)).astype(np.float32)
    keys /= np.sqrt(head_dim)
    values = rng.standard_normal((6, n_heads * head_dim)).astype(np.float32)
    decay, beta = rng.uniform(0.2, 1, (2, 6, n_heads)).astype(np.float32)
    state = rng.standard_normal((4, n_heads, head_dim, head_dim)).astype(np.float32)
    check(
        library, DeltaNet(head_dim), state, n_heads * head_dim,
        queries=queries, keys=keys, values=values, decay=decay, beta=beta,
        n_k_heads=n_k_heads, n_heads=n_heads,
    )  # fmt: skip


def test_a_delta_net_remembers_and_overwrites(library: Library) -> None:
    """Written out: what was said of a key is found again, and the last that was said counts."""
    key = np.zeros((4, 16), np.float32)
    key[[0, 1, 2, 3], [3, 5, 3, 3]] = 1
    values = np.float32([[1] * 16, [2] * 16, [7] * 16, [0] * 16])
    beta = np.float32([[1], [1], [1], [0]])  # the last token only asks
    out = unwritten(4, 16)
    run(
        library, DeltaNet(16), 4, queries=key, keys=key, values=values,
        decay=np.ones((4, 1), np.float32), beta=beta, state=np.ones((1, 1, 16, 16), np.float32),
        slots=np.zeros(4, np.int32), positions=np.arange(4, dtype=np.int32),
        out=out, n_k_heads=1, n_heads=1,
    )  # fmt: skip
    assert out[:, 0].tolist() == [1, 2, 7, 7]


def test_decays(library: Library) -> None:
    x = np.float32([[-100, -20, -5, -1e-3, 0, 1e-3, 1, 30, 88, 100, 1e4]])
    bias, rate = np.full(11, 0.25, np.float32), np.linspace(-16, -0.01, 11, dtype=np.float32)
    out, expected = unwritten(1, 11), np.zeros((1, 11))
    run(library, Decay(), 1, x=x, bias=bias, rate=rate, out=out, width=11)
    Decay().reference(x=x, bias=bias, rate=rate, out=expected, width=11)
    assert np.allclose(out, expected, rtol=2e-5, atol=1e-30)
    assert np.allclose(1 - out[0, :3], 1 - expected[0, :3], atol=1e-7)
