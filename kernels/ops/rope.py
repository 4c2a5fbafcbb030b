"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import Value
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Array, Float32s, Int, Int32s, Numbers, Op, OpKernel


@dataclass(frozen=True)
class Rope(Op):
    """Rotate pairs of x (n_tokens, n_heads, head_dim) in place; an item is a token.

    `adjacent`: pairs are (2i, 2i + 1), as in Llama's GGUF files; else (i, i + n_pairs), as in
    GPT-NeoX. table: f32 (n_positions, 2, n_pairs), cosines then sines.

        for token in items:
            for head, for i in pairs:
                a, b = pair i of x[token][head]
                pair = a * cos - b * sin, a * sin + b * cos      # at the token's position
    """

    adjacent: bool

    writes = frozenset({"x"})
    picks = {"table": "positions"}

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def emit(
        self, k: OpKernel, x: Float32s, positions: Int32s, table: Float32s,
        n_heads: Int, head_dim: Int, n_pairs: Int,
    ) -> None:  # fmt: skip
        rotate = _rotate_adjacent if self.adjacent else _rotate_halves
        for token in k.items("token"):
            cosines = table.at(positions.index(token) * n_pairs * 2)
            sines = cosines.at(n_pairs)
            for head in k.range(n_heads, name="head"):
                numbers = x.at((token * n_heads + head) * head_dim)
                for size, i in k.strips(n_pairs, (k.isa.lanes, 4, 1)):
                    rotate(numbers, i, n_pairs, cosines.load(i, size), sines.load(i, size))

    def reference(
        self, x: Array, positions: Array, table: Array, n_heads: int, head_dim: int, n_pairs: int
    ) -> None:
        heads, n = x.reshape(-1, n_heads, head_dim), n_pairs
        cos, sin = np.moveaxis(table[positions].astype(np.float64), 1, 0)[:, :, None]
        one, other = (
            (slice(0, 2 * n, 2), slice(1, 2 * n, 2)) if self.adjacent
            else (slice(0, n), slice(n, 2 * n))
        )  # fmt: skip
        a, b = (heads[..., half].astype(np.float64) for half in (one, other))
        heads[..., one] = a * cos - b * sin
        heads[..., other] = a * sin + b * cos


def _rotate_adjacent(x: Numbers, i: Value, n_pairs: Value, cos: Value, sin: Value) -> None:
    """The pairs (2i, 2i + 1) of a head, as many from the i-th on as `cos` and `sin` have lanes."""
    size = cos.type.lanes
    pairs = x.load(i * 2, 2 * size)
    a, b = pairs.shuffle(range(0, 2 * size, 2)), pairs.shuffle(range(1, 2 * size, 2))
    interleaved = [j // 2 + size * (j % 2) for j in range(2 * size)]
    x.store((a * cos - b * sin).shuffle(interleaved, a * sin + b * cos), i * 2)


def _rotate_halves(x: Numbers, i: Value, n_pairs: Value, cos: Value, sin: Value) -> None:
    """The pairs (i, i + n_pairs) of a head, as many from the i-th on as `cos` and `sin` have
    lanes."""
    a, b = x.load(i, cos.type.lanes), x.load(i + n_pairs, cos.type.lanes)
    first, second = a * cos - b * sin, a * sin + b * cos
    x.store(first, i)
    x.store(second, i + n_pairs)


def rope_table(
    n_positions: int, inverse_frequencies: npt.NDArray[np.float64], first: int = 0
) -> npt.NDArray[np.float32]:
    """(n_positions, 2, n_pairs): cosines and sines of position times each frequency, from the
    position `first` on."""
    angles = np.arange(first, first + n_positions)[:, None] * inverse_frequencies
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
