"""How much of the prompts that wait a pass takes."""

from __future__ import annotations

from collections.abc import Sequence

FEWEST = 8  # tokens of prompts in a pass
GAP = 0.15  # seconds from a token to the next while others' prompts are read
DECODE_PASSES = 2  # or what a pass over prompts may take, in those of the others, which is longer
FEWEST_ALONE = 128  # in a pass while nobody decodes: fewer cost weights more time than tokens
SECONDS_ALONE = 0.5  # that who arrives waits, before its prompt has a share


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


class PassSize:
    """The most tokens in the next pass, which is to stay within some seconds. A pass takes time of
    its own and time for each token; scaled by the last one's, the size nears the bound from below:

        size = tokens * bound / seconds       # from half to twice as many
    """

    def __init__(self, least: int, most: int) -> None:
        """`most`: tokens that a pass may have, however fast it is; `least`: however slow."""
        self._most, self._least = most, min(least, most)
        self.tokens = self._least

    def ran(self, n_tokens: int, seconds: float, bound: float) -> None:
        """A pass of so many has taken so long. One that was not full says nothing of a full one,
        unless it took too long."""
        if n_tokens >= self.tokens or seconds > bound:
            size = round(n_tokens * min(2.0, max(0.5, bound / seconds)))
            self.tokens = min(self._most, max(self._least, size))


class PromptPasses:
    """Bounds passes over prompts in time, so that whoever decodes, or arrives, waits no longer than
    a moment."""

    def __init__(self, most: int) -> None:
        """`most`: tokens that a pass may have."""
        self.beside, self.alone = PassSize(FEWEST, most), PassSize(FEWEST_ALONE, most)
        self._owed = 0.0  # seconds of decoding until the next
        self._decode_seconds = 0.0  # what the last pass over generated tokens took

    @property
    def due(self) -> bool:
        """Whether those that decode have had their share of time since the last."""
        return self._owed <= 0

    def ran(self, n_tokens: int, seconds: float, n_prompts: int, n_decoding: int) -> None:
        """One has taken so long, while so many prompts were left and so many requests decoded.
        These have as much time next, or less where there are more prompts than they are."""
        if not n_decoding:
            self.alone.ran(n_tokens, seconds, SECONDS_ALONE)
            return
        bound = max(GAP - self._decode_seconds, DECODE_PASSES * self._decode_seconds)
        self.beside.ran(n_tokens, seconds, bound)
        self._owed = seconds * min(1.0, n_decoding / n_prompts)

    def decoded(self, seconds: float) -> None:
        """A pass over generated tokens has taken so long."""
        self._decode_seconds = seconds
        self._owed -= seconds
