"""Tokens there and back, one text in the bounds of the context."""

import sys

from llama_cpp import Llama

llm = Llama(model_path=sys.argv[1], n_ctx=512, verbose=False)
text = "to be, or not to be"
tokens = llm.tokenize(text.encode("utf-8"), add_bos=False)
assert llm.detokenize(tokens).decode("utf-8").strip() == text
room = llm.n_ctx() - len(tokens)
print(len(tokens), room, llm.n_vocab(), llm.token_bos(), llm.token_eos())
for token in tokens[:4]:
    print(token, llm.detokenize([token]))
print(llm.metadata["general.architecture"])
