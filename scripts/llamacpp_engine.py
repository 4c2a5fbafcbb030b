"""llama.cpp as comparisons drive it, through llama-cpp-python's C functions.

Needs `pip install llama-cpp-python`, which compiles.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import llama_cpp
from comparing import rate
from llama_cpp import llama_cpp as c

TOKEN = 300
PART = 512  # tokens of a prompt in one call


@c.llama_log_callback  # type: ignore[misc]
def no_log(level: int, text: bytes, data: int) -> None:
    """Say nothing."""


class Engine:
    """One model, loaded; every method returns tokens a second.

    `repack`: keep a second copy of the weights, laid out for this CPU (use_extra_bufts).
    """

    def __init__(self, file: str, *, n_threads: int, n_ctx: int, repack: bool) -> None:
        """Raises RuntimeError where llama.cpp cannot load the file."""
        c.llama_log_set(no_log, None)
        c.llama_backend_init()
        params = c.llama_model_default_params()
        params.use_extra_bufts = repack
        self._model = loaded(c.llama_model_load_from_file(file.encode(), params))
        self._tokens = c.llama_batch_init(PART, 0, 1)
        self._n_threads = n_threads
        self._main = self._context(n_ctx, n_sequences=1)
        self._filled = 0  # tokens in its cache that were computed as a prompt
        self._batches: dict[int, Any] = {}

    def use_threads(self, n_threads: int) -> None:
        self._n_threads = n_threads
        c.llama_set_n_threads(self._main, n_threads, n_threads)

    def prefill(self, n_tokens: int) -> float:
        self._clear()
        started = time.perf_counter()
        self._fill(n_tokens)
        return n_tokens / (time.perf_counter() - started)

    def decode(self, n_tokens: int, depth: int = 1) -> float:
        """Behind `depth` tokens, which are computed only where they are not there already."""
        if self._filled > depth:
            self._clear()
        self._fill(depth)
        return rate(lambda i: self._decode(self._main, [depth + i]), n_tokens)

    def batch(self, n_sequences: int, n_tokens: int) -> float:
        """Several sequences at once, a token of each in one call; tokens of all of them."""
        if n_sequences not in self._batches:
            self._batches[n_sequences] = self._context(n_sequences * n_tokens, n_sequences)
        context = self._batches[n_sequences]
        c.llama_memory_clear(c.llama_get_memory(context), False)

        def step(position: int) -> None:
            self._decode(context, [position] * n_sequences, each_its_own=True)

        return n_sequences * rate(step, n_tokens)

    def _context(self, n_ctx: int, n_sequences: int) -> Any:
        params = c.llama_context_default_params()
        params.n_ctx, params.n_seq_max = n_ctx, n_sequences
        params.n_threads = params.n_threads_batch = self._n_threads
        return loaded(c.llama_init_from_model(self._model, params))

    def _clear(self) -> None:
        c.llama_memory_clear(c.llama_get_memory(self._main), False)
        self._filled = 0

    def _fill(self, n_tokens: int) -> None:
        """Have so many tokens in the cache, those of a prompt kept."""
        c.llama_memory_seq_rm(c.llama_get_memory(self._main), 0, self._filled, -1)
        for start in range(self._filled, n_tokens, PART):
            positions = range(start, min(start + PART, n_tokens))
            self._decode(self._main, positions)
        self._filled = n_tokens

    def _decode(
        self, context: Any, positions: Sequence[int], *, each_its_own: bool = False
    ) -> None:
        """Compute tokens of one sequence, with the logits of the last; or one of each of several
        sequences, with all logits."""
        batch, last = self._tokens, len(positions) - 1
        batch.n_tokens = len(positions)
        for i, position in enumerate(positions):
            batch.token[i], batch.pos[i] = TOKEN, position
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, i if each_its_own else 0
            batch.logits[i] = each_its_own or i == last
        status = c.llama_decode(context, batch)
        c.llama_synchronize(context)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")


def loaded(handle: Any) -> Any:
    if not handle:
        raise RuntimeError("llama.cpp could not load the model or make room for its context")
    return handle


def features() -> str:
    """The CPU features that llama.cpp was built with and found here."""
    return str(llama_cpp.llama_print_system_info().decode().strip(" |"))


def generate_one(file: str, prompt: str, *, n_threads: int, repack: bool) -> None:
    """What a program that wants one token does with llama-cpp-python; prints prompt and token."""
    defaults = c.llama_model_default_params

    def params() -> Any:
        changed = defaults()
        changed.use_extra_bufts = repack
        return changed

    c.llama_model_default_params = params  # its class has no argument for it
    llm = llama_cpp.Llama(file, n_threads=n_threads, n_threads_batch=n_threads, verbose=False)
    print(prompt, end="", flush=True)
    output: Any = llm.create_completion(prompt, max_tokens=1, temperature=0)
    print(output["choices"][0]["text"], flush=True)
