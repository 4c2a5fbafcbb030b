"""A cache of prompts, and a state to come back to."""

import sys

from llama_cpp import Llama, LlamaRAMCache

llm = Llama(model_path=sys.argv[1], n_ctx=512, seed=7, verbose=False)
llm.set_cache(LlamaRAMCache(capacity_bytes=64 << 20))
prompt = "Once upon a time there was a"
first = llm(prompt, max_tokens=8, temperature=0)["choices"][0]["text"]
state = llm.save_state()
llm.reset()
llm("Another prompt", max_tokens=4)
llm.load_state(state)
assert llm.n_tokens == state.n_tokens
second = llm(prompt, max_tokens=8, temperature=0)["choices"][0]["text"]
print(first)
assert first == second
