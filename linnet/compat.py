"""Classes by the names and shapes of other packages, for programs that were written for those."""

from __future__ import annotations

from linnet.engine.compat.llama import Llama as Llama
from linnet.engine.compat.llama import LlamaState as LlamaState
from linnet.engine.compat.others import LlamaCache as LlamaCache
from linnet.engine.compat.others import LlamaDiskCache as LlamaDiskCache
from linnet.engine.compat.others import LlamaRAMCache as LlamaRAMCache
from linnet.engine.compat.others import LogitsProcessorList as LogitsProcessorList
from linnet.engine.compat.others import StoppingCriteriaList as StoppingCriteriaList
from linnet.engine.compat.shapes import LlamaGrammar as LlamaGrammar
