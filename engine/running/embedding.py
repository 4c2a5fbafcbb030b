"""From token ids to vectors: the states after a model's last norm, made into one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from linnet.engine.running.finite import finite
from linnet.engine.running.runner import Floats
from linnet.engine.running.session import Session
from linnet.models.parts.config import Config
from linnet.models.parts.errors import ModelError

POOLINGS: dict[str, Callable[[Floats], Floats]] = {  # of (n_tokens, n_embd)
    "mean": lambda states: states.mean(axis=0),
    "cls": lambda states: states[0],
    "last": lambda states: states[-1],
}


def pooling_of(asked: str | None, config: Config, path: Path) -> str:
    """The name of one of them: the one asked for or, for None, that of the file at `path`, or else
    the mean.

    Raises ModelError for a file that ranks texts and has no vectors, and ValueError.
    """
    if asked is None:
        asked = "mean" if config.pooling == "none" else config.pooling
        if asked not in POOLINGS:
            found = f"{config.architecture}.pooling_type is {asked}, for scores of texts"
            raise ModelError(
                f"{os.fspath(path)!r}: {found}; embed makes vectors by another pooling="
            )
    if asked not in POOLINGS:
        raise ValueError(f"pooling is {asked!r}; it must be one of {', '.join(POOLINGS)}")
    return asked


def embed(session: Session, ids: Sequence[int], *, pooling: str, normalize: bool) -> Floats:
    """The vector (n_embd,) of one text; `session`: one whose rows are states, not logits.

    `normalize`: to a length of 1. Raises what `Session.all_logits` raises, and NonFiniteLogits.
    """
    vector = POOLINGS[pooling](finite(session.all_logits(ids)))
    length = np.linalg.norm(vector) if normalize else 0
    return vector / length if length > 0 else vector
