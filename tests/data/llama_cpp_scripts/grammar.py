"""An answer by a grammar."""

import sys

from llama_cpp import Llama, LlamaGrammar

grammar = LlamaGrammar.from_string('root ::= ("yes" | "no") "!"', verbose=False)
llm = Llama(model_path=sys.argv[1], n_ctx=512, verbose=False)
output = llm("Is the sky blue? ", grammar=grammar, max_tokens=8, temperature=0)
answer = output["choices"][0]["text"]
print(answer)
assert answer in ("yes!", "no!")
