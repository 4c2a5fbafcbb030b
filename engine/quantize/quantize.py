"""Quantise a model: an F32, F16 or BF16 GGUF file becomes a smaller one.

Tensors are read, quantised and written one after the other, so that no more than one of them is in
memory. The new file takes its name only when it is complete.
"""

from __future__ import annotations

import glob
import math
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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
from linnet.engine.quantize.importance import Importance, read_importance
from linnet.engine.quantize.outputs import outputs
from linnet.engine.quantize.recipes import (
    COPY,
    EMBEDDINGS,
    OUTPUT,
    RECIPES,
    Overrides,
    Recipe,
    choose_types,
)
from linnet.kernels.compiler.files import new_file
from linnet.kernels.quants import WEIGHT_TYPES, FloatType
from linnet.kernels.quants.base import BATCH

NOT_SEEN = (OUTPUT, *EMBEDDINGS)  # of which llama-imatrix has nothing, unless it is asked to


class QuantizeError(ValueError):
    """A file that cannot be quantised as asked. Says which file or tensor, and why."""


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a tensor; sizes in bytes."""

    name: str
    shape: tuple[int, ...]
    source_type: str
    target_type: str
    source_bytes: int
    target_bytes: int


@dataclass(frozen=True, slots=True)
class Quantized:
    """What `quantize_file` did; sizes are those of the tensors, in bytes."""

    tensors: Sequence[Change]
    seconds: float

    @property
    def n_weights(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    @property
    def source_bytes(self) -> int:
        return sum(tensor.source_bytes for tensor in self.tensors)

    @property
    def target_bytes(self) -> int:
        return sum(tensor.target_bytes for tensor in self.tensors)

    @property
    def n_tensors(self) -> Mapping[str, int]:
        """By type."""
        return Counter(tensor.target_type for tensor in self.tensors)


def quantize_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str] | None,
    type_name: str,
    *,
    overrides: Overrides | None = None,
    imatrix: str | os.PathLike[str] | None = None,
    allow_requantize: bool = False,
    keep_split: bool = False,
    threads: int | None = None,
    force: bool = False,
    progress: bool = False,
) -> Quantized:
    """Write `target`: the file `source` with its matrices in `type_name`, a key of `RECIPES`, or as
    they are: COPY. Without a target, only say what would be.

    `overrides`: what holds in place of the recipe's choices. `imatrix`: a file of how much each
    column of each matrix matters. `allow_requantize`: quantise what is quantised already, from what
    is left of it. `keep_split`: write as many files as the source has, TARGET-00001-of-0000N.gguf,
    in place of one. `threads`: one for each core by default; the file is the same for any number.
    `force`: replace `target` if it is there. `progress`: show a bar on stderr if it is a terminal.

    Warns of what costs quality, and of overrides without use.

    Raises `QuantizeError` for an unknown type, for a target that is there or is the source, for a
    source that is quantised already, and for weights that are not finite or are beyond the range
    of the type; `ImportanceError` for an `imatrix` that is none, or that of another model;
    `GGUFError` if `source` is not a valid GGUF file; `OSError` if a file cannot be read or written.
    Whatever is raised, `target` is as it was before.
    """
    start = time.perf_counter()
    recipe = _recipe(type_name, overrides, imatrix)
    importance = None if imatrix is None else read_importance(imatrix)
    if recipe and recipe.needs_importance and importance is None and target is not None:
        raise QuantizeError(f"{recipe.name} wants an importance matrix (--imatrix); Q2_K does not")
    with GGUFFile(source) as file:
        files = [] if target is None else outputs(Path(target), file, keep_split=keep_split)
        for output in files:
            _check_target(output.path, file.path, force=force)
        types = choose_types(file, recipe, overrides, has_importance=importance is not None)
        _check_source(file, types, allow_requantize=allow_requantize)
        entries = {name: _entry(tensor, types[name]) for name, tensor in file.tensors.items()}
        weights = _importance(file, types, importance)
        metadata = _metadata(file, recipe, importance)
        with (
            ExitStack() as open_files,
            _workers(threads) as pool,
            _progress_bar(file, shown=progress) as bar,
        ):
            for output in files:  # of which none takes its name before all are complete
                out = open_files.enter_context(new_file(output.path))
                table = [entries[name] for name in output.tensors]
                out.write(pack_header(output.metadata(metadata), table, file.alignment))
                for name, tensor in output.tensors.items():
                    packed = _packed(tensor, types[name], weights.get(name), pool, bar)
                    out.write(packed.data)
                    out.write(padding(packed.size, file.alignment))
        changes = [
            Change(
                tensor.name, tensor.shape, tensor.type.name, types[tensor.name],
                tensor.data.size, entries[tensor.name].n_bytes,
            )
            for tensor in file.tensors.values()
        ]  # fmt: skip
        return Quantized(changes, time.perf_counter() - start)


# ---- before anything is written ------------------------------------------------------------------


def _recipe(
    type_name: str, overrides: Overrides | None, imatrix: str | os.PathLike[str] | None
) -> Recipe | None:
    """None for COPY."""
    if type_name in RECIPES:
        return RECIPES[type_name]
    if type_name != COPY:
        raise QuantizeError(
            f"type {type_name!r} is unknown; it must be one of {', '.join((*RECIPES, COPY))}"
        )
    if overrides not in (None, Overrides()) or imatrix is not None:
        raise QuantizeError("COPY leaves all as it is: it takes no types and no importance matrix")
    return None


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


def _check_source(
    file: GGUFFile, types: Mapping[str, str], *, allow_requantize: bool
) -> None:  # fmt: skip
    """Raises `QuantizeError` for a tensor that is of no type with kernels, or would be quantised a
    second time; warns where that is allowed."""
    path, again = os.fspath(file.path), Counter[str]()
    for name, tensor in file.tensors.items():
        if types[name] == tensor.type.name:
            continue
        known = WEIGHT_TYPES.get(tensor.type.name)
        if known is None:
            limit = f"quantised are {', '.join(WEIGHT_TYPES)}"
            raise QuantizeError(f"{path!r}: {name!r} is {tensor.type.name}; {limit}")
        if isinstance(known, FloatType):
            continue
        if not allow_requantize:
            limit = "only F32, F16 and BF16 are quantised: begin with the original model"
            raise QuantizeError(
                f"{path!r}: {name!r} is {known} already; {limit}, or take the loss "
                "(--allow-requantize)"
            )
        if not isinstance(WEIGHT_TYPES[types[name]], FloatType):  # which would lose no more
            again[known.name] += 1
    if again:
        what = ", ".join(f"{n} {type}" for type, n in again.items())
        warnings.warn(
            f"tensors are quantised a second time ({what}), from what the first left: this is "
            "worse than quantising the original model, perhaps much",
            stacklevel=3,
        )


def _importance(
    file: GGUFFile, types: Mapping[str, str], importance: Importance | None
) -> dict[str, NDArray[np.float32]]:
    """What the columns count of tensors that are quantised, by name; warns of what is missing."""
    if importance is None:
        return {}
    found, missing = {}, []
    for name, tensor in file.tensors.items():
        if types[name] == tensor.type.name or isinstance(WEIGHT_TYPES[types[name]], FloatType):
            continue
        means = importance.of(name, tensor.shape)
        if means is not None:
            found[name] = means
        elif name not in NOT_SEEN:
            missing.append(name)
    if missing:
        warnings.warn(
            f"{importance.path!r} has nothing on {len(missing)} of {len(missing) + len(found)} "
            f"matrices, which are quantised without: {', '.join(missing[:3])}"
            + (", ..." if len(missing) > 3 else ""),
            stacklevel=3,
        )
    return found


def _entry(tensor: Tensor, type_name: str) -> TensorEntry:
    if type_name == tensor.type.name:
        return TensorEntry(tensor.name, tensor.type.id, tensor.shape, tensor.data.size)
    type = WEIGHT_TYPES[type_name]
    n_bytes = math.prod(tensor.shape[:-1]) * type.row_bytes(tensor.shape[-1])
    return TensorEntry(tensor.name, type.id, tensor.shape, n_bytes)


def _metadata(
    file: GGUFFile, recipe: Recipe | None, importance: Importance | None
) -> dict[str, MetadataValue]:
    """The source's metadata without `split.*`, and with the new type."""
    values = {
        key: MetadataValue(file.metadata.kind(key), value)
        for key, value in file.metadata.items()
        if not key.startswith("split.")
    }
    if recipe is None:
        return values
    return values | {
        "general.quantization_version": MetadataValue(U32, QUANTIZATION_VERSION),
        "general.file_type": MetadataValue(U32, recipe.file_type),
        **(importance.metadata() if importance else {}),
    }


# ---- the work ------------------------------------------------------------------------------------


def _packed(
    tensor: Tensor, type_name: str, importance: NDArray[np.float32] | None,
    pool: ThreadPoolExecutor, bar: tqdm[None],
) -> NDArray[np.uint8]:  # fmt: skip
    """The tensor's bytes (n_bytes,) in the type, made by all threads of the pool. `importance`:
    what its columns count, (n_experts, n_columns)."""
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
        counts = None
        if importance is not None:  # an expert's rows lie together
            experts = np.arange(first, first + len(part)) * len(importance) // len(rows)
            counts = importance[experts]
        packed[first : first + step] = new.quantize(old.dequantize(part), counts)
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
