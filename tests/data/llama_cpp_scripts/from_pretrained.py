"""A model from the hub."""

from llama_cpp import Llama

llm = Llama.from_pretrained(
    repo_id="somebody/tiny-GGUF", filename="*q8_0.gguf", n_ctx=512, verbose=False
)
print(llm.create_completion("Hello", max_tokens=4)["choices"][0]["text"])
assert llm.n_ctx() == 512
