"""How precisely a model is computed: what products multiply, and what caches keep."""

from __future__ import annotations

from dataclasses import dataclass

from linnet.kernels.ops.cache_types import CACHE_TYPES, CacheType

ACTIVATIONS = ("int8", "f32")


@dataclass(frozen=True, slots=True)
class Numerics:
    """`activations`: what packed weights are multiplied by, "int8" or "f32". `cache_type`: how keys
    and values are stored.

    Raises ValueError for other activations.
    """

    activations: str = "int8"
    cache_type: CacheType = CACHE_TYPES["f16"]

    def __post_init__(self) -> None:
        if self.activations not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activations is {self.activations!r}; it must be one of {known}")

    @classmethod
    def of(cls, activations: str) -> Numerics:
        """With the type of cache that goes with them: f32 with f32, f16 with int8."""
        return cls(activations, CACHE_TYPES["f32" if activations == "f32" else "f16"])


INT8 = Numerics()
