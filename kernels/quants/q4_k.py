"""Q4_K: 256 weights of four bits; every 32 have a scale and a minimum of six bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linnet.kernels.ir import Value, f16, f32, u8, u16, u32
from linnet.kernels.quants.base import Bytes, Factors, Floats, QuantType, Records, Unpacked
from linnet.kernels.quants.blocks import Blocks, eights, shifted_eights
from linnet.kernels.quants.search import nibble_pairs, with_lines

# The low nibbles of 64 bytes hold one group of each of two pairs, the high ones the other.
PAIRS_APART = (0, 2, 1, 3, 4, 6, 5, 7)
NIBBLE_SHIFTS = np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)


class Q4_K(QuantType):
    """256 weights in 144 bytes; w = d * scale * q - dmin * minimum (ggml block_q4_K)."""

    name, id, block = "Q4_K", 12, 256
    fields = {"d": ("<f2", 1), "dmin": ("<f2", 1), "scales": ("u1", 12), "qs": ("u1", 128)}
    largest = 15
    order = PAIRS_APART

    def unpack(self, b: Blocks) -> Unpacked:
        halves = [b.bytes("qs", 64 * half, 64) for half in range(2)]
        lanes = [lanes for q in halves for lanes in (q & 15, q >> 4)]
        return Unpacked(lanes, *scales_and_offsets(b))

    def runs(self, b: Blocks) -> list[Value]:
        """High nibbles stay where they are if the dot product takes such lanes: 16 times as much,
        of a 16th of the scale."""
        halves = [b.bytes("qs", 64 * half, 64) for half in range(2)]
        runs = [eights(pairs(run), *halves) for run in range(4)]
        if not b.k.isa.dots_bytes:
            return [shifted_eights(run, [0, 4] * 4) & 15 for run in runs]
        keep = b.k.constant(u8[64], ([15] * 8 + [240] * 8) * 4)
        return [run & keep for run in runs]

    def factors(self, rows: Sequence[Blocks]) -> list[Factors]:
        return [factors_of_two(*rows, odd=1 / 16 if rows[0].k.isa.dots_bytes else 1)]

    def decode(self, blocks: Records) -> Floats:
        qs = blocks["qs"].reshape(-1, 4, 1, 32) >> NIBBLE_SHIFTS & 15
        scales, minimums = scales_and_minimums_of(blocks)
        weights = scales[..., None] * qs.reshape(-1, 8, 32).astype(np.float32)
        floats: Floats = (weights - minimums[..., None]).reshape(-1, 256)
        return floats

    def encode(self, weights: Floats, importance: Floats | None = None) -> Records:
        records, q = with_levels(self, weights, importance)
        records["qs"] = nibbles_by_pair(q)
        return records


def scales_and_offsets(b: Blocks) -> tuple[Value, Value]:
    """f32[8] each: d * scale and -dmin * minimum of the eight groups.

    Bytes 0..3 hold scales 0..3 in six bits, bytes 4..7 minimums 0..3; bytes 8..11 hold the low
    four bits of scales and minimums 4..7, whose high two bits top the first eight bytes.
    """
    first, last = b.bytes("scales", 0, 8), b.bytes("scales", 8, 4)
    low = first & 63
    high = b.k.concat([last & 15, last >> 4]) | ((first >> 6) << 4)
    scales = b.k.concat([low[:4], high[:4]])
    minimums = b.k.concat([low[4:], high[4:]])
    return scales.to(f32) * b.halves("d")[0], minimums.to(f32) * -b.halves("dmin")[0]


def pairs(run: int) -> list[int]:
    """The eights of `qs` that hold the run of groups 0..7: pairs of groups are in the same ones."""
    return [run + 4 * pair for pair in range(4) for _ in range(2)]


def factors_of_two(a: Blocks, b: Blocks, *, odd: float = 1) -> tuple[Value, Value]:
    """What `factors` gives: the headers of both rows, decoded side by side. `odd`: what scales of
    groups 1, 3, 5 and 7 are multiplied by.

    As words of four bytes, the six-bit numbers are scales 0..3, scales 4..7, minimums 0..3,
    minimums 4..7; the second and the fourth take their low bits from the header's last word.
    """
    k, headers = a.k, a.k.concat([row.header(16) for row in (a, b)])
    words = headers.bits(u32[8])
    low = words.shuffle([1, 3, 2, 3, 5, 7, 6, 7]) >> k.constant(words.type, [0, 0, 0, 4] * 2)
    top = words.shuffle([0, 1, 0, 2, 4, 5, 4, 6]) >> 2
    low = low & k.constant(words.type, [0x3F3F3F3F, 0x0F0F0F0F] * 4)
    numbers = low | (top & k.constant(words.type, [0, 0x30303030] * 4))
    # In twos, as sums are folded: 0 and 1 of a, of b, then 2 and 3, ...
    twos, order = numbers.bits(u16[16]), [i + j for i in range(4) for j in (0, 8)]
    scales, minimums = (
        twos.shuffle([start + i for i in order]).bits(u8[16]).to(f32) for start in (0, 4)
    )
    d = k.concat([row.header(4) for row in (a, b)]).bits(f16[4]).to(f32)
    each = d.shuffle([0, 0, 2, 2, 1, 1, 3, 3]) * k.constant(f32[8], [1, odd, 1, odd, *[-1] * 4])
    return scales * each[:4].repeat(4), minimums * each[4:].repeat(4)


def scales_and_minimums_of(blocks: Records) -> tuple[Floats, Floats]:
    """(n, 8) each: d * scale and dmin * minimum."""
    packed: Bytes = blocks["scales"]
    first, last = packed[:, :8], packed[:, 8:]
    high = np.concatenate([last & 15, last >> 4], axis=1) | (first >> 6 << 4)
    scales = np.concatenate([first[:, :4] & 63, high[:, :4]], axis=1).astype(np.float32)
    minimums = np.concatenate([first[:, 4:] & 63, high[:, 4:]], axis=1).astype(np.float32)
    d, dmin = (blocks[name].astype(np.float32)[:, None] for name in ("d", "dmin"))
    return d * scales, dmin * minimums


def with_levels(
    type: QuantType, weights: Floats, importance: Floats | None
) -> tuple[Records, Bytes]:  # fmt: skip
    """Records of weights (n, 256) that lack their levels, and these: (n, 8, 32)."""
    lines = with_lines(weights, importance, 32, type.largest, 63)
    records = np.empty(len(weights), type.dtype)
    records["d"], records["dmin"] = lines.d, lines.dmin
    records["scales"] = packed_scales(lines.scales, lines.minimums)
    return records, lines.q


def packed_scales(scales: Bytes, minimums: Bytes) -> Bytes:
    """(n, 8) each -> (n, 12), as `scales_and_offsets` reads them."""
    low = np.concatenate([scales[:, :4], minimums[:, :4]], axis=1)
    high = np.concatenate([scales[:, 4:], minimums[:, 4:]], axis=1)
    last = nibble_pairs(scales[:, 4:], minimums[:, 4:])
    return np.concatenate([low | 64 * (high // 16), last], axis=1)


def nibbles_by_pair(q: Bytes) -> Bytes:
    """(n, 8, 32) levels -> `qs` (n, 128): the low four bits of group 2i below those of 2i + 1."""
    pairs = q.reshape(-1, 4, 2, 32)
    return nibble_pairs(pairs[:, :, 0], pairs[:, :, 1]).reshape(-1, 128)
