"""How far logits are from those of the same weights in F32: of linnet and of llama.cpp.

usage: python scripts/compare_exactness.py FILE... [-f TEXT] [-c 400] [--chunks 8] [--check]

The truth is the FILE's weights unpacked to F32, multiplied in f32 by linnet, keys and values in
f32. Held against it, from the second half of each window of -c tokens, as llama-perplexity scores:

    NMSE        sum((logits - truth)^2) / sum(truth^2)
    same top    the share of tokens for which both find the same next token likeliest
    KL          the mean of sum(p * log(p / q)), p of the truth, in nats

The last line is llama.cpp with the F32 weights: what the two engines differ by for other reasons.
Without a TEXT, it is pydoc's help on Python's own language. With --check the exit status is 1 where
linnet's NMSE or KL is not below the lowest of llama.cpp's with the packed weights.
Needs `pip install llama-cpp-python`, which compiles.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from compare_perplexity import cut_text, unpacked
from comparing import add_text, given_text, require_llamacpp, table

from linnet import LLM
from linnet.engine.measure.perplexity import Window, rows_a_pass, scored
from linnet.engine.running.runner import Floats

AT_ONCE = 16  # rows of logits that are compared in float64


@dataclass
class Exactness:
    """What logits are off by, summed over the rows added so far."""

    n_rows: int = 0
    n_same: int = 0
    error: float = 0.0
    square: float = 0.0
    divergence: float = 0.0

    def add(self, logits: Floats, truth: Floats) -> None:
        """Both (n, n_vocab)."""
        for start in range(0, len(truth), AT_ONCE):
            ours, theirs = (
                rows[start : start + AT_ONCE].astype(np.float64) for rows in (logits, truth)
            )
            self.n_rows += len(theirs)
            self.n_same += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())
            self.error += float(((ours - theirs) ** 2).sum())
            self.square += float((theirs**2).sum())
            log_q, log_p = log_softmax(ours), log_softmax(theirs)
            self.divergence += float((np.exp(log_p) * (log_p - log_q)).sum())

    @property
    def nmse(self) -> float:
        return self.error / self.square

    @property
    def same_top(self) -> float:
        return self.n_same / self.n_rows

    @property
    def kl(self) -> float:
        return self.divergence / self.n_rows

    def row(self, name: str) -> list[str]:
        return [name, f"{self.nmse:.3g}", f"{self.same_top:.2%}", f"{self.kl:.3g}"]


def log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE")
    add_text(parser)
    add("-c", "--ctx-size", type=int, default=400)
    add("--chunks", type=int, default=8, help="the first so many windows alone (8)")
    add("-t", "--threads", type=int, default=2)
    add("--check", action="store_true", help="fail where linnet is not the more exact")
    a = parser.parse_args()

    require_llamacpp()
    text = given_text(a)
    passed = True
    for path in a.files:
        cut = cut_text(path, text, a.ctx_size, a.chunks)
        results = compare(path, cut, n_ctx=a.ctx_size, n_threads=a.threads)
        rows = [result.row(name) for name, result in results.items()]
        print(table([path.name, "NMSE", "same top", "KL, nats"], rows), end="\n\n", flush=True)
        ours, *theirs, _ = results.values()
        passed &= is_more_exact(ours, *theirs)
    if a.check and not passed:
        sys.exit(1)


def compare(path: Path, cut: Sequence[Window], **how: int) -> dict[str, Exactness]:
    """linnet first, then llama.cpp with the file, last llama.cpp with the weights in F32.

    `how`: n_ctx, n_threads. Window by window, so that memory holds the logits of one.
    """
    from llamacpp_logits import logits as by_llamacpp

    plain = {"in_f32": True, "flash_attention": False}
    with tempfile.TemporaryDirectory() as folder:
        whole = unpacked(path, Path(folder, "unpacked.gguf"))
        truth = by_linnet(whole, cut, activations="f32", **how)
        engines = {
            "linnet, int8": by_linnet(path, cut, activations="int8", **how),
            "llama.cpp, f16 cache, flash attention": by_llamacpp(
                str(path), cut, flash_attention=True, **how
            ),
            "llama.cpp, f32 cache": by_llamacpp(str(path), cut, **plain, **how),
            "llama.cpp, f32 cache, F32 weights": by_llamacpp(str(whole), cut, **plain, **how),
        }
        results = {name: Exactness() for name in engines}
        for expected, *found in zip(truth, *engines.values(), strict=True):
            for result, logits in zip(results.values(), found, strict=True):
                result.add(logits, expected)
    return results


def by_linnet(
    path: Path, cut: Sequence[Window], *, n_ctx: int, n_threads: int, activations: str
) -> Iterator[Floats]:
    """The rows (n, n_vocab) that predict each window's targets."""
    with (
        LLM(path, n_ctx=n_ctx, n_threads=n_threads, activations=activations) as llm,
        closing(llm.session(n_outputs=rows_a_pass(llm.config.n_vocab, n_ctx))) as session,
    ):
        for window in cut:
            yield np.concatenate([rows.copy() for rows, _ in scored(session, window)])


def is_more_exact(ours: Exactness, *others: Exactness) -> bool:
    """Whether NMSE and KL are both below all of the others'."""
    return ours.nmse < min(o.nmse for o in others) and ours.kl < min(o.kl for o in others)


if __name__ == "__main__":
    main()
