"""Seed-OSS (ByteDance)."""

from __future__ import annotations

from linnet.models.parts.transformer import Transformer


class SeedOss(Transformer):
    """Biases of queries, keys and values, which the file holds; another name for a norm."""

    ffn_norm = "post_attention_norm"
