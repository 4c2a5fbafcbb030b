"""Logits changed, and an end, by functions of one's own."""

import sys

import numpy as np
from llama_cpp import Llama, LogitsProcessorList, StoppingCriteriaList

llm = Llama(model_path=sys.argv[1], n_ctx=512, verbose=False)
banned = llm.tokenize(b" the", add_bos=False)
n_prompt = len(llm.tokenize(b"Once upon a time"))


def without(input_ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    scores[banned] = -np.inf
    return scores


def after_five(input_ids: np.ndarray, logits: np.ndarray) -> bool:
    return len(input_ids) >= n_prompt + 5


output = llm(
    "Once upon a time",
    max_tokens=32,
    logits_processor=LogitsProcessorList([without]),
    stopping_criteria=StoppingCriteriaList([after_five]),
)
print(output["choices"][0]["text"])
assert output["usage"]["completion_tokens"] <= 5
assert output["choices"][0]["finish_reason"] == "stop"
