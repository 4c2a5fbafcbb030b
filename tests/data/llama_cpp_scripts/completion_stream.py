"""A completion as it comes."""

import sys

from llama_cpp import Llama

llm = Llama(sys.argv[1], n_ctx=512, n_batch=256, n_threads=1, verbose=False)
stream = llm.create_completion(
    "Once upon a time", max_tokens=16, temperature=0.7, top_p=0.9, top_k=50, min_p=0.0,
    repeat_penalty=1.1, stream=True,
)  # fmt: skip
n_chunks = 0
for output in stream:
    print(output["choices"][0]["text"], end="", flush=True)
    n_chunks += 1
print()
assert n_chunks > 1
assert output["choices"][0]["finish_reason"] in ("stop", "length")
