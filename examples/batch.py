"""Many prompts at once, each as it ends: batch.py [MODEL]"""

import sys

from linnet import LLM

PROMPTS = ["def add(a, b):", "class Stack:", "import", "for i in range(", "# The number of"]


def main(model: str | None = None) -> None:
    with LLM(model) as llm:
        # They share passes over the weights; each gets, bit for bit, what it gets alone.
        for index, output in llm.generate_each(PROMPTS, max_tokens=16, temperature=0):
            if isinstance(output, Exception):
                print(f"{PROMPTS[index]!r} failed: {output}")
            else:
                print(f"{PROMPTS[index]!r} -> {output.text!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
