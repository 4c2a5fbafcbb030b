"""A conversation of two turns."""

import sys

from llama_cpp import Llama

llm = Llama(model_path=sys.argv[1], n_ctx=1024, verbose=False)
messages = [
    {"role": "system", "content": "You are an assistant who answers briefly."},
    {"role": "user", "content": "Name a colour."},
]
for question in ("And another one?", None):
    response = llm.create_chat_completion(messages=messages, max_tokens=16, temperature=0)
    message = response["choices"][0]["message"]
    print(f"{message['role']}: {message['content']}")
    messages.append({"role": "assistant", "content": message["content"]})
    if question:
        messages.append({"role": "user", "content": question})
assert response["object"] == "chat.completion"
