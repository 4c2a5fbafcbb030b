"""Token by token, with an end of one's own."""

import sys

from llama_cpp import Llama

llm = Llama(model_path=sys.argv[1], n_ctx=512, verbose=False)
tokens = llm.tokenize(b"def add(a, b):")
text = b""
for n, token in enumerate(llm.generate(tokens, top_k=40, top_p=0.95, temp=0.2)):
    if token == llm.token_eos() or n == 12:
        break
    text += llm.detokenize([token])
print(text.decode("utf-8", errors="ignore"))
assert text
