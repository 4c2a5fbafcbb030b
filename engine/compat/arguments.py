"""Arguments by llama-cpp-python's names: what they are here, and those there are not."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from linnet.engine.checks import known
from linnet.engine.compat.shapes import ending, shape_fields
from linnet.engine.sampling.params import SamplingParams

RANDOM_SEED: Final = 0xFFFFFFFF  # another one each time
POOLINGS: Final = {-1: None, 1: "mean", 2: "cls", 3: "last"}  # by llama.cpp's numbers
CACHE_TYPES: Final = {None: None, 0: "f32", 1: "f16", 8: "q8_0"}  # by ggml's numbers

# Of the constructor: those that say how llama.cpp is to compute, and not what.
_IGNORED: Final = frozenset({
    "draft_model", "flash_attn", "logits_all", "main_gpu", "n_gpu_layers", "n_threads_batch",
    "n_ubatch", "no_perf", "numa", "offload_kqv", "op_offload", "spm_infill", "split_mode",
    "swa_full", "tensor_split", "use_mlock", "verbose", "vocab_only",
})  # fmt: skip
# Those that would change what comes out, with what leaves it as it is.
_REFUSED: Final[Mapping[str, Sequence[Any]]] = {
    "attention_type": (-1,), "chat_handler": (None,), "kv_overrides": (None, {}),
    "lora_base": (None,), "lora_path": (None,), "lora_scale": (1.0,), "rope_freq_base": (0.0,),
    "rope_freq_scale": (0.0,), "rope_scaling_type": (-1, None), "tokenizer": (None,),
    "yarn_attn_factor": (1.0,), "yarn_beta_fast": (32.0,), "yarn_beta_slow": (1.0,),
    "yarn_ext_factor": (-1.0,), "yarn_orig_ctx": (0,),
}  # fmt: skip
_REFUSED_BY_CALLS: Final[Mapping[str, Sequence[Any]]] = {
    "function_call": (None,), "functions": (None, []), "suffix": (None,),
}  # fmt: skip
# Of calls: the fields of SamplingParams that they are, whose defaults are the same.
_SAMPLING: Final = {
    name: name
    for name in (
        "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "min_p", "mirostat_eta",
        "mirostat_tau", "presence_penalty", "repeat_penalty", "seed", "stop", "temperature",
        "top_k", "top_p",
    )
} | {
    "logits_processor": "logits_processors", "mirostat_mode": "mirostat", "typical_p": "typ_p",
}  # fmt: skip
# The first has no effect, nor has it in llama.cpp.
_OTHERS: Final = {"tfs_z", "top_logprobs", "grammar", "response_format", "stopping_criteria"}


def check_options(options: Mapping[str, Any]) -> None:
    """Of the constructor. Warns of what is otherwise here; raises ValueError for what there is not,
    and TypeError for what nobody knows."""
    known(options, _IGNORED | {"chat_format"} | _REFUSED.keys(), "argument of Llama")
    _refuse(options, _REFUSED)
    if (format := options.get("chat_format")) is not None:
        here = "the file's chat template all the same"
        warnings.warn(f"chat_format is {format!r}; here it is {here}", stacklevel=3)


def cache_type(name: str, number: int | None) -> str | None:
    """An argument of the constructor, as LLM takes it. Raises ValueError for one there is not."""
    if number not in CACHE_TYPES:
        here = ", ".join(f"{known} ({of})" for known, of in CACHE_TYPES.items() if of)
        raise ValueError(f"{name} is {number!r}; it must be None or one of {here}")
    return CACHE_TYPES[number]


def sampling_params(
    options: Mapping[str, Any], *, seed: int, last_n_tokens: int, eos_id: int | None,
    echo: bool = False,
) -> SamplingParams:  # fmt: skip
    """Of the arguments of a call. `seed`: where it gives none; `last_n_tokens`: that penalties look
    at; `eos_id`: what ends a text; `echo`: whether logprobs are wanted of the prompt, too. Raises
    ValueError and TypeError."""
    names = _SAMPLING.keys() | _REFUSED_BY_CALLS.keys() | _OTHERS
    known(options, names, "argument of this call")
    _refuse(options, _REFUSED_BY_CALLS)
    given = {
        _SAMPLING[name]: value
        for name, value in options.items()
        if name in _SAMPLING and value is not None
    }
    given.setdefault("max_tokens", None)
    for name in ("max_tokens", "top_k"):  # of which 0 and less are no limit
        if isinstance(given.get(name), int) and given[name] <= 0:
            given[name] = None if name == "max_tokens" else 0
    if given.setdefault("seed", seed) in (-1, RANDOM_SEED):
        del given["seed"]
    if "logit_bias" in given:
        given["logit_bias"] = {int(token): bias for token, bias in given["logit_bias"].items()}
    if isinstance(asked := given.get("logprobs"), bool):  # of a chat
        given["logprobs"] = (options.get("top_logprobs") or 0) if asked else None
    if echo:
        given["prompt_logprobs"] = given.get("logprobs")
    processors = [*given.pop("logits_processors", ())]
    if criteria := options.get("stopping_criteria"):
        processors.append(ending(criteria, eos_id))
    given |= shape_fields(options.get("grammar"), options.get("response_format"))
    return SamplingParams(
        repeat_last_n=last_n_tokens, logits_processors=[*map(_on_arrays, processors)], **given
    )


def _on_arrays(processor: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """llama-cpp-python's processors are given an array of ids."""
    return lambda ids, logits: processor(np.array(ids, np.intc), logits)


def _refuse(options: Mapping[str, Any], refused: Mapping[str, Sequence[Any]]) -> None:
    for name, value in options.items():
        if name in refused and value not in refused[name]:
            allowed = " or ".join(map(repr, refused[name]))
            found = reprlib.repr(value)
            raise ValueError(f"{name} is {found}; it must be {allowed}: linnet has no such")
