"""SmolLM 3 (Hugging Face)."""

from __future__ import annotations

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class SmolLM3(Transformer):
    """Llama, but every fourth layer has no rotation (arXiv:2501.18795)."""

    adjacent = True

    def attention(self, w: Weights, i: int) -> Block:
        return Attention.load(w, self.config, None if (i + 1) % 4 == 0 else self.rope)
