"""Granite with experts (IBM)."""

from __future__ import annotations

from linnet.models.granite import Granite


class GraniteMoe(Granite):
    """Granite, whose files have experts or not under either name."""
