"""`linnet quantize`: a model file in, a smaller one out, and a line on what became of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from linnet.engine.cli.counts import count
from linnet.engine.cli.model import add_model_flags, model_path
from linnet.engine.cli.tables import print_table
from linnet.engine.machine import MOST_THREADS
from linnet.engine.quantize.quantize import Quantized, quantize_file
from linnet.engine.quantize.recipes import COPY, RECIPES, Overrides, quantizable, recipe_name

TYPES = ", ".join((*RECIPES, COPY))
WORDS = "the words are MODEL [OUT.gguf] TYPE [THREADS], without MODEL behind -m"
threads = count(1, MOST_THREADS)


def configure(parser: argparse.ArgumentParser) -> None:
    add_model_flags(parser)
    add = parser.add_argument
    add("words", nargs="?", metavar="MODEL", help="the model to quantise")
    add(
        "target", nargs="?", metavar="OUT.gguf",
        help="the file to write; default ggml-model-TYPE.gguf, beside MODEL",
    )  # fmt: skip
    add("type", nargs="?", metavar="TYPE", help=f"one of {TYPES}; or its number in llama.cpp")
    add("last", nargs="?", metavar="THREADS", help="as --threads")
    add("--threads", type=threads, metavar="N", help="default: one for each core")
    add("--force", action="store_true", help="replace OUT.gguf if it is there")
    add("--dry-run", action="store_true", help="show types and sizes, and write nothing")
    add(
        "--allow-requantize", action="store_true",
        help="quantise what is quantised already, which is worse than quantising the original",
    )  # fmt: skip
    add("--keep-split", action="store_true", help="as many files as MODEL has, in place of one")
    add("--imatrix", metavar="FILE", help="how much each column matters, as llama-imatrix found")
    add = parser.add_argument_group("types").add_argument
    add("--pure", action="store_true", help="all matrices in TYPE, in place of a mix")
    add("--leave-output-tensor", action="store_true", help="leave output.weight as it is")
    add("--output-tensor-type", type=_type_name, metavar="TYPE", help="of output.weight")
    add("--token-embedding-type", type=_type_name, metavar="TYPE", help="of the token embedding")
    add(
        "--tensor-type", type=_tensor_type, action="append", default=[], metavar="NAME=TYPE",
        help="of tensors in whose names NAME is found, a regular expression; may be repeated",
    )  # fmt: skip
    add("--tensor-type-file", metavar="FILE", help="a file of such, between spaces or line ends")


def run(arguments: argparse.Namespace) -> int:
    words = _placed(
        [arguments.words, arguments.target, arguments.type, arguments.last], arguments.model
    )
    if arguments.threads and words.threads:
        raise ValueError("threads are given twice: by --threads, and behind TYPE")
    arguments.model = words.model
    is_file = os.path.exists(words.model)
    source, target = str(model_path(arguments)), words.target
    if arguments.dry_run:
        target = None
    elif target is None:
        if not is_file:
            raise ValueError("OUT.gguf is wanted: MODEL is kept in a cache, which is no place")
        target = str(Path(source).with_name(f"ggml-model-{words.type}.gguf"))
    tensors: dict[str, str] = {}
    for pattern, type_name in [*arguments.tensor_type, *_listed(arguments.tensor_type_file)]:
        tensors.setdefault(pattern, type_name)  # the first holds
    quantized = quantize_file(
        source,
        target,
        words.type,
        overrides=Overrides(
            pure=arguments.pure,
            leave_output=arguments.leave_output_tensor,
            output=arguments.output_tensor_type,
            embeddings=arguments.token_embedding_type,
            tensors=tensors,
        ),
        imatrix=arguments.imatrix,
        allow_requantize=arguments.allow_requantize,
        keep_split=arguments.keep_split,
        threads=arguments.threads or words.threads,
        force=arguments.force,
        progress=True,
    )
    if target is None:
        _print(quantized)
    print(f"{target or 'nothing is written'}: {summary(quantized)}", file=sys.stderr)
    return 0


def summary(quantized: Quantized) -> str:
    """One line for people: sizes, bits per weight, seconds, and the tensors of each type."""
    sizes = [quantized.source_bytes, quantized.target_bytes]
    megabytes = " -> ".join(f"{size / 1e6:,.1f} MB" for size in sizes)
    bits = " -> ".join(f"{8 * size / max(quantized.n_weights, 1):.2f}" for size in sizes)
    types = ", ".join(f"{n} {type}" for type, n in quantized.n_tensors.items())
    return f"{megabytes}, {bits} bits per weight, {quantized.seconds:.1f} s; {types}"


def _print(quantized: Quantized) -> None:
    """A table of what would become of each tensor."""
    rows = [
        (t.name, " x ".join(map(str, t.shape)), t.source_type, t.target_type,
         f"{t.source_bytes:,}", f"{t.target_bytes:,}")
        for t in quantized.tensors
    ]  # fmt: skip
    header = "tensor", "shape", "from", "to", "bytes", "bytes then"
    print_table(header, rows, numbers=("bytes", "bytes then"))


# ---- what is given -------------------------------------------------------------------------------


class _Words(NamedTuple):
    model: str
    target: str | None
    type: str
    threads: int | None


def _placed(given: Iterable[str | None], model: str | None) -> _Words:
    """What goes without a flag: the word behind MODEL is the type if it is one, and else the file
    to write, as llama-quantize has it. `model`: what a flag gives. Raises ValueError."""
    words = [word for word in given if word is not None]
    if model is None and words:
        model = words.pop(0)
    target = words.pop(0) if words and not recipe_name(words[0]) else None
    if model is None or not words:
        unknown = f"{target!r} is no type, and " if target else ""
        raise ValueError(f"{unknown}a TYPE is wanted, one of {TYPES}; {WORDS}")
    word, *rest = words
    type_name = recipe_name(word)
    if type_name is None:
        raise ValueError(f"type {word!r} is unknown; it must be one of {TYPES}; {WORDS}")
    if len(rest) > 1:
        raise ValueError(f"there is no place for {rest[1]!r}; {WORDS}")
    try:
        return _Words(model, target, type_name, threads(rest[0]) if rest else None)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"THREADS: {error}") from error


def _listed(path: str | None) -> list[tuple[str, str]]:
    """What a file has of NAME=TYPE. Raises ValueError for anything else in it; OSError."""
    words = Path(path).read_text(encoding="utf-8").split() if path else []
    try:
        return [_tensor_type(word) for word in words]
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{path!r}: {error}") from error


def _type_name(text: str) -> str:
    """An argument type: a type that tensors can be quantised to."""
    if text.upper() not in quantizable():
        message = f"{text!r} must be one of {', '.join(quantizable())}"
        raise argparse.ArgumentTypeError(message)
    return text.upper()


def _tensor_type(text: str) -> tuple[str, str]:
    """An argument type: NAME=TYPE."""
    pattern, _, type_name = text.rpartition("=")
    if not pattern:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=TYPE, as attn_v=Q8_0")
    return pattern, _type_name(type_name)
