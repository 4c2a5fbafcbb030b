"""What a slot of the cache holds: the tokens of one sequence, and how they were computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class CachedSequence:
    """The tokens whose keys and values are in a slot, in order from position 0."""

    ids: list[int] = field(default_factory=list)
    n_from_prompts: int = 0  # how many of them, from the first, a prompt pass computed

    def reusable(self, ids: Sequence[int]) -> int:
        """How many of `ids`, from the first, are cached as a prompt pass would compute them."""
        n = 0
        for ours, theirs in zip(self.ids[: self.n_from_prompts], ids, strict=False):
            if ours != theirs:
                break
            n += 1
        return n

    def truncate(self, n: int) -> None:
        """Forget all but the first `n` tokens."""
        del self.ids[n:]
        self.n_from_prompts = min(self.n_from_prompts, n)
