"""From token ids to vectors: the states after a model's last norm, made into one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from linnet.engine.running.finite import finite
from linnet.engine.running.runner import Floats
from linnet.engine.running.session import Session

POOLINGS: dict[str, Callable[[Floats], Floats]] = {  # of (n_tokens, n_embd)
    "mean": lambda states: states.mean(axis=0),
    "cls": lambda states: states[0],
    "last": lambda states: states[-1],
}


def embed(session: Session, ids: Sequence[int], *, pooling: str, normalize: bool) -> Floats:
    """The vector (n_embd,) of one text; `session`: one whose rows are states, not logits.

    `normalize`: to a length of 1. Raises what `Session.all_logits` raises, and NonFiniteLogits.
    """
    vector = POOLINGS[pooling](finite(session.all_logits(ids)))
    length = np.linalg.norm(vector) if normalize else 0
    return vector / length if length > 0 else vector
