"""Classes by the names and shapes of other packages, for programs that were written for those."""

from __future__ import annotations

from linnet.engine.compat.llama import Llama as Llama
from linnet.engine.compat.llama import LlamaState as LlamaState
