"""Quant types that no file has: of every block and group of weights that kernels take."""

from __future__ import annotations

import hashlib
import inspect
from functools import cache
from typing import Any

import numpy as np

from linnet.kernels.ir import f16, f32
from linnet.kernels.quants import QuantType
from linnet.kernels.quants.base import BLOCKS, GROUPS, Floats, Records, Unpacked
from linnet.kernels.quants.blocks import Blocks


@cache
def made(block_size: int, group_size: int, *, shifted: bool) -> QuantType:
    """A type of bytes with an F16 scale for each group: d * (q - 128), or d * q + m if `shifted`.

    Raises ValueError for sizes that are refused.
    """
    n = block_size // group_size

    class Made(QuantType):
        block, group = block_size, group_size
        fields = {"d": ("<f2", n), "m": ("<f2", n), "qs": ("u1", block_size)}
        largest, zero = 255, 0 if shifted else 128

        def unpack(self, b: Blocks) -> Unpacked:
            def of_groups(field: str) -> Any:
                halves = [b.bytes(field, 0, 2 * n, block=i) for i in range(b.n_blocks)]
                return b.k.concat([half.bits(f16[n]) for half in halves]).to(f32)

            lanes = [b.bytes("qs", block=i) for i in range(b.n_blocks)]
            return Unpacked(lanes, of_groups("d"), of_groups("m") if shifted else None)

        def decode(self, blocks: Records) -> Floats:
            d, m = (blocks[f].astype(np.float32).reshape(-1, n, 1) for f in ("d", "m"))
            q = blocks["qs"].reshape(-1, n, group_size).astype(np.float32)
            weights: Floats = d * q + m if shifted else d * (q - 128)
            return weights.reshape(-1, block_size)

    # The kernel cache knows the package's sources alone.
    source = hashlib.sha256(inspect.getsource(made).encode()).hexdigest()[:8]
    Made.name = f"made_{block_size}_{group_size}_{shifted}_{source}"
    return Made()


MADE_TYPES = [
    made(block, group, shifted=shifted)
    for block in BLOCKS
    for group, shifted in zip(GROUPS, (False, True), strict=True)
]
