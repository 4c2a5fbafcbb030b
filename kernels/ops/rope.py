"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import f32, i32, i64, pointer
from linnet.kernels.isa import ISA
from linnet.kernels.ops.base import Op, OpKernel


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

    parameters = {
        "x": pointer,
        "positions": pointer,
        "table": pointer,
        "n_heads": i64,
        "head_dim": i64,
        "n_pairs": i64,
    }
    writes = frozenset({"x"})

    def items(self, isa: ISA, **sizes: Any) -> tuple[int, int]:
        return 1, 1

    def emit(self, k: OpKernel, **a: Any) -> None:
        n_pairs = a["n_pairs"]
        for token in k.items("token"):
            position = a["positions"].load(i32, token * 4).to(i64)
            cosines = a["table"].at(position * n_pairs * 8)
            sines = cosines.at(n_pairs * 4)
            for head in k.range(a["n_heads"], name="head"):
                x = a["x"].at((token * a["n_heads"] + head) * a["head_dim"] * 4)
                for size, i in k.strips(n_pairs, (k.isa.lanes, 4, 1)):
                    cos, sin = cosines.load(f32[size], i * 4), sines.load(f32[size], i * 4)
                    if self.adjacent:
                        pairs = x.load(f32[2 * size], i * 8)
                        first, second = (pairs.shuffle(range(j, 2 * size, 2)) for j in (0, 1))
                    else:
                        first, second = (
                            x.load(f32[size], i * 4),
                            x.load(f32[size], (i + n_pairs) * 4),
                        )
                    turned = first * cos - second * sin, first * sin + second * cos
                    if self.adjacent:
                        order = [j // 2 + size * (j % 2) for j in range(2 * size)]
                        x.store(turned[0].shuffle(order, turned[1]), i * 8)
                    else:
                        x.store(turned[0], i * 4)
                        x.store(turned[1], (i + n_pairs) * 4)

    def reference(self, **a: Any) -> None:
        x, n = a["x"].reshape(-1, a["n_heads"], a["head_dim"]), a["n_pairs"]
        cos, sin = np.moveaxis(a["table"][a["positions"]].astype(np.float64), 1, 0)[:, :, None]
        halves = [slice(0, 2 * n, 2), slice(1, 2 * n, 2)] if self.adjacent else [
            slice(0, n), slice(n, 2 * n)
        ]  # fmt: skip
        first, second = (x[..., half].astype(np.float64) for half in halves)
        x[..., halves[0]] = first * cos - second * sin
        x[..., halves[1]] = first * sin + second * cos


def rope_table(
    n_positions: int, inverse_frequencies: npt.NDArray[np.float64], first: int = 0
) -> npt.NDArray[np.float32]:
    """(n_positions, 2, n_pairs): cosines and sines of position times each frequency, from the
    position `first` on."""
    angles = np.arange(first, first + n_positions)[:, None] * inverse_frequencies
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
