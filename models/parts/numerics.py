"""How precisely a model is computed: what products multiply, and what caches keep."""

from __future__ import annotations

from dataclasses import dataclass

from linnet.kernels.ops.cache_types import CACHE_TYPES, CacheType
from linnet.kernels.products.linear import ACTIVATIONS


@dataclass(frozen=True, slots=True)
class Numerics:
    """`activations`: what packed weights are multiplied by, "int8" or "f32". `key_type`,
    `value_type`: how keys and values are stored.

    Raises ValueError for other activations.
    """

    activations: str = "int8"
    key_type: CacheType = CACHE_TYPES["f16"]
    value_type: CacheType = CACHE_TYPES["f16"]

    def __post_init__(self) -> None:
        if self.activations not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activations is {self.activations!r}; it must be one of {known}")

    @classmethod
    def of(
        cls, activations: str, cache_type_k: str | None = None, cache_type_v: str | None = None
    ) -> Numerics:
        """With caches of these types, by name; None for what goes with the activations: f32 with
        f32, f16 with int8. Raises ValueError for a type there is not."""
        usual = "f32" if activations == "f32" else "f16"
        given = {"cache_type_k": cache_type_k, "cache_type_v": cache_type_v}
        for name, type in given.items():
            if type is not None and type not in CACHE_TYPES:
                raise ValueError(f"{name} is {type!r}; it must be one of {', '.join(CACHE_TYPES)}")
        return cls(activations, *(CACHE_TYPES[type or usual] for type in given.values()))


INT8 = Numerics()
