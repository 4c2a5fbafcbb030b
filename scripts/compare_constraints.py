"""What an answer's shape costs: masks and commits, decoding, the first token, and random schemas.

python scripts/compare_constraints.py masks vocabulary.gguf ...
python scripts/compare_constraints.py decode model.gguf
python scripts/compare_constraints.py schemas model.gguf -n 300      # needs jsonschema
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "tests"):
    sys.path.insert(0, str(folder))

from support.random_schemas import random_schema  # noqa: E402

from linnet import LLM, SamplingParams  # noqa: E402
from linnet.engine.sampling.constraint import ConstraintError, Constraints  # noqa: E402
from linnet.engine.text.tokenizer import Tokenizer  # noqa: E402
from linnet.kernels.compiler.host import choose_isa  # noqa: E402
from linnet.kernels.compiler.jit import Library  # noqa: E402

SCHEMA = {
    "type": "object", "required": ["name", "age", "tags", "kind", "text"],
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 4},
        "kind": {"enum": ["person", "robot"]}, "text": {"type": "string"},
    }, "additionalProperties": False,
}  # fmt: skip
ANSWER = {
    "name": "Ada Lovelace é", "age": 36, "tags": ["maths", "engines"], "kind": "person",
    "text": "She wrote the first program, and a long note beside it.",
}  # fmt: skip
ASKED = [{"role": "user", "content": "Describe somebody, in JSON."}]


def masks(path: Path) -> str:
    """A token's mask and commit, on an answer's tokens; CPU time of this thread."""
    tokenizer = Tokenizer.from_gguf(path)
    tokenizer.prepare()
    made = Constraints(tokenizer, Library(choose_isa(None)))
    assert made.mask  # is compiled
    started = time.thread_time()
    made.prepare()
    prepared = time.thread_time() - started
    times: dict[str, list[float]] = {"schema": [], "mask": [], "commit": []}

    def timed(what: str, call: Any, *arguments: Any) -> Any:
        started = time.thread_time()
        result = call(*arguments)
        times[what].append(1e6 * (time.thread_time() - started))
        return result

    ids = tokenizer.encode_continuation(json.dumps(ANSWER, ensure_ascii=False))
    for i in range(20):
        how = SamplingParams(json_schema={**SCHEMA, "title": f"{i}"})
        rule = timed("schema", made.of, how)
        for token_id in ids:
            timed("mask", rule.fill)
            timed("commit", rule.accept, token_id)
    told = [
        f"{what} {np.median(each):.0f} µs, 99% {np.percentile(each, 99):.0f}"
        for what, each in times.items()
    ]
    return (
        f"{path.name}: {tokenizer.n_vocab} tokens, prepared in {prepared:.2f} s; {'; '.join(told)}"
    )


def decode(path: Path) -> str:
    """Tokens a second under a schema and without, by turns; the first token likewise."""
    speeds: dict[str, list[float]] = {"schema": [], "free": []}
    firsts: dict[str, list[float]] = {"schema": [], "free": []}
    with LLM(path, n_ctx=1024) as llm:
        llm.tokenizer.prepare()
        llm.constraints.prepare()
        for seed in range(8):
            for name in speeds:
                more = {"json_schema": {**SCHEMA, "title": f"{seed}"}} if name == "schema" else {}
                started = time.perf_counter()
                chunks = llm.stream_chat(
                    ASKED, max_tokens=60, min_tokens=40, temperature=1, seed=seed, **more
                )
                next(iter(chunks))
                firsts[name].append(1e3 * (time.perf_counter() - started))
                stats = list(chunks)[-1].stats
                if stats is not None and seed:
                    speeds[name].append(stats.generate_rate)
    rates = {name: np.median(each) for name, each in speeds.items()}
    first = {name: min(each[1:]) for name, each in firsts.items()}
    return (
        f"{path.name}: {rates['schema']:.1f} tokens/s under a schema, {rates['free']:.1f} without: "
        f"{rates['schema'] / rates['free']:.2f}; first token after {first['schema']:.1f} and "
        f"{first['free']:.1f} ms"
    )


def schemas(path: Path, n: int) -> str:
    """So many random schemas at temperature 1: what became of them."""
    import jsonschema

    counts: Counter[str] = Counter()
    with LLM(path, n_ctx=1024) as llm:
        requests = []
        for seed in range(n):
            how = SamplingParams(
                json_schema=random_schema(Random(seed)), temperature=1, seed=seed, max_tokens=600
            )
            requests.append(how)
        ids = llm.chat_template.encode(ASKED)
        outputs = llm.generate([ids] * n, requests, return_exceptions=True)
        for how, output in zip(requests, outputs, strict=True):
            if isinstance(output, Exception):
                counts["refused" if isinstance(output, ConstraintError) else "failed"] += 1
            elif output.finish_reason == "length":
                counts["cut"] += 1
            else:
                try:
                    jsonschema.validate(json.loads(output.text), how.json_schema)
                    counts["valid"] += 1
                except (jsonschema.ValidationError, ValueError):
                    counts["not valid"] += 1
                    print(how.json_schema, output.text)
    return f"{path.name}: {n} schemas: " + ", ".join(f"{k} {v}" for k, v in counts.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["masks", "decode", "schemas"])
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("-n", type=int, default=300, help="schemas")
    args = parser.parse_args()
    for path in args.paths:
        if args.what == "schemas":
            print(schemas(path, args.n))
        else:
            print((masks if args.what == "masks" else decode)(path))


if __name__ == "__main__":
    main()
