"""What llama.cpp says of a text's windows, through llama-cpp-python's C functions.

Needs `pip install llama-cpp-python`, which compiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as c
from llamacpp_engine import loaded, no_log

from linnet.engine.measure.perplexity import Mean, Window, losses
from linnet.engine.running.runner import Floats

FLASH_ATTENTION = {
    None: c.LLAMA_FLASH_ATTN_TYPE_AUTO,
    False: c.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    True: c.LLAMA_FLASH_ATTN_TYPE_ENABLED,
}


def logits(
    path: str,
    cut: Sequence[Window],
    *,
    n_ctx: int,
    n_threads: int,
    in_f32: bool = False,
    flash_attention: bool | None = None,
) -> Iterator[Floats]:
    """The rows (n, n_vocab) that predict each window's targets: a view until the next.

    `in_f32`: the type of cached keys and values, else f16; `flash_attention`: None for llama.cpp's
    own choice. Raises RuntimeError where llama.cpp cannot load the file.
    """
    c.llama_log_set(no_log, None)
    c.llama_backend_init()
    model = loaded(c.llama_model_load_from_file(path.encode(), c.llama_model_default_params()))
    params = c.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = n_ctx
    params.n_threads = params.n_threads_batch = n_threads
    params.type_k = params.type_v = c.GGML_TYPE_F32 if in_f32 else c.GGML_TYPE_F16
    params.flash_attn_type = FLASH_ATTENTION[flash_attention]
    context = loaded(c.llama_init_from_model(model, params))
    n_vocab = c.llama_vocab_n_tokens(c.llama_model_get_vocab(model))
    batch = c.llama_batch_init(n_ctx, 0, 1)
    try:
        for window in cut:
            _decode(context, batch, window)
            shape = len(window.targets), n_vocab
            yield np.ctypeslib.as_array(c.llama_get_logits(context), shape)
    finally:
        c.llama_batch_free(batch)
        c.llama_free(context)
        c.llama_model_free(model)


def perplexity(path: str, cut: Sequence[Window], *, n_ctx: int, n_threads: int) -> Mean:
    """The losses of all targets. Raises RuntimeError where llama.cpp cannot load the file."""
    loss = Mean()
    each = logits(path, cut, n_ctx=n_ctx, n_threads=n_threads)
    for rows, window in zip(each, cut, strict=True):
        loss.add(losses(rows, window.targets))
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
