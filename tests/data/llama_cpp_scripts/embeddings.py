"""Which of some documents is nearest to a question."""

import sys

import numpy as np
from llama_cpp import Llama

llm = Llama(model_path=sys.argv[1], n_ctx=512, embedding=True, pooling_type=1, verbose=False)
documents = ["The cat sits on the mat.", "Stocks fell on Monday.", "Dogs chase cats."]
response = llm.create_embedding(documents)
vectors = np.array([item["embedding"] for item in response["data"]])
query = np.array(llm.embed("Where is the cat?"))
scores = vectors @ query / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(query))
for score, document in sorted(zip(scores, documents, strict=True), reverse=True):
    print(f"{score:.3f} {document}")
assert vectors.shape == (3, llm.n_embd())
assert response["usage"]["prompt_tokens"] > 0
