"""Q6_K: 256 weights of six bits; every 16 have a scale of eight bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet.kernels.ir import Value, f16, f32, i8
from linnet.kernels.quants.base import Factors, Floats, QuantType, Records, Unpacked
from linnet.kernels.quants.blocks import Blocks, eights, rotated_eights, shifted, shifted_eights
from linnet.kernels.quants.search import Levels, nibble_pairs, pairs_of_bits, with_scales


class Q6_K(QuantType):
    """256 weights in 210 bytes; w = d * scale * (q - 32) (ggml block_q6_K).

    Each half of the block holds 128 weights: four runs of 32, whose low four bits are the low
    halves, then the high halves, of 64 bytes of ql, and whose high bits are pairs of bits of the
    same 32 bytes of qh.
    """

    name, id, block, group = "Q6_K", 14, 256, 16
    fields = {"ql": ("u1", 128), "qh": ("u1", 64), "scales": ("u1", 16), "d": ("<f2", 1)}
    largest, zero = 63, 32

    def unpack(self, b: Blocks) -> Unpacked:
        lanes = []
        for half in range(2):
            low = b.bytes("ql", 64 * half, 64)
            high = b.bytes("qh", 32 * half, 32).repeat(2)
            lanes += [
                (low & 15) | ((shifted(high, [0, 2]) & 3) << 4),
                (low >> 4) | (shifted(high, [0, 2]) & 48),
            ]
        scales = b.bytes("scales").bits(i8[16]).to(f32) * b.halves("d")[0]
        return Unpacked(lanes, scales)

    def runs(self, b: Blocks) -> list[Value]:
        low, high = [b.bytes("ql", 64 * half, 64) for half in range(2)], b.bytes("qh")
        lanes = []
        for run in range(4):
            places = [run, run + 4, run, run + 4]
            four = shifted_eights(
                eights([*places, *(i + 8 for i in places)], *low), [0, 0, 4, 4] * 2
            )
            two = rotated_eights(eights([run] * 4 + [run + 4] * 4, high), [4, 2, 0, -2] * 2)
            lanes.append(four & 15 | two & 48)
        return lanes

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        d = rows[0].k.concat([row.footer(4) for row in rows]).bits(f16[2 * len(rows)]).to(f32)
        scales = self.in_fold_order([row.bytes("scales").bits(i8[16]) for row in rows])
        return [(scale.to(f32) * d[2 * i + 1], None) for i, scale in enumerate(scales)]

    def decode(self, blocks: Records) -> Floats:
        shifts = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
        ql = blocks["ql"].reshape(-1, 2, 1, 64) >> shifts[:, :, ::2] & 15
        qh = blocks["qh"].reshape(-1, 2, 1, 32) >> shifts & 3
        q = (ql.reshape(-1, 16, 16) | (qh << 4).reshape(-1, 16, 16)).astype(np.float32) - 32
        scales = blocks["scales"].view(np.int8).astype(np.float32)
        d = blocks["d"].astype(np.float32)[:, None] * scales
        return (d[..., None] * q).reshape(-1, 256)

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        records = np.empty(len(weights), self.dtype)
        records["d"], scales, q = with_scales(weights, importance, 16, Levels(-32, 31), 128)
        records["scales"] = scales.astype(np.int8).view(np.uint8)
        q = q.reshape(-1, 2, 4, 32)
        records["ql"] = nibble_pairs(q[:, :, :2], q[:, :, 2:]).reshape(-1, 128)
        records["qh"] = pairs_of_bits(q // 16)
        return records
