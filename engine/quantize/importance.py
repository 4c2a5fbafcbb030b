"""How much each input of each matrix matters: what llama-imatrix has seen of a model's activations.

It is a mean of squares for each column of a matrix, over the tokens of some text. There are two
forms of file. In a GGUF file the sums of squares are tensors `NAME.in_sum2` (n_experts, n_columns),
and `NAME.counts` (n_experts, 1) what each is to be divided by. The older form, `.dat`, is packed:

    i32 number of entries
    entries    i32 length and name, i32 calls, i32 number of values, f32 values: means times calls
    perhaps    i32 number of chunks, i32 length and name of the data set
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from linnet.engine.gguf.metadata import STRING, U32
from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.gguf.writer import MetadataValue

LEAST: Final = 1e-4  # of the mean: an input that a text never had may be had by another
SUMS, COUNTS = ".in_sum2", ".counts"


class ImportanceError(ValueError):
    """A file that holds no importance matrix, or one of another model. Says where, and why."""


@dataclass(frozen=True, slots=True)
class Importance:
    """Means of squares (n_experts, n_columns) by the names of matrices, or flat where a file does
    not say how many experts there are."""

    path: str
    means: Mapping[str, NDArray[np.float32]]
    dataset: str = ""
    n_chunks: int = 0

    def of(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """What the weights of a matrix count, by expert and column: (n_experts, n_columns), around
        1; None if nothing is known of it. Raises `ImportanceError` for another shape."""
        found = self.means.get(name)
        if found is None:
            return None
        n_experts, n_columns = int(np.prod(shape[:-2])), shape[-1]
        if found.size != n_experts * n_columns:
            known = f"{found.size} numbers for {name!r}"
            wanted = f"{n_experts} times {n_columns}" if n_experts > 1 else n_columns
            raise ImportanceError(f"{self.path!r} has {known}; this model's has {wanted} columns")
        means = found.reshape(n_experts, n_columns)
        scale = means.mean(axis=1, keepdims=True)
        means = np.where(scale > 0, means / np.where(scale > 0, scale, 1), 1)
        return np.maximum(means, LEAST).astype(np.float32)

    def metadata(self) -> dict[str, MetadataValue]:
        """What llama-quantize notes of it in a file."""
        values = {
            "file": MetadataValue(STRING, self.path),
            "dataset": MetadataValue(STRING, self.dataset),
            "entries_count": MetadataValue(U32, len(self.means)),
            "chunks_count": MetadataValue(U32, self.n_chunks),
        }
        return {f"quantize.imatrix.{key}": value for key, value in values.items() if value.value}


def read_importance(path: str | os.PathLike[str]) -> Importance:
    """A file of either form. Raises `ImportanceError` if it is neither, or holds numbers that are
    not finite or below 0; `GGUFError` for a GGUF file that is not valid; OSError."""
    with open(path, "rb") as file:
        is_gguf = file.read(4) == b"GGUF"
    found = _of_gguf(path) if is_gguf else _of_dat(path)
    for name, means in found.means.items():
        if not (np.isfinite(means).all() and (means >= 0).all()):
            raise ImportanceError(f"{found.path!r}: {name!r} has numbers that cannot be means")
    if not found.means:
        raise ImportanceError(f"{found.path!r} has no importance matrix in it")
    return found


def _of_gguf(path: str | os.PathLike[str]) -> Importance:
    with GGUFFile(path) as file:
        shown = os.fspath(file.path)
        arrays: dict[str, NDArray[np.float32]] = {}
        for name, tensor in file.tensors.items():
            if not name.endswith((SUMS, COUNTS)):
                continue
            if tensor.type.name != "F32":
                raise ImportanceError(f"{shown!r}: {name!r} is {tensor.type.name}; it must be F32")
            arrays[name] = tensor.data.view("<f4").reshape(tensor.shape)
        means = {}
        for name, sums in arrays.items():
            if not name.endswith(SUMS):
                continue
            matrix = name.removesuffix(SUMS)
            counts = arrays.get(f"{matrix}{COUNTS}", np.empty(0, np.float32)).reshape(-1, 1)
            if not counts.size or sums.size % counts.size:
                raise ImportanceError(
                    f"{shown!r}: {matrix + COUNTS!r} has {counts.size} numbers; "
                    f"{name!r} has {sums.size}, which must be a multiple"
                )
            n = np.rint(counts)
            rows = sums.reshape(len(n), -1)
            means[matrix] = np.where(n > 0, rows / np.where(n > 0, n, 1), 1).astype(np.float32)
        datasets = file.get("imatrix.datasets", list, [])
        n_chunks = file.get("imatrix.chunk_count", int, 0)
        return Importance(shown, means, str(datasets[0]) if datasets else "", n_chunks)


def _of_dat(path: str | os.PathLike[str]) -> Importance:
    source = _Bytes(Path(path))
    means = {}
    for _ in range(source.count("entries")):
        name = source.text("a name")
        n_calls = source.number(f"calls of {name!r}")
        values = source.take(4 * source.count(f"values of {name!r}"), name).view("<f4")
        means[name] = (values / max(n_calls, 1)).astype(np.float32)
    if source.at == source.data.size:
        return Importance(source.path, means)
    n_chunks = source.count("chunks")
    dataset = source.text("data set") if source.at < source.data.size else ""
    return Importance(source.path, means, dataset, n_chunks)


class _Bytes:
    """A packed file, read front to back; everything is checked against what is left of it."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = os.fspath(path), 0
        self.data = np.fromfile(path, np.uint8)

    def take(self, n_bytes: int, what: str) -> NDArray[np.uint8]:
        left = self.data.size - self.at
        if n_bytes > left:
            limit = f"{n_bytes} bytes are said to come, and there are {left}"
            raise ImportanceError(f"{self.path!r} is no importance matrix: {what}: {limit}")
        self.at += n_bytes
        return self.data[self.at - n_bytes : self.at]

    def number(self, what: str) -> int:
        return int(self.take(4, what).view("<i4")[0])

    def count(self, what: str) -> int:
        number = self.number(what)
        if number < 0:
            raise ImportanceError(f"{self.path!r} is no importance matrix: {number} {what}")
        return number

    def text(self, what: str) -> str:
        return self.take(self.count(f"bytes of {what}"), what).tobytes().decode(errors="replace")
