"""How keys and values are stored: to add a way, a class in a file here and its line below."""

from linnet.kernels.ir import f16, f32
from linnet.kernels.ops.cache_types.base import LANES, CacheType
from linnet.kernels.ops.cache_types.q8_0 import Q8_0

CACHE_TYPES = {type.name: type for type in (CacheType(f16), CacheType(f32), Q8_0())}

__all__ = ["CACHE_TYPES", "LANES", "CacheType"]
