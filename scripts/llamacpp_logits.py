"""What llama.cpp says of a text's windows, through llama-cpp-python's C functions.

Needs `pip install llama-cpp-python`, which compiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as c
from llamacpp_engine import loaded, no_log

from linnet.engine.measure.perplexity import Mean, Window, losses


def perplexity(path: str, cut: Sequence[Window], *, n_ctx: int, n_threads: int) -> Mean:
    """The losses of all targets. Raises RuntimeError where llama.cpp cannot load the file."""
    c.llama_log_set(no_log, None)
    c.llama_backend_init()
    model = loaded(c.llama_model_load_from_file(path.encode(), c.llama_model_default_params()))
    params = c.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
    params.n_threads = params.n_threads_batch = n_threads
    context = loaded(c.llama_init_from_model(model, params))
    n_vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
    batch, loss = c.llama_batch_init(n_ctx, 0, 1), Mean()
    for window in cut:
        _decode(context, batch, window)
        rows = np.ctypeslib.as_array(c.llama_get_logits(context), (len(window.targets), n_vocab))
        loss.add(losses(rows, window.targets))
    c.llama_batch_free(batch)
    c.llama_free(context)
    c.llama_model_free(model)
    return loss


def _decode(context: Any, batch: Any, window: Window) -> None:
    c.llama_memory_clear(c.llama_get_memory(context), True)
    batch.n_tokens = len(window.ids)
    for i, token_id in enumerate(window.ids):
        batch.token[i], batch.pos[i] = token_id, i
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        batch.logits[i] = i >= window.first
    if status := c.llama_decode(context, batch):
        raise RuntimeError(f"llama_decode returned {status}")
    c.llama_synchronize(context)
