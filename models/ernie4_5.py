"""ERNIE 4.5 (Baidu)."""

from __future__ import annotations

from linnet.models.parts.transformer import Transformer


class Ernie45(Transformer):
    """Llama without scales."""

    adjacent = True
