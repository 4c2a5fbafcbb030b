"""What types of cache cost at the end of long contexts: logits against those with f32, perplexity.

usage: python scripts/compare_caches.py FILE... [-f TEXT] [-c 8192] [--rows 1024] [--chunks 1]

The last --rows tokens of each window of -c tokens are scored. The truth is the file's weights times
f32 activations, keys and values in f32; held against it, as compare_exactness.py does: the same
with caches of other types, and int8 activations with each. Without a TEXT, it is pydoc's help on
Python's own language, repeated as often as it takes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
from compare_exactness import Exactness
from comparing import add_text, given_text, table

from linnet import LLM
from linnet.engine.measure.perplexity import Mean, losses, rows_a_pass
from linnet.engine.running.finite import finite
from linnet.engine.running.runner import Floats

TRUTH = "f32", "f32", "f32"
WAYS = (  # activations, keys, values
    TRUTH,
    ("f32", "f16", "f16"),
    ("f32", "f16", "q8_0"),
    ("f32", "q8_0", "f16"),
    ("f32", "q8_0", "q8_0"),
    ("int8", "f32", "f32"),
    ("int8", "f16", "f16"),
    ("int8", "q8_0", "q8_0"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE")
    add_text(parser)
    add("-c", "--ctx-size", type=int, default=8192)
    add("--rows", type=int, default=1024, help="scored of each window (1024)")
    add("--chunks", type=int, default=1, help="windows (1)")
    add("-t", "--threads", type=int, default=2)
    a = parser.parse_args()
    text = given_text(a)
    heads = ["activations", "keys", "values", "NMSE", "same top", "KL, nats", "perplexity"]
    for path in a.files:
        n_ctx, n_rows = a.ctx_size, min(a.rows, a.ctx_size - 1)
        ids = tokens(path, text, n_ctx * a.chunks)
        rows = compare(path, ids.reshape(-1, n_ctx), n_rows=n_rows, n_threads=a.threads)
        print(f"{path.name}, the last {n_rows} of {n_ctx} tokens")
        print(table(heads, rows), end="\n\n", flush=True)


def tokens(path: Path, text: str, n: int) -> npt.NDArray[np.int32]:
    with LLM(path, n_ctx=64) as llm:
        return np.resize(np.array(llm.tokenizer.encode(text), np.int32), n)


def compare(
    path: Path, windows: npt.NDArray[np.int32], *, n_rows: int, n_threads: int
) -> list[list[str]]:
    results = {way: (Exactness(), Mean()) for way in WAYS}
    for ids in windows:
        targets = ids[-n_rows:].astype(np.int64)
        with ExitStack() as stack:
            engines = [
                stack.enter_context(closing(logits(path, way, ids, n_rows, n_threads)))
                for way in WAYS
            ]
            done = 0
            for truth, *others in zip(*engines, strict=True):
                part = targets[done : done + len(truth)]
                done += len(truth)
                for way, found in zip(WAYS, (truth, *others), strict=True):
                    results[way][0].add(found, truth)
                    results[way][1].add(losses(found, part))
    return [
        [*way, *exactness.row("")[1:], f"{loss.perplexity:.4f}"]
        for way, (exactness, loss) in results.items()
    ]


def logits(
    path: Path, way: tuple[str, str, str], ids: npt.NDArray[np.int32], n_rows: int, n_threads: int
) -> Iterator[Floats]:
    """Those (n, n_vocab) that predict the last `n_rows` tokens, in parts."""
    activations, keys, values = way
    with (
        LLM(
            path,
            n_ctx=len(ids),
            n_threads=n_threads,
            activations=activations,
            cache_type_k=keys,
            cache_type_v=values,
        ) as llm,  # fmt: skip
        closing(llm.session(n_outputs=rows_a_pass(llm.config.n_vocab, n_rows))) as session,
    ):
        first = len(ids) - 1 - n_rows
        for rows in session.each_logits(ids[:-1].tolist(), first=first):
            yield finite(rows)


if __name__ == "__main__":
    main()
