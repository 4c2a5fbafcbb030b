"""`linnet inspect`: a GGUF file as tables or JSON, and its weights checked for NaN and infinity."""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from linnet.engine.cli.model import add_model, model_path
from linnet.engine.cli.tables import print_table
from linnet.engine.gguf.reader import GGUFFile, Tensor
from linnet.kernels.quants import WEIGHT_TYPES

SHOWN_CHARACTERS = 60
SHOWN_ELEMENTS = 3
SHORT_ELEMENTS = 16  # in JSON
NUMBERS = ("bytes", "bits", "tensors")  # columns


def configure(parser: argparse.ArgumentParser) -> None:
    add_model(parser, required=True)
    parser.add_argument(
        "--check", action="store_true", help="look for NaN and infinity in all weights; 1 if any"
    )
    parser.add_argument("--no-tensors", action="store_true", help="leave out the table of tensors")
    parser.add_argument(
        "-o", "--output", choices=("text", "json"), default="text", help="json: one object"
    )
    parser.add_argument("--json", dest="output", action="store_const", const="json", help="-o json")
    parser.add_argument(
        "--full", action="store_true", help="values of any length, which are shortened otherwise"
    )


def run(arguments: argparse.Namespace) -> int:
    """Tables or an object on stdout; the status is 1 where --check finds something."""
    with GGUFFile(str(model_path(arguments))) as file:
        tensors = file.tensors.values()
        bad = [*_not_finite(tensors)] if arguments.check else []
        if arguments.output == "json":
            found = _as_json(file, full=arguments.full, with_tensors=not arguments.no_tensors)
            if arguments.check:
                found["not_finite"] = {tensor.name: n for tensor, n in bad}
            print(json.dumps(found, indent=2, allow_nan=False))
            return 1 if bad else 0
        print(f"{file.path.name!r}: GGUF version {file.version}, alignment {file.alignment}\n")
        shown = repr if arguments.full else _shown
        rows = [(key, shown(_plain(file.metadata[key]))) for key in file.metadata]
        print_table(("metadata", "value"), rows)
        if not arguments.no_tensors:
            print()
            described = [
                (t.name, t.type.name, " x ".join(map(str, t.shape)), f"{t.data.nbytes:,}",
                 f"{bits_per_weight([t]):.2f}")
                for t in tensors
            ]  # fmt: skip
            print_table(("tensor", "type", "shape", "bytes", "bits"), described, numbers=NUMBERS)
        print()
        _print_types(tensors)
        if arguments.check:
            _print_check(tensors, bad)
        return 1 if bad else 0


def bits_per_weight(tensors: Iterable[Tensor]) -> float:
    """Of all of them together; 0 where there are no weights."""
    tensors = list(tensors)
    n_weights = sum(math.prod(tensor.shape) for tensor in tensors)
    return 8 * sum(tensor.data.nbytes for tensor in tensors) / max(n_weights, 1)


def _print_types(tensors: Collection[Tensor]) -> None:
    """How many tensors there are of each type, largest first, and what they take."""
    by_type: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.type.name, []).append(tensor)
    size = Counter({name: sum(t.data.nbytes for t in some) for name, some in by_type.items()})
    rows = [
        (name, str(len(by_type[name])), f"{n_bytes:,}", f"{bits_per_weight(by_type[name]):.2f}",
         "yes" if name in WEIGHT_TYPES else "no")
        for name, n_bytes in size.most_common()
    ]  # fmt: skip
    total = ("all", str(len(tensors)), f"{size.total():,}", f"{bits_per_weight(tensors):.2f}", "")
    print_table(("type", "tensors", "bytes", "bits", "kernels"), [*rows, total], numbers=NUMBERS)


def _as_json(file: GGUFFile, *, full: bool, with_tensors: bool) -> dict[str, Any]:
    """Sizes and offsets in bytes; shapes are slowest first. A long array is its `length` and its
    `first` elements, unless it is to be `full`."""
    tensors = file.tensors.values()
    found: dict[str, Any] = {
        "file": str(file.path),
        "version": file.version,
        "alignment": file.alignment,
        "n_tensors": len(tensors),
        "n_weights": sum(math.prod(tensor.shape) for tensor in tensors),
        "bytes": sum(tensor.data.nbytes for tensor in tensors),
        "bits_per_weight": bits_per_weight(tensors),
        "metadata": {key: _jsonable(file.metadata[key], full=full) for key in file.metadata},
    }
    if with_tensors:
        parts = file.parts
        found["tensors"] = [
            {
                "name": tensor.name,
                **({"file": path.name} if len(parts) > 1 else {}),
                "type": tensor.type.name,
                "shape": tensor.shape,
                "bytes": tensor.data.nbytes,
                "offset": tensor.offset,
                "bits_per_weight": bits_per_weight([tensor]),
            }
            for path, part in parts
            for tensor in part.values()
        ]
    return found


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _jsonable(value: object, *, full: bool) -> object:
    """The same as JSON has it: bytes that are no text by their escapes, and NaN and infinity, which
    it lacks, by their names."""
    value = _plain(value)
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if not isinstance(value, list):
        return value
    if full or len(value) <= SHORT_ELEMENTS:
        return [_jsonable(each, full=full) for each in value]
    return {"length": len(value), "first": _jsonable(value[:SHORT_ELEMENTS], full=full)}


def _not_finite(tensors: Collection[Tensor]) -> Iterable[tuple[Tensor, int]]:
    """Those that are not all finite, of types with kernels, and in how many blocks."""
    for tensor in tensors:
        type = WEIGHT_TYPES.get(tensor.type.name)
        if type and (n_blocks := type.n_not_finite(tensor.data)):
            yield tensor, n_blocks


def _print_check(tensors: Collection[Tensor], bad: Collection[tuple[Tensor, int]]) -> None:
    """A line for every tensor that is not all finite, and one on the whole."""
    print()
    for tensor, n_blocks in bad:
        type = WEIGHT_TYPES[tensor.type.name]
        total = f"of {tensor.data.nbytes // type.bytes:,} blocks of {type.block}"
        print(f"{tensor.name}: {n_blocks:,} {total} weights have NaN or infinity in {type}")
    n_known = sum(tensor.type.name in WEIGHT_TYPES for tensor in tensors)
    others = len(tensors) - n_known
    skipped = f"; {others} are of types without kernels, not looked at" if others else ""
    print(f"{n_known} tensors looked at, {len(bad)} with NaN or infinity{skipped}")


def _shown(value: object) -> str:
    """A value on one line, cut where it is long."""
    if isinstance(value, str | bytes | int | float):
        text = repr(value)
        if len(text) > SHOWN_CHARACTERS:
            text = f"{text[:SHOWN_CHARACTERS]}... ({len(text)} characters)"
        return text
    if not isinstance(value, list):
        return repr(value)
    first = ", ".join(map(_shown, value[:SHOWN_ELEMENTS]))
    return f"[{first}, ...] ({len(value)})" if len(value) > SHOWN_ELEMENTS else f"[{first}]"
