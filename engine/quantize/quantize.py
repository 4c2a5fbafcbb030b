"""Quantise a model: an F32, F16 or BF16 GGUF file becomes a smaller one.

Tensors are read, quantised and written one after the other, so that no more than one of them is in
memory. The new file takes its name only when it is complete.
"""

from __future__ import annotations

import glob
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from linnet.engine.gguf.file_types import QUANTIZATION_VERSION
from linnet.engine.gguf.metadata import U32
from linnet.engine.gguf.reader import GGUFFile, Tensor
from linnet.engine.gguf.writer import MetadataValue, TensorEntry, pack_header, padding
from linnet.engine.machine import available_memory, check_memory, usable_threads
from linnet.engine.quantize.recipes import RECIPES, Recipe, choose_types
from linnet.kernels.compiler.files import new_file
from linnet.kernels.quants import WEIGHT_TYPES, FloatType
from linnet.kernels.quants.base import BATCH


class QuantizeError(ValueError):
    """A file that cannot be quantised as asked. Says which file or tensor, and why."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """What `quantize_file` did; sizes are those of the tensors, in bytes."""

    n_weights: int
    source_bytes: int
    target_bytes: int
    n_tensors: Mapping[str, int]  # by type
    seconds: float


def quantize_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    type_name: str,
    *,
    threads: int | None = None,
    force: bool = False,
    progress: bool = False,
) -> Quantized:
    """Write `target`: the file `source` with its matrices in `type_name`, a key of `RECIPES`.

    `threads`: one for each core by default; the file is the same for any number. `force`:
    replace `target` if it is there. `progress`: show a bar on stderr if that is a terminal.

    Raises `QuantizeError` for an unknown type, for a target that is there or is the source, for a
    source that is quantised already, and for weights that are not finite or are beyond the range
    of the type; `GGUFError` if `source` is not a valid GGUF file; `OSError` if a file cannot be
    read or written. Whatever is raised, `target` is as it was before.
    """
    start = time.perf_counter()
    if type_name not in RECIPES:
        raise QuantizeError(
            f"type {type_name!r} is unknown; it must be one of {', '.join(RECIPES)}"
        )
    recipe = RECIPES[type_name]
    with GGUFFile(source) as file:
        _check_target(Path(target), file.path, force=force)
        types = choose_types(file, recipe)
        _check_source(file, types)
        entries = [_entry(tensor, types[name]) for name, tensor in file.tensors.items()]
        with (
            new_file(Path(target)) as output,
            _workers(threads) as pool,
            _progress_bar(file, shown=progress) as bar,
        ):
            output.write(pack_header(_metadata(file, recipe), entries, file.alignment))
            for tensor in file.tensors.values():
                packed = _packed(tensor, types[tensor.name], pool, bar)
                output.write(packed.data)
                output.write(padding(packed.size, file.alignment))
        return Quantized(
            n_weights=sum(math.prod(entry.shape) for entry in entries),
            source_bytes=sum(tensor.data.size for tensor in file.tensors.values()),
            target_bytes=sum(entry.n_bytes for entry in entries),
            n_tensors=Counter(types.values()),
            seconds=time.perf_counter() - start,
        )


# ---- before anything is written ------------------------------------------------------------------


def _check_target(target: Path, source: Path, *, force: bool) -> None:
    """Raises `QuantizeError` if `target` must not be written."""
    if not target.exists():
        return
    parts = glob.escape(source.name).replace("-00001-of-", "-?????-of-")
    if any(target.samefile(part) for part in (source, *source.parent.glob(parts))):
        raise QuantizeError(f"{os.fspath(target)!r} is the file to be quantised")
    if not target.is_file():
        raise QuantizeError(f"{os.fspath(target)!r} is there and is not a regular file")
    if not force:
        raise QuantizeError(f"{os.fspath(target)!r} is there already; --force replaces it")


def _check_source(file: GGUFFile, types: Mapping[str, str]) -> None:
    """Raises `QuantizeError` if a tensor would be quantised a second time."""
    for name, tensor in file.tensors.items():
        is_float = isinstance(WEIGHT_TYPES.get(tensor.type.name), FloatType)
        if types[name] != tensor.type.name and not is_float:
            limit = "only F32, F16 and BF16 are quantised: begin with the original model"
            path = os.fspath(file.path)
            raise QuantizeError(f"{path!r}: {name!r} is {tensor.type.name} already; {limit}")


def _entry(tensor: Tensor, type_name: str) -> TensorEntry:
    if type_name == tensor.type.name:
        return TensorEntry(tensor.name, tensor.type.id, tensor.shape, tensor.data.size)
    type = WEIGHT_TYPES[type_name]
    n_bytes = math.prod(tensor.shape[:-1]) * type.row_bytes(tensor.shape[-1])
    return TensorEntry(tensor.name, type.id, tensor.shape, n_bytes)


def _metadata(file: GGUFFile, recipe: Recipe) -> dict[str, MetadataValue]:
    """The source's metadata without `split.*`, and with the new type."""
    values = {
        key: MetadataValue(file.metadata.kind(key), value)
        for key, value in file.metadata.items()
        if not key.startswith("split.")
    }
    return values | {
        "general.quantization_version": MetadataValue(U32, QUANTIZATION_VERSION),
        "general.file_type": MetadataValue(U32, recipe.file_type),
    }


# ---- the work ------------------------------------------------------------------------------------


def _packed(
    tensor: Tensor, type_name: str, pool: ThreadPoolExecutor, bar: tqdm[None]
) -> NDArray[np.uint8]:
    """The tensor's bytes (n_bytes,) in the type, made by all threads of the pool."""
    if type_name == tensor.type.name:
        bar.update(tensor.data.size)
        return tensor.data
    old, new = WEIGHT_TYPES[tensor.type.name], WEIGHT_TYPES[type_name]
    n_columns = tensor.shape[-1]
    rows = tensor.data.reshape(-1, old.row_bytes(n_columns))
    shape = len(rows), new.row_bytes(n_columns)
    check_memory(math.prod(shape), available_memory(), repr(tensor.name), "free some first")
    packed = np.empty(shape, np.uint8)
    step = max(1, BATCH // n_columns)

    def quantize_part(first: int) -> int:
        part = rows[first : first + step]
        packed[first : first + step] = new.quantize(old.dequantize(part))
        return part.size

    try:
        for n_bytes in pool.map(quantize_part, range(0, len(rows), step)):
            bar.update(n_bytes)
    except ValueError as error:
        raise QuantizeError(f"{tensor.name!r}: {error}") from error
    return packed.reshape(-1)


@contextmanager
def _workers(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads; on exit, tasks that have not begun are dropped: errors do not wait."""
    pool = ThreadPoolExecutor(threads or usable_threads())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _progress_bar(file: GGUFFile, *, shown: bool) -> tqdm[None]:
    total = sum(tensor.data.size for tensor in file.tensors.values())
    hidden = None if shown else True  # None: where stderr is not a terminal
    return tqdm(total=total, unit="B", unit_scale=True, disable=hidden, leave=False)
