"""What layers keep of a sequence from pass to pass, and how far back it can go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linnet.kernels.ir import Type
from linnet.kernels.ops.attention import NO_WINDOW
from linnet.kernels.ops.query_rows import RUN


@dataclass(frozen=True, slots=True)
class Ring:
    """The last `capacity` positions of a sequence, of which a token sees `window`, its own too.

    A state, which is that of all tokens so far, is like a ring that keeps none and needs none.
    """

    capacity: int
    window: int

    @classmethod
    def of(cls, window: int | None, *, n_ctx: int, n_batch: int) -> Ring:
        """Room for what the first of a pass of `n_batch` tokens sees, and for all of the pass.

        So a pass writes over nothing that the token before it, or after it, can see; also one that
        is stopped.
        """
        if window is None:
            return cls(n_ctx, NO_WINDOW)
        return cls(min(n_ctx, -(-(window + n_batch) // RUN) * RUN), window)

    def holds(self, n: int, n_computed: int) -> bool:
        """Whether what a token at position n sees is there, once `n_computed` were written."""
        return max(0, n + 1 - self.window) >= n_computed - self.capacity


STATE = Ring(capacity=0, window=1)


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """Keys and values of one layer, as `linnet.kernels.ops.kv_cache` lays them out."""

    type: Type
    ring: Ring
    keys: npt.NDArray[np.floating]
    values: npt.NDArray[np.floating]
