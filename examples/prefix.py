"""A long beginning in common, kept on disk: prefix.py [MODEL] [FILE]"""

import sys
from pathlib import Path

from linnet import LLM

RULES = "# Every function below has a docstring and type hints.\n" * 4


def main(model: str | None = None, file: str = "rules.prefix") -> None:
    with LLM(model) as llm:
        if Path(file).exists():
            print(f"{llm.load_prefix(file)} tokens from {file}")
        else:
            print(f"{llm.save_prefix(file, RULES)} tokens to {file}")
        output = llm.generate(RULES + "def add(", max_tokens=16, temperature=0)
        print(f"{output.stats.n_cached} of {output.stats.n_prompt} tokens were there already")
        print(output.text)


if __name__ == "__main__":
    main(*sys.argv[1:])
