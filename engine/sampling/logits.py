"""A token's logits, and what a pass knows of them: enough to not look at them all again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from linnet.kernels.ops.softmax import BLOCK

Floats = NDArray[np.float32]
# Of a sum of exponentials in f32. A difference of 87 is rounded by 2.6e-6, and so is its
# exponential, of which f32 has 1e-7 and a sum of 256 another 2e-6; below, exponentials are 0.
_DOUBT: Final = 1e-5


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """What is known of all tokens' logits.

    `maxima`: (n_blocks,) the highest of each 256 ids; `highest`: that of all; `total`: the sum of
    exp(logit - highest), which is wrong by at most `doubt`. A logit that is NaN or infinite makes
    the total NaN.
    """

    maxima: Floats
    highest: float
    total: float
    doubt: float

    @classmethod
    def of(cls, maxima: Floats, sums: Floats) -> Blocks:
        """Of what `SoftmaxBlocks` makes of a row. Always the same order, so the same bits."""
        with np.errstate(invalid="ignore"):
            shares = np.exp(np.subtract(maxima, maxima.max(), dtype=np.float64))
            total = float((shares * sums).sum())
        return cls(maxima, float(maxima.max()), total, _DOUBT * total)

    def after(self, old: Floats, new: Floats, index: NDArray[np.intp]) -> Blocks:
        """The same once the logits at `index`, each once, are those of `new`, the others `old`."""
        blocks = np.unique(index // BLOCK)
        maxima = self.maxima.copy()
        maxima[blocks] = new.take(columns(blocks), mode="clip").max(axis=1)
        highest = float(maxima.max())
        with np.errstate(over="ignore", invalid="ignore"):
            scale = np.exp(self.highest - highest)
            gone, come = (
                np.exp(np.subtract(some[index], highest, dtype=np.float64)).sum()
                for some in (old, new)
            )
            total = float(self.total * scale - gone + come)
            doubt = float(self.doubt * scale + 1e-12 * (self.total * scale + gone + come))
        if not math.isfinite(doubt):  # where the likeliest by far has been ruled out
            total, doubt = 0.0, math.inf
        return Blocks(maxima, highest, total, doubt)


class Logits(NamedTuple):
    """The logits (n_vocab,) of one position as a pass leaves them, views until the next one."""

    values: Floats
    blocks: Blocks

    def log_sum_exp(self) -> float:
        """log(sum of exp(logit)), by which a logit is above its log-probability. NaN where a logit
        is not finite."""
        return self.blocks.highest + math.log(self.blocks.total)  # the highest alone adds 1


def columns(blocks: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n, 256) the ids in blocks; those of the last may go beyond the vocabulary."""
    return blocks[:, None] * BLOCK + np.arange(BLOCK)


@lru_cache(maxsize=4)
def all_ids(n_vocab: int) -> NDArray[np.intp]:
    """(n_vocab,) every token's id: one array for all samplers, of which there may be thousands."""
    ids = np.arange(n_vocab)
    ids.flags.writeable = False
    return ids
