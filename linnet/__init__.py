"""linnet: a small, fast LLM inference engine.

from linnet import LLM, SamplingParams
llm = LLM("model.gguf")
print(llm.generate("Once upon a time", SamplingParams(max_tokens=64)).text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linnet.engine.gguf import GGUFError
    from linnet.engine.llm import LLM, Chunk, Output, Stats
    from linnet.engine.sampling import NonFiniteLogits
    from linnet.engine.sampling_params import SamplingParams
    from linnet.engine.session import ContextOverflow
    from linnet.engine.tokenizer import Tokenizer, TokenizerError
    from linnet.kernels.isa import ISAError
    from linnet.models.errors import ModelError

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "Chunk",
    "ContextOverflow",
    "GGUFError",
    "ISAError",
    "ModelError",
    "NonFiniteLogits",
    "Output",
    "SamplingParams",
    "Stats",
    "Tokenizer",
    "TokenizerError",
]
_HOMES = {
    "engine.gguf": ["GGUFError"],
    "engine.llm": ["LLM", "Chunk", "Output", "Stats"],
    "engine.sampling": ["NonFiniteLogits"],
    "engine.sampling_params": ["SamplingParams"],
    "engine.session": ["ContextOverflow"],
    "engine.tokenizer": ["Tokenizer", "TokenizerError"],
    "kernels.isa": ["ISAError"],
    "models.errors": ["ModelError"],
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: commands take only what they need, and
    Ctrl-C finds them ready for it while they import the rest."""
    for home, names in _HOMES.items():
        if name in names:
            globals()[name] = value = getattr(importlib.import_module(f"linnet.{home}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
