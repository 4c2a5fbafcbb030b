"""A conversation at a terminal, until an empty line: chat.py MODEL"""

import sys
from typing import Any

from linnet import LLM, Output


def main(model: str) -> None:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "You answer briefly."}]
    with LLM(model) as llm:
        while question := input("> "):
            messages.append({"role": "user", "content": question})
            chunks = []
            for chunk in llm.stream_chat(messages, max_tokens=256):
                print(chunk.text, end="", flush=True)
                chunks.append(chunk)
            print()
            messages.append(Output.of(chunks).message)  # the next prompt computes only what is new


if __name__ == "__main__":
    main(*sys.argv[1:])
