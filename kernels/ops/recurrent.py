"""Blocks with a state that runs along a sequence: short convolutions and gated delta-nets.

A state belongs to a slot, and is taken to be zero where a token is at position 0. The tokens of a
pass are stepped through in order, so each slot's must be in order of position, with none left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from linnet.kernels.ir import Value, f32
from linnet.kernels.ir.functions import exp, softplus
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import (
    ALL_ROWS,
    Array,
    Float32s,
    Int,
    Int32s,
    Int64s,
    Numbers,
    Op,
    OpKernel,
)
from linnet.kernels.ops.work import Work

CHANNELS = 64  # of a convolution that make an item
STATE_ROWS = 16  # of a delta-net's state that make an item


@dataclass(frozen=True)
class ShortConvolution(Op):
    """A causal convolution of every channel over `size` tokens; an item is a run of 64 channels.

    x, out: f32 (n_tokens, width); kernel: f32 (size, width), the last for the token itself; state:
    f32 (n_slots, size - 1, width), what came before.

        for channel in items:
            for token:
                window = state[slot][..][channel], x[token][channel]
                out[token][channel] = sum(kernel[..][channel] * window)
                state[slot][..][channel] = window without its first
    """

    size: int

    writes = frozenset({"out", "state"})
    picks = {"state": "slots"}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return -(-sizes["width"] // CHANNELS), ALL_ROWS

    def emit(
        self, k: OpKernel, x: Float32s, kernel: Float32s, state: Float32s, slots: Int32s,
        positions: Int32s, out: Float32s, width: Int, n_rows: Int64s,
    ) -> None:  # fmt: skip
        n_past = self.size - 1
        for item in k.items("channels"):
            first = item * CHANNELS
            count = k.minimum(width - first, CHANNELS)
            for token in k.range(n_rows.load(), name="token"):
                position = positions.index(token)
                past = state.at(slots.index(token) * width * n_past)
                for lanes, i in k.strips(count, (k.isa.lanes, 1)):
                    column = first + i
                    zero = k.constant(f32[lanes], 0)
                    window = [
                        (position > n_past - 1 - j).select(
                            past.load(width * j + column, lanes), zero
                        )
                        for j in range(n_past)
                    ]
                    window.append(x.load(token * width + column, lanes))
                    total = zero
                    for j, number in enumerate(window):
                        total = k.fma(number, kernel.load(width * j + column, lanes), total)
                    for j, number in enumerate(window[1:]):
                        past.store(number, width * j + column)
                    out.store(total, token * width + column)

    def reference(
        self, x: Array, kernel: Array, state: Array, slots: Array, positions: Array, out: Array,
        width: int,
    ) -> None:  # fmt: skip
        for token, (slot, position) in enumerate(zip(slots, positions, strict=True)):
            if position == 0:
                state[slot] = 0
            window = np.concatenate([state[slot], x[token : token + 1]])
            out[token] = (window.astype(np.float64) * kernel).sum(axis=0)
            state[slot] = window[1:]

    def work(self, kernel: Array, slots: Array, **others: Any) -> Work:
        """A multiply-add for each weight and token."""
        done = super().work(kernel=kernel, slots=slots, **others)
        return replace(done, n_operations=2 * kernel.size * len(slots))


@dataclass(frozen=True)
class Decay(Op):
    """out = exp(rate * softplus(x + bias)): how much of a state is kept; an item is a token.

    x, out: f32 (n_tokens, width); bias, rate: f32 (width,), rates below 0 (arXiv:2412.06464).
    """

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def emit(
        self, k: OpKernel, x: Float32s, bias: Float32s, rate: Float32s, out: Float32s, width: Int
    ) -> None:
        for token in k.items("token"):
            for lanes, i in k.strips(width, (k.isa.lanes, 1)):
                at = token * width + i
                steps = softplus(k, x.load(at, lanes) + bias.load(i, lanes))
                out.store(exp(k, steps * rate.load(i, lanes)), at)

    def reference(self, x: Array, bias: Array, rate: Array, out: Array, width: int) -> None:
        out[...] = np.exp(np.logaddexp(0, x.astype(np.float64) + bias) * rate)


@dataclass(frozen=True)
class DeltaNet(Op):
    """The gated delta rule (Yang et al. 2024, arXiv:2412.06464); an item is 16 rows of a state.

    queries, keys: f32 (n_tokens, n_k_heads, head_dim); values, out: f32 (n_tokens, n_heads,
    head_dim); decay, beta: f32 (n_tokens, n_heads); state: f32 (n_slots, n_heads, head_dim,
    head_dim), from keys to values: state @ key = value. Head h of the values goes with head
    h % n_k_heads of the keys.

        for head, for row of its state in items:
            for token:
                state[row] *= decay
                state[row] += beta * (values[row] - state[row] @ key) * key
                out[row] = state[row] @ query
    """

    head_dim: int

    writes = frozenset({"out", "state"})
    picks = {"state": "slots"}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_heads"] * -(-self.head_dim // STATE_ROWS), ALL_ROWS

    def emit(
        self, k: OpKernel, queries: Float32s, keys: Float32s, values: Float32s, decay: Float32s,
        beta: Float32s, state: Float32s, slots: Int32s, positions: Int32s, out: Float32s,
        n_k_heads: Int, n_heads: Int, n_rows: Int64s,
    ) -> None:  # fmt: skip
        head_dim = self.head_dim
        runs = -(-head_dim // STATE_ROWS)
        for item in k.items("rows"):
            head, first = item // runs, item % runs * STATE_ROWS
            last = k.minimum(first + STATE_ROWS, head_dim)
            for token in k.range(n_rows.load(), name="token"):
                slot, position = slots.index(token), positions.index(token)
                of_head = state.at((slot * n_heads + head) * (head_dim * head_dim))
                of_keys = (token * n_k_heads + head % n_k_heads) * head_dim
                of_values = token * n_heads + head
                query, key = queries.at(of_keys), keys.at(of_keys)
                kept = (position > 0).select(decay.load(of_values), 0.0)
                rate = beta.load(of_values)
                for row in k.range(last, first, name="row"):
                    value = values.load(of_values * head_dim + row)
                    state_row = of_head.at(row * head_dim)
                    result = self._step(k, state_row, query, key, value, kept, rate)
                    out.store(result, of_values * head_dim + row)

    def _step(
        self, k: OpKernel, state: Numbers, query: Numbers, key: Numbers,
        value: Value, decay: Value, beta: Value,
    ) -> Value:  # fmt: skip
        """Update a row of the state, and return its product with the query."""
        lanes = min(k.isa.lanes, self.head_dim & -self.head_dim)
        places = range(0, self.head_dim, lanes)
        keys = [key.load(at, lanes) for at in places]
        kept = [state.load(at, lanes) * decay for at in places]
        change = (value - _product(k, kept, keys)) * beta
        kept = [k.fma(x, change, s) for x, s in zip(keys, kept, strict=True)]
        for at, s in zip(places, kept, strict=True):
            state.store(s, at)
        return _product(k, kept, [query.load(at, lanes) for at in places])

    def reference(
        self, queries: Array, keys: Array, values: Array, decay: Array, beta: Array, state: Array,
        slots: Array, positions: Array, out: Array, n_k_heads: int, n_heads: int,
    ) -> None:  # fmt: skip
        heads = -1, self.head_dim
        for token, (slot, position) in enumerate(zip(slots, positions, strict=True)):
            q, k = (x[token].reshape(heads).astype(np.float64) for x in (queries, keys))
            q, k = (np.tile(x, (n_heads // n_k_heads, 1)) for x in (q, k))
            v = values[token].reshape(heads)[..., None]
            kept = state[slot] * (decay[token][:, None, None] if position else 0.0)
            kept = kept + beta[token][:, None, None] * (v - kept @ k[..., None]) * k[:, None]
            state[slot] = kept
            out[token] = (kept @ q[..., None]).reshape(-1)

    def work(self, state: Array, slots: Array, **others: Any) -> Work:
        """For each token and number of a state a multiplication by its decay, and multiply-adds
        for state @ key, the update and state @ query."""
        done = super().work(state=state, slots=slots, **others)
        return replace(done, n_operations=7 * state[0].size * len(slots))


def _product(k: OpKernel, a: list[Value], b: list[Value]) -> Value:
    """The sum of a * b over vectors and their lanes, in two running sums."""
    sums = [x * y for x, y in zip(a[:2], b[:2], strict=True)]
    for i, (x, y) in enumerate(zip(a[2:], b[2:], strict=True)):
        sums[i % 2] = k.fma(x, y, sums[i % 2])
    return sum(sums[1:], sums[0]).sum()
