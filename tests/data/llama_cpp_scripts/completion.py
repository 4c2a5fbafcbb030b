"""A completion with stop strings and an echo of the prompt."""

import sys

from llama_cpp import Llama

llm = Llama(model_path=sys.argv[1], n_ctx=512, n_gpu_layers=-1, seed=1337, verbose=False)
output = llm(
    "Q: Name the planets in the solar system. A: ",
    max_tokens=24,
    stop=["Q:", "\n"],
    echo=True,
)
choice = output["choices"][0]
assert choice["text"].startswith("Q: Name the planets")
assert choice["finish_reason"] in ("stop", "length")
print(choice["text"], output["usage"]["total_tokens"])
