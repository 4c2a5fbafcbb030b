"""How much of the prompts that wait a pass takes."""

from __future__ import annotations

from collections.abc import Sequence

FEWEST = 8  # tokens of prompts in a pass
SECONDS = 0.08  # that a pass over prompts may take while others decode
DECODE_PASSES = 2  # or as long as so many of theirs, where weights alone take longer to read


def shares(lengths: Sequence[int], size: int) -> list[int]:
    """How many tokens of each prompt fit a pass of `size`: as many of each, what short ones leave
    to the others, and what is left over to the first."""
    given = [0] * len(lengths)
    while size > 0 and (hungry := [i for i, n in enumerate(lengths) if given[i] < n]):
        each = max(1, size // len(hungry))
        for i in hungry:
            more = min(lengths[i] - given[i], each, size)
            given[i] += more
            size -= more
    return given


class PromptPasses:
    """Bounds passes over prompts in time, so that whoever decodes waits no longer than a moment.

    `size`: the most tokens in the next one. A pass takes time of its own and time for each token;
    scaled by the last one's, the size comes near the bound from below:

        size = size * bound / seconds         # from half to twice as many
    """

    def __init__(self) -> None:
        self.size = FEWEST
        self._owed = 0.0  # seconds of decoding until the next

    @property
    def due(self) -> bool:
        """Whether decoding has had as much time as the last pass over prompts took."""
        return self._owed <= 0

    def ran(self, seconds: float, decode_seconds: float) -> None:
        """A pass of `size` tokens, or the last of them, has taken so long; `decode_seconds`: the
        last of the others' passes."""
        bound = max(SECONDS, DECODE_PASSES * decode_seconds)
        self.size = max(FEWEST, round(self.size * min(2.0, max(0.5, bound / seconds))))
        self._owed = seconds

    def decoded(self, seconds: float) -> None:
        self._owed -= seconds
