"""Compare the logits of every architecture with llama.cpp's, on small files of random weights.

    python scripts/check_architectures.py [NAME ...]

Prints the squared error relative to llama.cpp's logits, for a prompt read whole and token by token,
with `activations="f32"` and an f32 cache on both sides.
Needs `pip install llama-cpp-python`, which compiles.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from comparing import require_llamacpp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from support.tiny_architectures import N_CTX, N_VOCAB, TINY  # noqa: E402

from linnet import LLM  # noqa: E402

N_TOKENS = 48
Logits = npt.NDArray[np.float32]


def of_llama_cpp(path: Path, tokens: list[int]) -> Logits:
    llama_cpp = require_llamacpp()
    # Where it is not told otherwise, the binding overrides the file's parameters of YaRN.
    model = llama_cpp.Llama(
        str(path), n_ctx=N_CTX, n_batch=N_TOKENS, logits_all=True, verbose=False, n_threads=1,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, flash_attn=False,
        yarn_beta_fast=-1.0, yarn_beta_slow=-1.0, yarn_attn_factor=-1.0,
    )  # fmt: skip
    model.eval(tokens)
    return np.array(model.scores[:N_TOKENS])


def of_linnet(path: Path, tokens: list[int]) -> tuple[Logits, Logits]:
    """Whole, and token by token."""
    llm = LLM(path, n_ctx=N_CTX, activations="f32", n_threads=1)
    session = llm.session()
    rows = [session.prompt(tokens[:1]).copy()]
    rows += [session.extend(token).copy() for token in tokens[1:]]
    session.close()
    return llm.logits(tokens), np.stack(rows)


def error(logits: Logits, truth: Logits) -> float:
    difference = logits.astype(np.float64) - truth
    return float((difference**2).sum() / (truth.astype(np.float64) ** 2).sum())


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare logits with llama.cpp's.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TINY)}, or all")
    names = parser.parse_args().names
    if unknown := set(names) - TINY.keys():
        parser.error(f"no such architecture: {', '.join(sorted(unknown))}")
    require_llamacpp()
    tokens = np.random.default_rng(1).integers(0, N_VOCAB, N_TOKENS).tolist()
    worst = 0.0
    print(f"{'':26} {'whole':>8} {'one by one':>11} {'same top':>9}")
    for name in names or TINY:
        with tempfile.TemporaryDirectory() as folder:
            path = TINY[name].write(Path(folder) / "model.gguf")
            truth = of_llama_cpp(path, tokens)
            whole, one_by_one = of_linnet(path, tokens)
        errors = error(whole, truth), error(one_by_one, truth)
        same = (whole.argmax(axis=1) == truth.argmax(axis=1)).mean()
        print(f"{name:26} {errors[0]:8.1e} {errors[1]:11.1e} {same:9.0%}", flush=True)
        worst = max(worst, *errors)
    return int(not worst < 1e-6)


if __name__ == "__main__":
    sys.exit(main())
