"""A text as it comes, and what it took: stream.py [MODEL] [PROMPT]"""

import sys

from linnet import LLM


def main(model: str | None = None, prompt: str = "def fibonacci(n):") -> None:
    with LLM(model) as llm:
        for chunk in llm.stream(prompt, max_tokens=48, temperature=0.7, seed=1):
            print(chunk.text, end="", flush=True)
            if chunk.stats:  # the last one has them
                print(f"\n{chunk.finish_reason}: {chunk.stats.generate_rate:.0f} tokens a second")


if __name__ == "__main__":
    main(*sys.argv[1:])
