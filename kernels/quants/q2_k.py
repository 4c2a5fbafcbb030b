"""Q2_K: 256 weights of two bits; every 16 have a scale and a minimum of four bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet.kernels.ir import Value, f16, f32, i16, u8
from linnet.kernels.quants.base import Factors, Floats, QuantType, Records, Unpacked
from linnet.kernels.quants.blocks import Blocks, eights, shifted, shifted_eights
from linnet.kernels.quants.search import nibble_pairs, pairs_of_bits, with_lines

PAIRS_OF_BITS = np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)


class Q2_K(QuantType):
    """256 weights in 84 bytes; w = d * scale * q - dmin * minimum (ggml block_q2_K).

    Each half of the block is four runs of 32: pairs of bits of the same 32 bytes.
    """

    name, id, block, group = "Q2_K", 10, 256, 16
    fields = {"scales": ("u1", 16), "qs": ("u1", 64), "d": ("<f2", 1), "dmin": ("<f2", 1)}
    largest = 3
    folded = 45, 0

    def unpack(self, b: Blocks) -> Unpacked:
        halves = [b.bytes("qs", 32 * half, 32).repeat(2) for half in range(2)]
        lanes = [shifted(q, bits) & 3 for q in halves for bits in ([0, 2], [4, 6])]
        packed = b.bytes("scales")
        multipliers, unit = packed & 15, b.halves("d")[0]
        offsets = (packed >> 4).to(f32) * -b.halves("dmin")[0]
        return Unpacked(lanes, multipliers.to(f32) * unit, offsets, multipliers.to(i16), unit)

    def runs(self, b: Blocks) -> list[Value]:
        """Pairs of bits stay where they are if the dot product takes such lanes: 1, 4, 16 and 64
        times as much, of as many times less of the scale."""
        if not b.k.isa.dots_bytes:
            q, bits = b.bytes("qs"), [0, 2, 4, 6] * 2
            return [shifted_eights(eights(four_runs(run), q), bits) & 3 for run in range(4)]
        pairs = [3 << bits for bits in (0, 2, 4, 6) for _ in range(8)]
        first, last = (b.k.constant(u8[64], bits) for bits in (pairs + [0] * 32, [0] * 32 + pairs))
        return [
            (b.bytes("qs", 8 * run, 8).repeat(8) & first)
            | (b.bytes("qs", 32 + 8 * run, 8).repeat(8) & last)
            for run in range(4)
        ]

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        k, n = rows[0].k, len(rows)
        d = k.concat([row.footer(4) for row in rows]).bits(f16[2 * n]).to(f32)
        parts = [1, 1 / 4, 1, 1 / 4, 1 / 16, 1 / 64, 1 / 16, 1 / 64] * 2
        each = k.constant(f32[16], parts if k.isa.dots_bytes else 1)
        packed = k.concat(self.in_fold_order([row.bytes("scales") for row in rows]))
        low, high = packed & 15, packed >> 4
        return [
            (
                low[16 * i : 16 * (i + 1)].to(f32) * (each * d[2 * i]),
                high[16 * i : 16 * (i + 1)].to(f32) * -d[2 * i + 1],
            )
            for i in range(n)
        ]

    def decode(self, blocks: Records) -> Floats:
        q = blocks["qs"].reshape(-1, 2, 1, 32) >> PAIRS_OF_BITS & 3
        d, dmin = (blocks[name].astype(np.float32)[:, None] for name in ("d", "dmin"))
        scales = d * (blocks["scales"] & 15).astype(np.float32)
        minimums = dmin * (blocks["scales"] >> 4).astype(np.float32)
        weights = scales[..., None] * q.reshape(-1, 16, 16).astype(np.float32)
        floats: Floats = (weights - minimums[..., None]).reshape(-1, 256)
        return floats

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        lines = with_lines(weights, importance, 16, self.largest, 15)
        records = np.empty(len(weights), self.dtype)
        records["d"], records["dmin"] = lines.d, lines.dmin
        records["scales"] = nibble_pairs(lines.scales, lines.minimums)
        records["qs"] = pairs_of_bits(lines.q.reshape(-1, 2, 4, 32))
        return records


def four_runs(run: int) -> list[int]:
    """The eights of `qs` that hold the run of groups 0..7: four groups are in the same one."""
    return [run] * 4 + [run + 4] * 4
