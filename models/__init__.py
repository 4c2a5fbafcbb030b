"""What a transformer is: one file an architecture, named as in `general.architecture`.

To add one: a file here, and its line in ARCHITECTURES.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from linnet.kernels.runtime.program import Buffer
from linnet.models.cohere2 import Cohere2
from linnet.models.command_r import CommandR
from linnet.models.deepseek2 import DeepSeek2
from linnet.models.ernie4_5 import Ernie45
from linnet.models.exaone4 import Exaone4
from linnet.models.gemma2 import Gemma2
from linnet.models.gemma3 import Gemma3
from linnet.models.gemma4 import Gemma4
from linnet.models.glm4 import Glm4
from linnet.models.gpt_oss import GptOss
from linnet.models.granite import Granite
from linnet.models.granitemoe import GraniteMoe
from linnet.models.hunyuan_dense import HunyuanDense
from linnet.models.lfm2 import Lfm2
from linnet.models.lfm2moe import Lfm2Moe
from linnet.models.llama import Llama
from linnet.models.mistral3 import Mistral3
from linnet.models.olmo2 import Olmo2
from linnet.models.parts.config import Config
from linnet.models.parts.errors import ModelError
from linnet.models.parts.graph import Graph
from linnet.models.parts.transformer import Transformer
from linnet.models.parts.weights import Tensor
from linnet.models.phi3 import Phi3
from linnet.models.qwen2 import Qwen2
from linnet.models.qwen3 import Qwen3
from linnet.models.qwen3moe import Qwen3Moe
from linnet.models.qwen35 import Qwen35
from linnet.models.qwen35moe import Qwen35Moe
from linnet.models.seed_oss import SeedOss
from linnet.models.smollm3 import SmolLM3
from linnet.models.stablelm import StableLM
from linnet.models.starcoder2 import StarCoder2

__all__ = ["ARCHITECTURES", "Model", "ModelError", "load_model"]


class Model(Protocol):
    """Checked hyper-parameters and weights, and how they are put together."""

    config: Config

    def record(self, g: Graph) -> Buffer:
        """Record a forward pass; returns the logits (n_outputs, n_vocab)."""
        ...

    def hidden(self, g: Graph) -> Buffer:
        """The same, but for the output matrix: the last norm's rows (n_outputs, n_embd)."""
        ...


ARCHITECTURES: dict[str, type[Transformer]] = {
    "cohere2": Cohere2,
    "command-r": CommandR,
    "deepseek2": DeepSeek2,
    "ernie4_5": Ernie45,
    "exaone4": Exaone4,
    "gemma2": Gemma2,
    "gemma3": Gemma3,
    "gemma4": Gemma4,
    "glm4": Glm4,
    "gpt-oss": GptOss,
    "granite": Granite,
    "granitemoe": GraniteMoe,
    "hunyuan-dense": HunyuanDense,
    "lfm2": Lfm2,
    "lfm2moe": Lfm2Moe,
    "llama": Llama,
    "mistral3": Mistral3,
    "olmo2": Olmo2,
    "phi3": Phi3,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "qwen35": Qwen35,
    "qwen35moe": Qwen35Moe,
    "qwen3moe": Qwen3Moe,
    "seed_oss": SeedOss,
    "smollm3": SmolLM3,
    "stablelm": StableLM,
    "starcoder2": StarCoder2,
}


def load_model(metadata: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Model:
    """The model in a file, by its `general.architecture`. Raises ModelError."""
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"general.architecture is {str(architecture)[:80]!r}; known: {known}")
    with np.errstate(all="ignore"):  # weights may be anything; logits are looked at
        return ARCHITECTURES[architecture](metadata, tensors)
