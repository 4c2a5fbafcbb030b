"""How far a model's predictions are from another's: Kullback-Leibler divergence, token by token.

The other model's predictions are kept in a file, in the format of llama-perplexity's
`--kl-divergence-base`:

    "_logits_"; n_ctx, n_vocab, n_windows (i32 each); tokens (n_windows, n_ctx) i32
    a row for each scored token (n_windows, n_ctx - 1 - n_ctx // 2):
        scale, lowest (f32 each), levels (n_vocab,) u16, and one more where n_vocab is odd
        log p = scale * level + lowest; what is further than 16 below the highest is at level 0
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linnet.engine.measure.perplexity import LEAST_N_CTX, log_sum_exp
from linnet.engine.running.runner import Floats
from linnet.kernels.compiler.files import new_file

MAGIC = b"_logits_"
HEADER = struct.Struct("<8s3i")
REACH = 16.0  # nats below the highest log p that are kept; tokens under e^-16 do not count
LEVELS = 65535
MOST_VOCAB = 1 << 24
MOST_NATS = 1e6  # in a log p

Rows = npt.NDArray[Any]  # records of `row_type`


def row_type(n_vocab: int) -> np.dtype[Any]:
    """A token's predictions in the file."""
    return np.dtype(
        [("scale", "<f4"), ("lowest", "<f4"), ("levels", "<u2", (n_vocab + n_vocab % 2,))]
    )


@dataclass(frozen=True, slots=True)
class Base:
    """The predictions of a base model, mapped from their file."""

    n_ctx: int
    n_vocab: int
    ids: npt.NDArray[np.int32]  # (n_windows * n_ctx,)
    rows: Rows  # (n_windows, scored tokens of a window)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Base:
        """Raises OSError, and ValueError for a file that is not whole."""
        with Path(path).open("rb") as file:
            head = file.read(HEADER.size)
        magic, n_ctx, n_vocab, n = HEADER.unpack(head.ljust(HEADER.size, b"\0"))
        if magic != MAGIC:
            raise ValueError(f"{os.fspath(path)!r} holds no predictions: it begins {magic!r}")
        if n_ctx < LEAST_N_CTX or not 1 <= n_vocab <= MOST_VOCAB or n < 1:
            found = f"n_ctx, n_vocab and windows are {n_ctx}, {n_vocab} and {n}"
            raise ValueError(f"{os.fspath(path)!r}: {found}; no predictions have those")
        type, shape = row_type(n_vocab), (n, n_ctx - 1 - n_ctx // 2)
        start = HEADER.size + 4 * n * n_ctx
        size, found_size = start + shape[0] * shape[1] * type.itemsize, Path(path).stat().st_size
        if found_size != size:
            raise ValueError(f"{os.fspath(path)!r} has {found_size} bytes; it must have {size}")
        ids = np.memmap(path, "<i4", "r", HEADER.size, (n * n_ctx,))
        return cls(n_ctx, n_vocab, ids, np.memmap(path, type, "r", start, shape))


@contextmanager
def new_base(
    path: str | os.PathLike[str], ids: npt.NDArray[np.integer], n_ctx: int, n_vocab: int
) -> Iterator[Callable[[Floats], object]]:
    """Yields a function that writes logits (n, n_vocab) to a new file, named once it is whole.

    `ids`: the tokens of all windows (n_windows * n_ctx,). Raises OSError, FileExistsError for a
    file that is there.
    """
    if Path(path).exists():
        raise FileExistsError(17, "is there already; predictions are not replaced", str(path))
    with new_file(Path(path)) as file:
        file.write(HEADER.pack(MAGIC, n_ctx, n_vocab, len(ids) // n_ctx))
        file.write(ids.astype("<i4").tobytes())
        yield lambda logits: file.write(kept(logits).tobytes())


def kept(logits: Floats) -> Rows:
    """Logits (n, n_vocab) -> records (n,) of log p in 16 bits a token."""
    n, n_vocab = logits.shape
    rows: Rows = np.zeros(n, row_type(n_vocab))
    highest = logits.max(axis=1)
    lowest = np.maximum(logits.min(axis=1), highest - np.float32(REACH))
    rows["scale"] = scale = (highest - lowest) / np.float32(LEVELS)
    rows["lowest"] = lowest - log_sum_exp(logits)
    factor = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    above = np.maximum(logits - lowest[:, None], 0)
    rows["levels"][:, :n_vocab] = np.minimum(np.rint(above * factor[:, None]), LEVELS)
    return rows


@dataclass(frozen=True, slots=True)
class Divergence:
    """Of each of n tokens."""

    base_losses: npt.NDArray[np.float64]  # -log p of the target, by the base
    divergences: npt.NDArray[np.float64]  # in nats
    same_top: npt.NDArray[np.bool_]  # whether both find the same token likeliest


def diverge(base: Rows, logits: Floats, targets: npt.NDArray[np.int64]) -> Divergence:
    """From base (n,) to logits (n, n_vocab).

        d = log p - log p_base;  sum(p_base * (exp(d) - 1 - d))

    which for sums of 1 is sum(p_base * log(p_base / p)). Unlike that, it has no first order in the
    rounding of log p_base to 16 bits: a model is as good as 0 from itself, and never below. Tokens
    under e^-16 in the base do not count, as with llama-perplexity.

    Raises ValueError where the base's numbers are not finite, or beyond all reason.
    """
    scale, lowest = base["scale"], base["lowest"]
    if not (abs(lowest) + abs(scale) * np.float64(LEVELS) <= MOST_NATS).all():
        raise ValueError(f"the base's predictions are not all within {MOST_NATS:g} nats of 0")
    levels = base["levels"][:, : logits.shape[1]]
    log_base = levels * scale[:, None] + lowest[:, None]
    d = logits - log_sum_exp(logits).astype(np.float32)[:, None] - log_base
    terms = np.exp(log_base) * (np.expm1(d) - d)
    rows = np.arange(len(logits))
    return Divergence(
        -log_base[rows, targets].astype(np.float64),
        np.where(log_base > -REACH, terms, 0).sum(axis=1, dtype=np.float64),
        levels[rows, logits.argmax(axis=1)] == levels.max(axis=1),
    )
