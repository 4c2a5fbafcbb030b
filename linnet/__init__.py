"""linnet: a small, fast LLM inference engine.

from linnet import LLM, SamplingParams
llm = LLM("model.gguf")
print(llm.generate("Once upon a time", SamplingParams(max_tokens=64)).text)
"""

from __future__ import annotations

import importlib
import os

TYPE_CHECKING = False  # as typing's, whose import takes as long as Python's start

if TYPE_CHECKING:
    from linnet.engine.async_llm import AsyncLLM as AsyncLLM
    from linnet.engine.chat.formats.chat_format import ChatFormat as ChatFormat
    from linnet.engine.chat.formats.parts import Part as Part
    from linnet.engine.chat.sandbox import TemplateError as TemplateError
    from linnet.engine.chat.template import ChatTemplate as ChatTemplate
    from linnet.engine.gguf.named import HubError as HubError
    from linnet.engine.gguf.reader import GGUFError as GGUFError
    from linnet.engine.gguf.reader import GGUFFile as GGUFFile
    from linnet.engine.llm import LLM as LLM
    from linnet.engine.running.generation import Chunk as Chunk
    from linnet.engine.running.generation import Output as Output
    from linnet.engine.running.generation import Stats as Stats
    from linnet.engine.running.prefix_file import PrefixError as PrefixError
    from linnet.engine.running.sequence import ContextOverflow as ContextOverflow
    from linnet.engine.running.session import Progress as Progress
    from linnet.engine.running.session import Session as Session
    from linnet.engine.sampling.candidates import NonFiniteLogits as NonFiniteLogits
    from linnet.engine.sampling.logprobs import TokenLogprob as TokenLogprob
    from linnet.engine.sampling.params import SamplingParams as SamplingParams
    from linnet.engine.text.tokenizer import Tokenizer as Tokenizer
    from linnet.engine.text.tokenizer import TokenizerError as TokenizerError
    from linnet.kernels.isa import ISAError as ISAError
    from linnet.kernels.runtime.packed import PackedMatrix as PackedMatrix
    from linnet.kernels.runtime.team import Interrupted as Interrupted
    from linnet.models.parts.errors import ModelError as ModelError

# In a checkout the three folders beside this one are links here. Where the system makes none, as
# Windows may not, git writes small files in their place; the folders are found by this then.
if not os.path.isdir(os.path.join(os.path.dirname(__file__), "engine")):
    __path__.append(os.path.dirname(os.path.dirname(__file__)))

__version__ = "0.2.0"
_HOMES = {
    "LLM": "engine.llm",
    "AsyncLLM": "engine.async_llm",
    "ChatFormat": "engine.chat.formats.chat_format",
    "ChatTemplate": "engine.chat.template",
    "Chunk": "engine.running.generation",
    "ContextOverflow": "engine.running.sequence",
    "GGUFError": "engine.gguf.reader",
    "GGUFFile": "engine.gguf.reader",
    "HubError": "engine.gguf.named",
    "ISAError": "kernels.isa",
    "Interrupted": "kernels.runtime.team",
    "ModelError": "models.parts.errors",
    "NonFiniteLogits": "engine.sampling.candidates",
    "Output": "engine.running.generation",
    "PackedMatrix": "kernels.runtime.packed",
    "Part": "engine.chat.formats.parts",
    "PrefixError": "engine.running.prefix_file",
    "Progress": "engine.running.session",
    "SamplingParams": "engine.sampling.params",
    "Session": "engine.running.session",
    "Stats": "engine.running.generation",
    "TemplateError": "engine.chat.sandbox",
    "TokenLogprob": "engine.sampling.logprobs",
    "Tokenizer": "engine.text.tokenizer",
    "TokenizerError": "engine.text.tokenizer",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: commands take only what they need, and
    Ctrl-C finds them ready for it while they import the rest."""
    if name in _HOMES:
        globals()[name] = value = getattr(importlib.import_module(f"linnet.{_HOMES[name]}"), name)
        return value
    if name == "Llama":
        raise ImportError(
            "linnet has LLM; for programs that were written for llama-cpp-python, "
            "`from linnet.compat import Llama`"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
