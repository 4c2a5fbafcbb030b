"""What a slot of the cache holds: the tokens of one sequence, and how they were computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class CachedSequence:
    """The tokens whose keys and values are in a slot, in order from position 0.

    `recurrent`: there is a state, too, which is that of all of them or of no use.
    """

    ids: list[int] = field(default_factory=list)
    n_from_prompts: int = 0  # how many of them, from the first, a prompt pass computed
    recurrent: bool = False

    def reusable(self, ids: Sequence[int]) -> int:
        """How many of `ids`, from the first, are cached as a prompt pass would compute them."""
        n = 0
        for ours, theirs in zip(self.ids[: self.n_from_prompts], ids, strict=False):
            if ours != theirs:
                break
            n += 1
        if self.recurrent and not n == len(self.ids) < len(ids):
            return 0
        return n

    def interrupted(self) -> None:
        """A pass over this sequence has ended midway."""
        if self.recurrent:
            self.truncate(0)

    def truncate(self, n: int) -> None:
        """Forget all but the first `n` tokens."""
        del self.ids[n:]
        self.n_from_prompts = min(self.n_from_prompts, n)
