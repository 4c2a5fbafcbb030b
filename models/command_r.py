"""Command R and R+ (Cohere)."""

from __future__ import annotations

from linnet.models.stablelm import StableLM


class CommandR(StableLM):
    """One layer norm a layer; neighbours are turned together, and logits are scaled."""

    adjacent = True

    def read_keys(self) -> None:
        self.logit_scale = self.keys.factor("logit_scale")
