"""Batches of rows as data engines hand them over: columns to read, and columns to add."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def column_names(batch: Any) -> list[str]:
    """Raises TypeError for what is no batch: see `linnet.batch.Predictor`."""
    if isinstance(batch, Mapping):
        return [*batch]
    if _is_pandas(batch):
        return [*batch.columns]
    if _is_arrow(batch):
        return [*batch.schema.names]
    kinds = "a dict of lists or arrays, a pandas DataFrame, or a pyarrow Table or RecordBatch"
    raise TypeError(f"the batch is a {type(batch).__name__}; it must be {kinds}")


def column(batch: Any, name: str) -> list[Any]:
    """Its values, those within them, too, as Python's own lists and dicts."""
    values = batch.column(name).to_pylist() if _is_arrow(batch) else batch[name]
    return [_plain(value) for value in values]


def with_columns(batch: Any, like: str, columns: Mapping[str, tuple[type, Sequence[Any]]]) -> Any:
    """A batch of its kind with more columns: the type, int or str, of each, and its values, of
    which those of str may be None. In a dict they are lists, or arrays where the column `like` is
    one. Types do not depend on the values: engines put batches together."""
    if _is_arrow(batch):
        import pyarrow as pa  # the engine's, which then has it

        for name, (type_, values) in columns.items():
            arrow_type = pa.int64() if type_ is int else pa.string()
            batch = batch.append_column(name, pa.array(values, arrow_type))
        return batch
    if isinstance(batch, Mapping) and not isinstance(batch[like], np.ndarray):
        return {**batch, **{name: [*values] for name, (_, values) in columns.items()}}
    arrays = {
        name: np.array(values, np.int64 if type_ is int else object)
        for name, (type_, values) in columns.items()
    }
    if isinstance(batch, Mapping):
        return {**batch, **arrays}
    texts = {name: "string" for name, (type_, _) in columns.items() if type_ is str}
    return batch.assign(**arrays).astype(texts)


def _is_pandas(batch: Any) -> bool:
    return hasattr(batch, "assign") and hasattr(batch, "columns")


def _is_arrow(batch: Any) -> bool:
    return hasattr(batch, "append_column") and hasattr(batch, "schema")


def _plain(value: Any) -> Any:
    """Without the arrays in which engines keep lists."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value
