"""The speed limit of decoding: how fast this machine reads the weights that a token needs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from linnet.engine.session import Session
from linnet.kernels.bandwidth import BLOCK, ReadBytes
from linnet.kernels.program import Buffer, Program, Rows

PASSES = 3


def weights_read(session: Session) -> list[npt.NDArray[np.uint8]]:
    """The packed matrices that one token multiplies; of the embedding only a row is read."""
    given = [step.arguments.get("weights") for step in session.program.steps]
    return [weights for weights in given if isinstance(weights, np.ndarray)]


def read_bandwidth(session: Session, arrays: Sequence[npt.NDArray[np.uint8]]) -> float:
    """Bytes a second that the session's threads read of these arrays and do nothing else with.

    The best of a few passes over all of them: so caches help as much as they help decoding.
    """
    program = Program(max_tokens=1, max_outputs=1)
    for array in arrays:
        sums = np.zeros(-(-array.nbytes // BLOCK), np.uint64)
        out = Buffer("sums", Rows.TOKENS, 0, sums.dtype, sums)
        data = array.reshape(-1)
        program.step("read", ReadBytes(), data=data, out=out, n_bytes=data.nbytes)
    program.state[:] = 1
    seconds = []
    with session.exclusively():
        lowered = program.lower(session.library)
        for _ in range(PASSES):
            started = time.perf_counter()
            session.team.run(lowered)
            seconds.append(time.perf_counter() - started)
    return sum(array.nbytes for array in arrays) / min(seconds)
