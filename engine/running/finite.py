"""A pass's logits must be finite: what is not is an error of the model, and gives no text."""

from __future__ import annotations

import math

from linnet.engine.sampling.candidates import NonFiniteLogits
from linnet.engine.sampling.logits import Floats, Logits


def checked(logits: Logits) -> Logits:
    """The same logits. Raises NonFiniteLogits where one is NaN or infinite."""
    if math.isnan(logits.blocks.total):
        finite(logits.values)
    return logits


def finite(logits: Floats) -> Floats:
    """The same logits. Raises NonFiniteLogits where one is NaN or infinite."""
    for extreme in (logits.min(), logits.max()):  # of NaN and numbers, both are NaN
        if not math.isfinite(extreme):
            raise NonFiniteLogits(f"the model's logits are not all finite: {extreme} is among them")
    return logits
