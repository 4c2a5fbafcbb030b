"""linnet: a small, fast LLM inference engine.

from linnet import LLM, SamplingParams
llm = LLM("model.gguf")
print(llm.generate("Once upon a time", SamplingParams(max_tokens=64)).text)
"""

from linnet.engine.generation import Chunk, Output, Stats
from linnet.engine.gguf import GGUFError
from linnet.engine.llm import LLM
from linnet.engine.sampling import NonFiniteLogits
from linnet.engine.sampling_params import SamplingParams
from linnet.engine.session import ContextOverflow
from linnet.engine.tokenizer import Tokenizer, TokenizerError
from linnet.kernels.isa import ISAError
from linnet.kernels.team import Interrupted
from linnet.models.errors import ModelError

__version__ = "0.1.0"
__all__ = [
    "LLM",
    "Chunk",
    "ContextOverflow",
    "GGUFError",
    "ISAError",
    "Interrupted",
    "ModelError",
    "NonFiniteLogits",
    "Output",
    "SamplingParams",
    "Stats",
    "Tokenizer",
    "TokenizerError",
]
