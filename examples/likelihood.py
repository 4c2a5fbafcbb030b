"""Which of some texts a model finds likelier: likelihood.py [MODEL]"""

import sys

from linnet import LLM

TEXTS = ["for i in range(10):", "for i of range(10):", "range i for in (10):"]


def main(model: str | None = None) -> None:
    with LLM(model) as llm:
        for output, text in zip(
            llm.generate(TEXTS, prompt_logprobs=0, max_tokens=0), TEXTS, strict=True
        ):
            known = [each.logprob for each in output.prompt_logprobs or () if each is not None]
            print(f"{sum(known) / len(known):7.3f} a token  {text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
