"""`linnet perplexity`: how well a text is predicted, and how far that is from another model."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing, nullcontext
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from linnet.engine.cli.counts import count
from linnet.engine.cli.markup import add_parse_special, note_markup
from linnet.engine.cli.model import add_model
from linnet.engine.cli.options import add_running, open_model
from linnet.engine.cli.reading import read_text
from linnet.engine.llm import LLM
from linnet.engine.measure.divergence import Base, Rows, diverge, new_base
from linnet.engine.measure.perplexity import Mean, losses, n_windows, rows_a_pass, scored, windows
from linnet.engine.running.runner import Floats
from linnet.models.parts.config import MAX_CONTEXT

N_CTX = 512


def configure(parser: argparse.ArgumentParser) -> None:
    """Windows and estimate are llama-perplexity's, and so is the file of --kl-base and --kl."""
    add_model(parser)
    add = parser.add_argument
    add("-f", "--file", metavar="FILE", help="a file with the text; without it, stdin")
    add_parse_special(parser)
    add("--chunks", type=count(1, MAX_CONTEXT), metavar="N", help="the first N windows alone")
    kl = parser.add_mutually_exclusive_group()
    kl.add_argument(
        "--kl-base", "--kl-divergence-base", "--save-all-logits", metavar="FILE",
        help="write what this model predicts, for --kl",
    )  # fmt: skip
    kl.add_argument("--kl", metavar="FILE", help="compare with what --kl-base wrote, on its text")
    add("--kl-divergence", action="store_true", help="--kl with the file of --kl-base")
    add_running(parser, context=f"tokens in a window; 0: the model's; default {N_CTX}")
    add("-q", "--quiet", action="store_true", help="no running estimate on stderr")
    add("-o", "--output", choices=("text", "json"), default="text", help="json: one object")


def run(arguments: argparse.Namespace) -> int:
    """Figures on stdout; the perplexity so far, window by window, on stderr."""
    if arguments.kl_divergence:
        if arguments.kl_base is None:
            raise ValueError("--kl-divergence needs a file: --kl-divergence-base FILE")
        arguments.kl, arguments.kl_base = arguments.kl_base, None
    base = Base.open(arguments.kl) if arguments.kl is not None else None
    named = [arguments.file, arguments.ctx_size, arguments.parse_special or None]
    if base and any(value is not None for value in named):
        without = "without -f and -c, and --parse-special"
        raise ValueError(f"--kl takes text and context from its file: {without}")
    text = "" if base else read_text(arguments.file)
    given = N_CTX if arguments.ctx_size is None else arguments.ctx_size
    with open_model(arguments, n_ctx=base.n_ctx if base else given) as llm:
        n_ctx = llm.n_ctx
        note_markup(llm.tokenizer, text, arguments=arguments)
        encoded = llm.tokenizer.encode(text, parse_special=bool(arguments.parse_special))
        ids = base.ids if base else np.array(encoded, np.int32)
        n = n_windows(len(ids), n_ctx, arguments.chunks, at_least=1 if base else 2)
        figures = _measure(llm, ids[: n * n_ctx], n_ctx, base, arguments)
    print(json.dumps(figures.fields()) if arguments.output == "json" else figures.text())
    return 0


def _measure(
    llm: LLM, ids: npt.NDArray[np.int32], n_ctx: int, base: Base | None,
    arguments: argparse.Namespace,
) -> Figures:  # fmt: skip
    n_vocab, vocabulary = llm.config.n_vocab, llm.tokenizer.vocabulary
    if base and base.n_vocab != n_vocab:
        found = f"{base.n_vocab} tokens, and the model's {n_vocab}; they must be as many"
        raise ValueError(f"the vocabulary of {arguments.kl!r} has {found}")
    path, figures = arguments.kl_base, Figures()
    with (
        new_base(path, ids, n_ctx, n_vocab) if path is not None else nullcontext() as write,
        closing(llm.session(n_outputs=rows_a_pass(n_vocab, n_ctx))) as session,
    ):
        bos_id = vocabulary.bos_id if vocabulary.add_bos else None
        for number, window in enumerate(windows(ids, n_ctx, bos_id=bos_id)):
            for logits, part in scored(session, window):
                figures.loss.add(losses(logits, window.targets[part]))
                if write:
                    write(logits)
                if base:
                    figures.compare(base.rows[number, part], logits, window.targets[part])
            if not arguments.quiet:
                so_far = f"[{number + 1}]{figures.loss.perplexity:.4f},"
                print(so_far, end="", file=sys.stderr, flush=True)
    if not arguments.quiet:
        print(file=sys.stderr)
    return figures


@dataclass(slots=True)
class Figures:
    """What is measured, token by token; all but `loss` only against a base."""

    loss: Mean = field(default_factory=Mean)
    base_loss: Mean = field(default_factory=Mean)
    divergence: Mean = field(default_factory=Mean)
    same_top: Mean = field(default_factory=Mean)

    def compare(self, base: Rows, logits: Floats, targets: npt.NDArray[np.int64]) -> None:
        found = diverge(base, logits, targets)
        self.base_loss.add(found.base_losses)
        self.divergence.add(found.divergences)
        self.same_top.add(found.same_top.astype(np.float64))

    def fields(self) -> dict[str, float]:
        fields: dict[str, float] = {
            "n_tokens": self.loss.n,
            "perplexity": self.loss.perplexity,
            "perplexity_error": self.loss.perplexity_error,
        }
        if self.divergence.n:
            values = self.divergence.values
            fields |= {
                "base_perplexity": self.base_loss.perplexity,
                "base_perplexity_error": self.base_loss.perplexity_error,
                "kl_mean": self.divergence.mean,
                "kl_mean_error": self.divergence.error,
                "kl_99th_percentile": float(np.percentile(values, 99)),
                "kl_maximum": float(values.max()),
                "same_top": self.same_top.mean,
                "same_top_error": self.same_top.error,
            }
        return fields

    def text(self) -> str:
        f = self.fields()
        lines = ["Final estimate: PPL = {perplexity:.4f} +/- {perplexity_error:.5f}"]
        if self.divergence.n:
            lines += [
                "Base:           PPL = {base_perplexity:.4f} +/- {base_perplexity_error:.5f}",
                "KL divergence:  mean {kl_mean:.6f} +/- {kl_mean_error:.6f}, "
                "99% {kl_99th_percentile:.6f}, maximum {kl_maximum:.6f}",
                "Same top token: {same_top:.3%} +/- {same_top_error:.3%}",
            ]
        return "\n".join(lines).format(**f)
