"""An answer as it comes."""

import sys

from llama_cpp import Llama

llm = Llama(model_path=sys.argv[1], n_ctx=512, verbose=False)
text, roles = "", []
for chunk in llm.create_chat_completion(
    messages=[{"role": "user", "content": "Tell a joke."}], max_tokens=16, stream=True
):
    delta = chunk["choices"][0]["delta"]
    if "role" in delta:
        roles.append(delta["role"])
    elif "content" in delta:
        print(delta["content"], end="", flush=True)
        text += delta["content"]
print()
assert roles == ["assistant"]
assert text
