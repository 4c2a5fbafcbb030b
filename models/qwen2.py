"""Qwen 2 and 2.5 (arXiv:2407.10671)."""

from __future__ import annotations

from linnet.models.parts.transformer import Transformer


class Qwen2(Transformer):
    """Queries, keys and values have biases, which the file holds."""
