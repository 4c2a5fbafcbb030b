"""How positions turn queries and keys: frequencies, and how contexts are stretched."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.kernels.ops.rope import rope_table
from linnet.models.parts.config import MAX_CONTEXT, Config, Keys
from linnet.models.parts.errors import ModelError
from linnet.models.parts.positions import PositionTable
from linnet.models.parts.weights import Floats, Weights

Frequencies = npt.NDArray[np.float64]
SCALINGS = ("none", "linear", "yarn", "longrope")


@dataclass(frozen=True, slots=True, eq=False)
class Rope:
    """Pair i of a head turns by `frequencies[i]` radians a position, and grows by `magnitude`.

    `adjacent`: pairs are neighbours, as in Llama's files; else half of what is rotated apart, as in
    GPT-NeoX. `beyond`: the frequencies for contexts of more than `n_ctx_original` positions.
    """

    frequencies: Frequencies
    adjacent: bool = False
    magnitude: float = 1.0
    beyond: Frequencies | None = None
    n_ctx_original: int = 0

    @classmethod
    def load(cls, keys: Keys, weights: Weights, config: Config, *, adjacent: bool) -> Rope:
        """What a file says of its main rotation: scaled, with factors, or neither."""
        plain = frequencies(config.n_rot, config.rope_theta)
        n_original = keys.integer(
            "rope.scaling.original_context_length", 0, MAX_CONTEXT, default=config.n_ctx_train
        )
        kind = keys.text("rope.scaling.type", default="linear")
        if kind not in SCALINGS:
            raise keys.error("rope.scaling.type", kind, f"one of {', '.join(SCALINGS)}")
        factor = keys.factor("rope.scaling.factor")
        magnitude = keys.number("rope.scaling.attn_factor", 0.0, 1e6, default=1.0)
        scaled = plain if kind == "none" else plain / factor
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

    def with_magnitude(self, magnitude: float) -> Rope:
        return replace(self, magnitude=magnitude)

    @property
    def shape(self) -> tuple[int, ...]:
        """What a row of its table has: cosines and sines (2, n_pairs)."""
        return 2, self.frequencies.size

    def table(self, data: Floats) -> PositionTable:
        """Cosines and sines at each position, in `data` (n_ctx, 2, n_pairs)."""
        far = self.beyond is not None and len(data) > self.n_ctx_original
        chosen = self.beyond if far and self.beyond is not None else self.frequencies
        magnitude = np.float32(self.magnitude)
        return PositionTable(data, lambda first, n: rope_table(n, chosen, first) * magnitude)


def _factors(weights: Weights, name: str, n_pairs: int) -> Floats:
    factors = weights.vector(name, n_pairs)
    if not (np.isfinite(factors) & (factors != 0)).all():
        raise ModelError(f"{name}: its numbers divide frequencies; they must be finite, and not 0")
    return factors


def frequencies(n_rot: int, theta: float) -> Frequencies:
    """theta^(-2i / n_rot) radians a position for pair i (arXiv:2104.09864, eq. 15)."""
    turns: Frequencies = theta ** (-np.arange(0, n_rot, 2) / n_rot)
    return turns


def kept(keys: Keys, n_rot: int, theta: float, n_ctx_original: int) -> Frequencies:
    """How much of each frequency YaRN keeps: 1 where pairs turn often within the original context,
    0 where they turn less than once, a ramp between (arXiv:2309.00071, section 3.2)."""

    if theta <= 1.0:
        raise keys.error("rope.freq_base", theta, "more than 1 where the scaling is yarn")

    def pair_that_turns(times: float) -> float:
        """Its number, a fraction, within what there is."""
        n_positions_a_turn = n_ctx_original / times
        pair = n_rot * math.log(n_positions_a_turn / (2 * math.pi)) / (2 * math.log(theta))
        return min(max(0.0, pair), n_rot - 1.0)

    fast = keys.factor("rope.scaling.yarn_beta_fast", default=32.0)
    slow = keys.factor("rope.scaling.yarn_beta_slow")
    first, last = math.floor(pair_that_turns(fast)), math.ceil(pair_that_turns(slow))
    ramp = (np.arange(n_rot // 2) - first) / max(0.001, last - first)
    return 1.0 - np.clip(ramp, 0.0, 1.0)


def attention_factor(scale: float, multiplier: float = 1.0) -> float:
    """By how much longer contexts sharpen attention (arXiv:2309.00071, eq. 22)."""
    return 0.1 * multiplier * math.log(scale) + 1.0 if scale > 1.0 else 1.0
