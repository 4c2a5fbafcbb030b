"""How likely each token of a text is, and what else might have been there."""

import sys

from llama_cpp import Llama

llm = Llama(model_path=sys.argv[1], n_ctx=512, logits_all=True, verbose=False)
output = llm.create_completion(
    "to be or not to", max_tokens=1, temperature=0, logprobs=3, echo=True
)
logprobs = output["choices"][0]["logprobs"]
for token, logprob, top in zip(
    logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
):
    print(repr(token), logprob, top)
assert logprobs["token_logprobs"][0] is None
assert all(value <= 0 for value in logprobs["token_logprobs"][1:])
