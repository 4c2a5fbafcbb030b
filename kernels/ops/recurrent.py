"""Blocks with a state that runs along a sequence: short convolutions and gated delta-nets.

A state belongs to a slot, and is taken to be zero where a token is at position 0. The tokens of a
pass are stepped through in order, so each slot's must be in order of position, with none left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linnet.kernels.ir import Pointer, Value, f32, i32, i64, pointer
from linnet.kernels.ir.functions import exp, softplus
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import ALL_ROWS, Op, OpKernel

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

    parameters = {
        "x": pointer,
        "kernel": pointer,
        "state": pointer,
        "slots": pointer,
        "positions": pointer,
        "out": pointer,
        "width": i64,
        "n_rows": pointer,
    }
    writes = frozenset({"out", "state"})

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return -(-sizes["width"] // CHANNELS), ALL_ROWS

    def emit(self, k: OpKernel, **a: Any) -> None:
        width, n_past = a["width"], self.size - 1
        for item in k.items("channels"):
            first = item * CHANNELS
            count = k.minimum(width - first, CHANNELS)
            for token in k.range(a["n_rows"].load(i64), name="token"):
                slot, position = (a[n].load(i32, token * 4).to(i64) for n in ("slots", "positions"))
                state = a["state"].at(slot * width * (4 * n_past))
                for lanes, i in k.strips(count, (k.isa.lanes, 1)):
                    column = first + i
                    zero = k.constant(f32[lanes], 0)
                    window = [
                        (position > n_past - 1 - j).select(
                            state.load(f32[lanes], (width * j + column) * 4), zero
                        )
                        for j in range(n_past)
                    ]
                    window.append(a["x"].load(f32[lanes], (token * width + column) * 4))
                    total = zero
                    for j, x in enumerate(window):
                        weight = a["kernel"].load(f32[lanes], (width * j + column) * 4)
                        total = k.fma(x, weight, total)
                    for j, x in enumerate(window[1:]):
                        state.store(x, (width * j + column) * 4)
                    a["out"].store(total, (token * width + column) * 4)

    def reference(self, **a: Any) -> None:
        for token, (slot, position) in enumerate(zip(a["slots"], a["positions"], strict=True)):
            state = a["state"][slot]
            if position == 0:
                state[...] = 0
            window = np.concatenate([state, a["x"][token : token + 1]])
            a["out"][token] = (window.astype(np.float64) * a["kernel"]).sum(axis=0)
            state[...] = window[1:]


@dataclass(frozen=True)
class Decay(Op):
    """out = exp(rate * softplus(x + bias)): how much of a state is kept; an item is a token.

    x, out: f32 (n_tokens, width); bias, rate: f32 (width,), rates below 0 (arXiv:2412.06464).
    """

    parameters = {"x": pointer, "bias": pointer, "rate": pointer, "out": pointer, "width": i64}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        for token in k.items("token"):
            for lanes, i in k.strips(a["width"], (k.isa.lanes, 1)):
                at = (token * a["width"] + i) * 4
                x = a["x"].load(f32[lanes], at) + a["bias"].load(f32[lanes], i * 4)
                a["out"].store(exp(k, softplus(k, x) * a["rate"].load(f32[lanes], i * 4)), at)

    def reference(self, **a: Any) -> None:
        x = a["x"].astype(np.float64) + a["bias"]
        a["out"][...] = np.exp(np.logaddexp(0, x) * a["rate"])


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

    parameters = {
        "queries": pointer,
        "keys": pointer,
        "values": pointer,
        "decay": pointer,
        "beta": pointer,
        "state": pointer,
        "slots": pointer,
        "positions": pointer,
        "out": pointer,
        "n_k_heads": i64,
        "n_heads": i64,
        "n_rows": pointer,
    }
    writes = frozenset({"out", "state"})

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return sizes["n_heads"] * -(-self.head_dim // STATE_ROWS), ALL_ROWS

    def emit(self, k: OpKernel, **a: Any) -> None:
        head_dim, n_heads = self.head_dim, a["n_heads"]
        runs = -(-head_dim // STATE_ROWS)
        for item in k.items("rows"):
            head, first = item // runs, item % runs * STATE_ROWS
            last = k.minimum(first + STATE_ROWS, head_dim)
            for token in k.range(a["n_rows"].load(i64), name="token"):
                slot, position = (a[n].load(i32, token * 4).to(i64) for n in ("slots", "positions"))
                state = a["state"].at((slot * n_heads + head) * (4 * head_dim * head_dim))
                of_keys = (token * a["n_k_heads"] + head % a["n_k_heads"]) * (4 * head_dim)
                at = token * n_heads + head
                decay, beta = (a[name].load(f32, at * 4) for name in ("decay", "beta"))
                decay = (position > 0).select(decay, 0.0)
                for row in k.range(last, first, name="row"):
                    value = a["values"].load(f32, (at * head_dim + row) * 4)
                    out = self._step(
                        k, state.at(row * (4 * head_dim)), a["queries"].at(of_keys),
                        a["keys"].at(of_keys), value, decay, beta,
                    )  # fmt: skip
                    a["out"].store(out, (at * head_dim + row) * 4)

    def _step(
        self, k: OpKernel, state: Pointer, query: Pointer, key: Pointer,
        value: Value, decay: Value, beta: Value,
    ) -> Value:  # fmt: skip
        """Update a row of the state, and return its product with the query."""
        lanes = min(k.isa.lanes, self.head_dim & -self.head_dim)
        places = range(0, 4 * self.head_dim, 4 * lanes)
        keys = [key.load(f32[lanes], at) for at in places]
        kept = [state.load(f32[lanes], at) * decay for at in places]
        change = (value - _product(k, kept, keys)) * beta
        kept = [k.fma(x, change, s) for x, s in zip(keys, kept, strict=True)]
        for at, s in zip(places, kept, strict=True):
            state.store(s, at)
        return _product(k, kept, [query.load(f32[lanes], at) for at in places])

    def reference(self, **a: Any) -> None:
        heads = -1, self.head_dim
        for token, (slot, position) in enumerate(zip(a["slots"], a["positions"], strict=True)):
            states = a["state"][slot]
            q, k = (
                a[name][token].reshape(heads).astype(np.float64) for name in ("queries", "keys")
            )
            q, k = (np.tile(x, (a["n_heads"] // a["n_k_heads"], 1)) for x in (q, k))
            decay, beta = (a[name][token][:, None, None] for name in ("decay", "beta"))
            v = a["values"][token].reshape(heads)[..., None]
            kept = states * (decay if position else 0.0)
            kept = kept + beta * (v - kept @ k[..., None]) * k[:, None]
            states[...] = kept
            a["out"][token] = (kept @ q[..., None]).reshape(-1)


def _product(k: OpKernel, a: list[Value], b: list[Value]) -> Value:
    """The sum of a * b over vectors and their lanes, in two running sums."""
    sums = [x * y for x, y in zip(a[:2], b[:2], strict=True)]
    for i, (x, y) in enumerate(zip(a[2:], b[2:], strict=True)):
        sums[i % 2] = k.fma(x, y, sums[i % 2])
    return sum(sums[1:], sums[0]).sum()
