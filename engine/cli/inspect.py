"""`linnet inspect`: a GGUF file as tables, and its weights checked for NaN and infinity."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np

from linnet.engine.cli.model import add_model, model_path
from linnet.engine.gguf.reader import GGUFFile, Tensor
from linnet.kernels.quants import WEIGHT_TYPES

SHOWN_CHARACTERS = 60
SHOWN_ELEMENTS = 3


def configure(parser: argparse.ArgumentParser) -> None:
    add_model(parser, required=True)
    parser.add_argument(
        "--check", action="store_true", help="look for NaN and infinity in all weights; 1 if any"
    )
    parser.add_argument("--no-tensors", action="store_true", help="leave out the table of tensors")


def run(arguments: argparse.Namespace) -> int:
    """Tables on stdout; the status is 1 where --check finds something."""
    with GGUFFile(str(model_path(arguments))) as file:
        print(f"{file.path.name!r}: GGUF version {file.version}, alignment {file.alignment}\n")
        rows = [(key, _shown(file.metadata[key])) for key in file.metadata]
        _table(("metadata", "value"), rows)
        tensors = file.tensors.values()
        if not arguments.no_tensors:
            print()
            described = [
                (t.name, t.type.name, " x ".join(map(str, t.shape)), f"{t.data.nbytes:,}")
                for t in tensors
            ]
            _table(("tensor", "type", "shape", "bytes"), described)
        print()
        count = Counter(t.type.name for t in tensors)
        n_bytes = Counter[str]()
        for t in tensors:
            n_bytes[t.type.name] += t.data.nbytes
        types = [
            (name, str(count[name]), f"{size:,}", "yes" if name in WEIGHT_TYPES else "no")
            for name, size in n_bytes.most_common()
        ]
        total = (str(len(tensors)), f"{n_bytes.total():,}", "")
        _table(("type", "tensors", "bytes", "kernels"), [*types, ("all", *total)])
        return _check(tensors) if arguments.check else 0


def _check(tensors: Collection[Tensor]) -> int:
    """A line for every tensor that is not all finite, and one on the whole; 1 if there is any."""
    print()
    known = [tensor for tensor in tensors if tensor.type.name in WEIGHT_TYPES]
    n_bad = 0
    for tensor in known:
        type = WEIGHT_TYPES[tensor.type.name]
        if n_blocks := type.n_not_finite(tensor.data):
            n_bad += 1
            total = f"of {tensor.data.nbytes // type.bytes:,} blocks of {type.block}"
            print(f"{tensor.name}: {n_blocks:,} {total} weights have NaN or infinity in {type}")
    others = len(tensors) - len(known)
    skipped = f"; {others} are of types without kernels, not looked at" if others else ""
    print(f"{len(known)} tensors looked at, {n_bad} with NaN or infinity{skipped}")
    return 1 if n_bad else 0


def _shown(value: object) -> str:
    """A value on one line, cut where it is long."""
    if isinstance(value, str | bytes | int | float):
        text = repr(value)
        if len(text) > SHOWN_CHARACTERS:
            text = f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"
        return text
    items = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(items, list):
        return repr(items)
    first = ", ".join(map(_shown, items[:SHOWN_ELEMENTS]))
    return f"[{first}, ...] ({len(items)})" if len(items) > SHOWN_ELEMENTS else f"[{first}]"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; `bytes` and counts to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [
            cell.rjust(width) if name in ("bytes", "tensors") else cell.ljust(width)
            for cell, width, name in zip(row, widths, header, strict=True)
        ]
        print("  ".join(cells).rstrip())
