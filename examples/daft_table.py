"""A table of prompts, answered in a query of Daft: daft_table.py [MODEL]"""

import sys

import daft

from linnet.batch import Predictor

PROMPTS = ["def add(a, b):", "class Stack:", "import", "for i in range(", "# The number of"]


def main(model: str | None = None) -> None:
    predict = Predictor(model, max_tokens=16, temperature=0)

    @daft.func.batch(  # type: ignore[untyped-decorator]
        return_dtype=daft.DataType.string(), batch_size=64
    )
    def answer(prompts: daft.Series) -> list[str | None]:
        answers = predict({"prompt": prompts.to_pylist()})
        return [
            text or error for text, error in zip(answers["text"], answers["error"], strict=True)
        ]

    table = daft.from_pydict({"prompt": PROMPTS})
    table = table.with_column("text", answer(daft.col("prompt")))
    for row in table.iter_rows():
        print(f"{row['prompt']!r} -> {row['text']!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
