"""`linnet quantize`: a model file in, a smaller one out, and a line on what became of it."""

from __future__ import annotations

import argparse
import sys

from linnet.engine.cli.counts import count
from linnet.engine.cli.model import add_model_flags, model_path
from linnet.engine.machine import MOST_THREADS
from linnet.engine.quantize.quantize import Quantized, quantize_file
from linnet.engine.quantize.recipes import RECIPES


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_flags(parser)
    parser.add_argument("source", nargs="?", metavar="MODEL", help="the model to quantise")
    parser.add_argument("target", metavar="OUT.gguf", help="the file to write")
    parser.add_argument("type", metavar="TYPE", type=str.upper, help=f"one of {', '.join(RECIPES)}")
    parser.add_argument(
        "--threads", type=count(1, MOST_THREADS), metavar="N", help="default: one for each core"
    )
    parser.add_argument("--force", action="store_true", help="replace OUT.gguf if it is there")


def run(arguments: argparse.Namespace) -> int:
    if (arguments.source is None) == (arguments.model is None):
        raise ValueError("one model, MODEL or -m MODEL, is wanted (see linnet quantize --help)")
    arguments.model = arguments.model or arguments.source
    quantized = quantize_file(
        str(model_path(arguments)),
        arguments.target,
        arguments.type,
        threads=arguments.threads,
        force=arguments.force,
        progress=True,
    )
    print(f"{arguments.target}: {summary(quantized)}", file=sys.stderr)
    return 0


def summary(quantized: Quantized) -> str:
    """One line for people: sizes, bits per weight, seconds, and the tensors of each type."""
    sizes = [quantized.source_bytes, quantized.target_bytes]
    megabytes = " -> ".join(f"{size / 1e6:,.1f} MB" for size in sizes)
    bits = " -> ".join(f"{8 * size / max(quantized.n_weights, 1):.2f}" for size in sizes)
    types = ", ".join(f"{n} {type}" for type, n in quantized.n_tensors.items())
    return f"{megabytes}, {bits} bits per weight, {quantized.seconds:.1f} s; {types}"
