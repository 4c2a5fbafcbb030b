"""Rotary position embedding: its frequencies, and how contexts are stretched."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.ops.rope import rope_table
from linnet.kernels.runtime.program import Buffer
from linnet.models.parts.config import MAX_CONTEXT, Config, Keys
from linnet.models.parts.errors import ModelError
from linnet.models.parts.graph import Graph
from linnet.models.parts.heads import Heads
from linnet.models.parts.positions import PositionTable
from linnet.models.parts.weights import Floats, Weights

Frequencies = npt.NDArray[np.float64]
SCALINGS = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True, slots=True, eq=False)
class RotaryEmbedding:
    """Rotates pair i of each head by position * `frequencies[i]` radians, and multiplies it by
    `magnitude` (arXiv:2104.09864).

    `adjacent`: pair i is columns 2i and 2i + 1, as in Llama's files; else i and i + n_rot / 2, as
    in GPT-NeoX. `beyond`: the frequencies for contexts of more than `n_ctx_original` positions.
    """

    frequencies: Frequencies
    adjacent: bool = False
    magnitude: float = 1.0
    beyond: Frequencies | None = None
    n_ctx_original: int = 0

    @classmethod
    def load(
        cls, keys: Keys, weights: Weights, config: Config, *, adjacent: bool
    ) -> RotaryEmbedding:
        """What a file says of its main rotation: scaled, with factors, or neither."""
        plain = frequencies(config.n_rot, config.rope_theta)
        n_original = keys.integer(
            "rope.scaling.original_context_length", 0, MAX_CONTEXT, default=config.n_ctx_train
        )
        kind = keys.text("rope.scaling.type", default="linear")
        if kind not in SCALINGS:
            raise keys.error("rope.scaling.type", kind, f"one of {', '.join(SCALINGS)}")
        factor = scaling_factor(keys)
        magnitude = keys.number("rope.scaling.attn_factor", 0.0, 1e6, default=1.0)
        scaled = plain if kind == "none" else plain / factor
        ramp = keys.number("rope.scaling.yarn_ext_factor", -1e6, 1e6, default=-1.0)
        if ramp >= 0 and ramp != (kind == "yarn"):
            raise keys.error("rope.scaling.yarn_ext_factor", ramp, "1 with yarn, 0 without, or -1")
        if kind == "yarn":
            part = kept(keys, config.n_rot, config.rope_theta, n_original or config.n_ctx_train)
            scaled = plain * part + scaled * (1 - part)
            log_multiplier = keys.number("rope.scaling.yarn_log_multiplier", 0.0, 1e3, default=0.0)
            magnitude *= attention_factor(factor) / attention_factor(factor, log_multiplier)
        factors: dict[str, Any] = {
            name: _factors(weights, f"{name}.weight", config.n_rot // 2)
            for name in ("rope_freqs", "rope_factors_short", "rope_factors_long")
            if f"{name}.weight" in weights
        }
        if "rope_freqs" in factors:
            return cls(scaled / factors["rope_freqs"], adjacent, magnitude)
        return cls(
            frequencies=scaled / factors.get("rope_factors_short", 1.0),
            adjacent=adjacent,
            magnitude=magnitude,
            beyond=scaled / factors.get("rope_factors_long", 1.0),
            n_ctx_original=n_original or config.n_ctx_train,
        )

    def record(self, g: Graph, heads: Heads) -> Heads:
        q = self.rotate(g, heads.q, heads.head_dim)
        k = self.rotate(g, heads.k, heads.head_dim) if heads.k else None
        return replace(heads, q=q, k=k)

    def rotate(self, g: Graph, x: Buffer, head_dim: int) -> Buffer:
        """x (n_tokens, n_heads * head_dim), the first columns of every head in place."""
        return g.rope(x, self, head_dim=head_dim, adjacent=self.adjacent)

    def table(self, n_ctx: int) -> PositionTable:
        """Cosines and sines at each position (n_ctx, 2, n_pairs)."""
        far = self.beyond is not None and n_ctx > self.n_ctx_original
        chosen = self.beyond if far and self.beyond is not None else self.frequencies
        magnitude = np.float32(self.magnitude)
        shape = n_ctx, 2, chosen.size
        return PositionTable(shape, lambda first, n: rope_table(n, chosen, first) * magnitude)


def scaling_factor(keys: Keys) -> float:
    """How many times as long the context is made; 1 for no scaling. Files of 2023 have it under
    another key."""
    old = keys.factor("rope.scale_linear")
    return keys.factor("rope.scaling.factor") if keys.has("rope.scaling.factor") else old


def _factors(weights: Weights, name: str, n_pairs: int) -> Floats:
    factors = weights.vector(name, n_pairs)
    if not (np.isfinite(factors) & (factors != 0)).all():
        raise ModelError(f"{name}: its numbers divide frequencies; they must be finite, and not 0")
    return factors


def frequencies(n_rot: int, theta: float) -> Frequencies:
    """theta^(-2i / n_rot) radians a position for pair i (arXiv:2104.09864, eq. 15)."""
    radians: Frequencies = theta ** (-np.arange(0, n_rot, 2) / n_rot)
    return radians


def kept(keys: Keys, n_rot: int, theta: float, n_ctx_original: int) -> Frequencies:
    """The share of each frequency that YaRN keeps (arXiv:2309.00071, section 3.2).

    It is 1 for pairs that rotate more than beta_fast times within the original context, 0 for those
    that rotate less than beta_slow times, and a ramp between.
    """

    if theta <= 1.0:
        raise keys.error("rope.freq_base", theta, "more than 1 where the scaling is yarn")

    def pair_of(rotations: float) -> float:
        """The number, a fraction, of the pair that rotates so often; within 0 and n_rot - 1."""
        wavelength = n_ctx_original / rotations
        pair = n_rot * math.log(wavelength / (2 * math.pi)) / (2 * math.log(theta))
        return min(max(0.0, pair), n_rot - 1.0)

    fast = keys.factor("rope.scaling.yarn_beta_fast", default=32.0)
    slow = keys.factor("rope.scaling.yarn_beta_slow")
    first, last = math.floor(pair_of(fast)), math.ceil(pair_of(slow))
    ramp = (np.arange(n_rot // 2) - first) / max(0.001, last - first)
    return 1.0 - np.clip(ramp, 0.0, 1.0)


def attention_factor(scale: float, multiplier: float = 1.0) -> float:
    """YaRN's factor of cosines and sines for a context `scale` times as long (arXiv:2309.00071,
    eq. 22)."""
    return 0.1 * multiplier * math.log(scale) + 1.0 if scale > 1.0 else 1.0
