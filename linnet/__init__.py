"""linnet: a small, fast LLM inference engine.

from linnet import LLM, SamplingParams
llm = LLM("model.gguf")
print(llm.generate("Once upon a time", SamplingParams(max_tokens=64)).text)
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # as typing's, whose import takes as long as Python's start

if TYPE_CHECKING:
    from linnet.engine.generation import Chunk as Chunk
    from linnet.engine.generation import Output as Output
    from linnet.engine.generation import Stats as Stats
    from linnet.engine.gguf import GGUFError as GGUFError
    from linnet.engine.hub import HubError as HubError
    from linnet.engine.llm import LLM as LLM
    from linnet.engine.sampling import NonFiniteLogits as NonFiniteLogits
    from linnet.engine.sampling_params import SamplingParams as SamplingParams
    from linnet.engine.sequence import ContextOverflow as ContextOverflow
    from linnet.engine.template_sandbox import TemplateError as TemplateError
    from linnet.engine.tokenizer import Tokenizer as Tokenizer
    from linnet.engine.tokenizer import TokenizerError as TokenizerError
    from linnet.kernels.isa import ISAError as ISAError
    from linnet.kernels.team import Interrupted as Interrupted
    from linnet.models.errors import ModelError as ModelError

__version__ = "0.1.0"
_HOMES = {
    "LLM": "engine.llm",
    "Chunk": "engine.generation",
    "ContextOverflow": "engine.sequence",
    "GGUFError": "engine.gguf",
    "HubError": "engine.hub",
    "ISAError": "kernels.isa",
    "Interrupted": "kernels.team",
    "ModelError": "models.errors",
    "NonFiniteLogits": "engine.sampling",
    "Output": "engine.generation",
    "SamplingParams": "engine.sampling_params",
    "Stats": "engine.generation",
    "TemplateError": "engine.template_sandbox",
    "Tokenizer": "engine.tokenizer",
    "TokenizerError": "engine.tokenizer",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: commands take only what they need, and
    Ctrl-C finds them ready for it while they import the rest."""
    if name in _HOMES:
        globals()[name] = value = getattr(importlib.import_module(f"linnet.{_HOMES[name]}"), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
