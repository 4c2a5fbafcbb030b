"""Lists of functions, and caches, by llama-cpp-python's names."""

from __future__ import annotations

import warnings
from typing import Any


class LogitsProcessorList(list[Any]):
    """Functions of ids (n,) and logits (n_vocab,) to other logits, called one after another."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        for processor in self:
            scores = processor(input_ids, scores)
        return scores


class StoppingCriteriaList(list[Any]):
    """Functions of ids (n,) and logits (n_vocab,), of which one that is true ends the text."""

    def __call__(self, input_ids: Any, logits: Any) -> bool:
        return any(criterion(input_ids, logits) for criterion in self)


class LlamaRAMCache:
    """Changes nothing: prefixes are kept, and found again, by themselves."""

    def __init__(self, capacity_bytes: int = 2 << 30) -> None:
        self.capacity_bytes = capacity_bytes


LlamaCache = LlamaRAMCache


class LlamaDiskCache(LlamaRAMCache):
    """The same; here prefixes go to disk with `LLM(prompt_cache=FOLDER)`."""

    def __init__(
        self, cache_dir: str = ".cache/llama_cache", capacity_bytes: int = 2 << 30
    ) -> None:
        super().__init__(capacity_bytes)
        warnings.warn(
            "prefixes are kept in memory alone; linnet.LLM(prompt_cache=FOLDER) keeps them on disk",
            stacklevel=2,
        )
