"""Tasks on an event loop, one of them given up: gather.py [MODEL]"""

import asyncio
import sys

from linnet import AsyncLLM

PROMPTS = ["def add(a, b):", "class Stack:", "import "]


async def talk(model: str | None) -> None:
    async with AsyncLLM(model) as llm:
        outputs = await asyncio.gather(*(llm.generate(prompt, max_tokens=16) for prompt in PROMPTS))
        for prompt, output in zip(PROMPTS, outputs, strict=True):
            print(f"{prompt!r} -> {output.text!r}")

        async for chunk in llm.stream("def f(x):", max_tokens=16):
            print(chunk.text, end="", flush=True)
        print()

        try:  # what is cancelled frees its place at the next pass
            await asyncio.wait_for(llm.generate("# A long", ignore_eos=True), timeout=0.05)
        except TimeoutError:
            print("(given up)")


def main(model: str | None = None) -> None:
    asyncio.run(talk(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
