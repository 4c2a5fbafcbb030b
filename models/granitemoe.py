"""Granite with experts (IBM)."""

from __future__ import annotations

from linnet.models.granite import Granite
from linnet.models.parts.blocks import Block
from linnet.models.parts.experts import Experts, with_shared
from linnet.models.parts.weights import Weights


class GraniteMoe(Granite):
    """Granite, with experts in every layer, and in some models a network that all tokens take."""

    def feed_forward(self, w: Weights, i: int) -> Block:
        experts = Experts.load(w, self.config, self.keys)
        return with_shared(w, self.config, self.keys, experts)
