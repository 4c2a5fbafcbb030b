"""What a slot of the cache holds: the tokens of one sequence, and how they were computed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from linnet.models.parts.cache import Ring


class ContextOverflow(ValueError):
    """More tokens than the context holds; raised before anything is computed."""

    def __init__(self, n_tokens: int, n_ctx: int) -> None:
        super().__init__(
            f"{n_tokens} tokens do not fit the context of {n_ctx}: give a larger n_ctx (-c)"
        )
        self.n_tokens, self.n_ctx = n_tokens, n_ctx


@dataclass(slots=True)
class CachedSequence:
    """The tokens whose keys and values are in a slot, in order from position 0.

    `rings`: what layers keep of them.
    """

    rings: Collection[Ring]
    ids: list[int] = field(default_factory=list)
    n_from_prompts: int = 0  # how many of them, from the first, a prompt pass computed
    n_computed: int = 0  # positions written since the first, those of tokens forgotten included

    def reusable(self, ids: Sequence[int]) -> int:
        """How many of `ids`, from the first, are cached as a prompt pass would compute them.

        Never the last one, whose logits are wanted; and none where what the next would see is not
        kept any more.
        """
        n = 0
        for ours, theirs in zip(self.ids[: self.n_from_prompts], ids, strict=False):
            if ours != theirs:
                break
            n += 1
        n = min(n, len(ids) - 1)
        return n if self.can_go_on_at(n) else 0

    def can_go_on_at(self, n: int) -> bool:
        """Whether all layers keep what a token at position `n` sees."""
        return all(ring.holds(n, self.n_computed) for ring in self.rings)

    def begin(self, n: int) -> None:
        """A pass over `n` more tokens begins, which may end midway."""
        self.n_computed = max(self.n_computed, len(self.ids) + n)

    def interrupted(self) -> None:
        """A pass over this sequence has ended midway."""
        if not self.can_go_on_at(len(self.ids)):
            self.truncate(0)

    def truncate(self, n: int) -> None:
        """Forget all but the first `n` tokens."""
        del self.ids[n:]
        self.n_from_prompts = min(self.n_from_prompts, n)
        if not n:
            self.n_computed = 0
