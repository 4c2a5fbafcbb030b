"""The documents nearest to a question, by their vectors: search.py [MODEL] [QUESTION]"""

import sys

import numpy as np

from linnet import LLM

DOCUMENTS = [
    "def add(a, b): return a + b",
    "class Stack: a list to which one pushes and from which one pops",
    "with open(path) as file: text = file.read()",
]


def main(model: str | None = None, question: str = "How do I read a file?") -> None:
    with LLM(model) as llm:
        vectors = llm.embed(DOCUMENTS)  # (n, n_embd), each of length 1
        cosines = vectors @ llm.embed(question)
    for index in np.argsort(-cosines):
        print(f"{cosines[index]:.3f}  {DOCUMENTS[index]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
