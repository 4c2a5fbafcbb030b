"""What a transformer is: one file an architecture, named as in `general.architecture`.

To add one: a file here, and its line in ARCHITECTURES.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from linnet.kernels.program import Buffer
from linnet.models.config import Config
from linnet.models.errors import ModelError
from linnet.models.gemma2 import Gemma2
from linnet.models.gemma3 import Gemma3
from linnet.models.granite import Granite
from linnet.models.graph import Graph
from linnet.models.llama import Llama
from linnet.models.mistral3 import Mistral3
from linnet.models.olmo2 import Olmo2
from linnet.models.phi3 import Phi3
from linnet.models.qwen2 import Qwen2
from linnet.models.qwen3 import Qwen3
from linnet.models.smollm3 import SmolLM3
from linnet.models.transformer import Transformer
from linnet.models.weights import Tensor

__all__ = ["ARCHITECTURES", "Model", "ModelError", "load_model"]


class Model(Protocol):
    """Checked hyper-parameters and weights, and how they are put together."""

    config: Config

    def record(self, g: Graph) -> Buffer:
        """Record a forward pass; returns the logits (n_outputs, n_vocab)."""
        ...


ARCHITECTURES: dict[str, type[Transformer]] = {
    "gemma2": Gemma2,
    "gemma3": Gemma3,
    "granite": Granite,
    "llama": Llama,
    "mistral3": Mistral3,
    "olmo2": Olmo2,
    "phi3": Phi3,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "smollm3": SmolLM3,
}


def load_model(metadata: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Model:
    """The model in a file, by its `general.architecture`. Raises ModelError."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"general.architecture is {str(architecture)[:80]!r}; known: {known}")
    return ARCHITECTURES[architecture](metadata, tensors)
