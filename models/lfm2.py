"""LFM2 (Liquid AI)."""

from __future__ import annotations

from linnet.models.parts.attention import Attention
from linnet.models.parts.blocks import Block
from linnet.models.parts.config import MAX_CONTEXT, MAX_HEADS
from linnet.models.parts.recurrent import ShortConv
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Weights


class Lfm2(Transformer):
    """Most layers are short convolutions: those which the file gives no keys."""

    last_norm = "token_embd_norm"

    def attention(self, w: Weights, i: int) -> Block:
        c, key = self.config, "attention.head_count_kv"
        n_kv_heads = self.keys.each(key, 0, MAX_HEADS, n_layers=c.n_layers)[i]
        if not n_kv_heads:
            return ShortConv.load(w, c, self.keys)
        window = self.keys.integer("attention.sliding_window", 0, MAX_CONTEXT, default=0) or None
        norms = self.head_norms(w)
        return Attention.load(w, c, norms, self.rope, n_kv_heads=n_kv_heads, window=window)
