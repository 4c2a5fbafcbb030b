"""A model in a few words, as llama-bench has them: "llama 135M Q4_K - Medium"."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from linnet.engine.gguf.file_types import FILE_TYPES
from linnet.models.parts.weights import Tensor

QUALITIES: Final = {"S": "Small", "M": "Medium", "L": "Large"}


def n_params(tensors: Mapping[str, Tensor]) -> int:
    """The number of weights, with norms and biases."""
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def description(metadata: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """Architecture, number of weights and type of a file."""
    n = n_params(tensors)
    scale, unit = (1e9, "B") if n >= 1e9 else (1e6, "M")
    size = f"{n / scale:.{1 if n / scale < 10 else 0}f}{unit}"
    return f"{metadata['general.architecture']} {size} {_type_name(metadata, tensors)}"


def _type_name(metadata: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """How llama.cpp calls the file's types, as "Q4_K - Medium"; else the type of most bytes."""
    number = metadata.get("general.file_type")
    if isinstance(number, int) and number in FILE_TYPES:
        name = FILE_TYPES[number]
        base, _, quality = name.rpartition("_")
        return f"{base} - {QUALITIES[quality]}" if quality in QUALITIES else name
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        sizes[tensor.type.name] = sizes.get(tensor.type.name, 0) + tensor.data.nbytes
    return max(sizes, key=lambda name: sizes[name], default="no tensors")
