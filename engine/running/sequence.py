"""What a slot of the cache holds: the tokens of one sequence, and how they were computed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from linnet.kernels.ops.attention import NO_WINDOW
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
    slot: int = 0
    ids: list[int] = field(default_factory=list)
    n_from_prompts: int = 0  # how many of them, from the first, a prompt pass computed
    n_computed: int = 0  # positions written since the first, those of tokens forgotten included
    n_touched: int = 0  # positions whose memory is taken
    n_answer: int = 0  # tokens of an answer that end those of prompts; the next may leave them out

    def reusable(self, ids: Sequence[int]) -> int:
        """How many of `ids`, from the first, are cached as a prompt pass would compute them.

        Never the last one, whose logits are wanted; and none where what the next would see is not
        kept any more.
        """
        n = min(n_common(self.ids, ids), self.n_from_prompts, len(ids) - 1)
        return n if self.can_go_on_at(n) else 0

    def will_reuse(self, prompt: Sequence[int], ids: Sequence[int]) -> int:
        """The same once all of `prompt`, which begins with its tokens, is cached."""
        n = min(n_common(prompt, ids), len(ids) - 1)
        return n if all(ring.holds(n, len(prompt)) for ring in self.rings) else 0

    def can_go_on_at(self, n: int) -> bool:
        """Whether all layers keep what a token at position `n` sees."""
        return all(ring.holds(n, self.n_computed) for ring in self.rings)

    def begin(self, n: int) -> None:
        """A pass over `n` more tokens begins, which may end midway."""
        end = len(self.ids) + n
        self.n_computed, self.n_touched = max(self.n_computed, end), max(self.n_touched, end)

    def extend(self, ids: Sequence[int], *, by_prompt: bool) -> None:
        """A pass over these has ended."""
        self.ids.extend(ids)
        if by_prompt:
            self.n_from_prompts, self.n_answer = len(self.ids), 0

    def take(self, other: CachedSequence, n: int) -> None:
        """The first `n` tokens of another, and all that its layers keep, have been copied here."""
        self.restore(other.ids[:n], other.n_computed)
        self.n_from_prompts = min(other.n_from_prompts, n)

    def restore(self, ids: Sequence[int], n_computed: int) -> None:
        """What layers keep of tokens that prompts computed has been put here; `n_computed` is the
        sequence's that they come from."""
        self.ids, self.n_from_prompts, self.n_answer = list(ids), len(ids), 0
        self.n_computed, self.n_touched = n_computed, max(self.n_touched, len(ids))

    def released(self, first: int) -> None:
        """Memory of positions from `first` on is given back; that of windows as a whole, or not."""
        windows = [ring.capacity for ring in self.rings if first and ring.window < NO_WINDOW]
        self.n_touched = min(self.n_touched, max([first, *windows]))

    def interrupted(self) -> None:
        """A pass over this sequence has ended midway."""
        if not self.can_go_on_at(len(self.ids)):
            self.truncate(0)

    def truncate(self, n: int) -> None:
        """Forget all but the first `n` tokens."""
        del self.ids[n:]
        n_prompt = self.n_from_prompts - self.n_answer
        self.n_from_prompts = min(self.n_from_prompts, n)
        self.n_answer = max(0, self.n_from_prompts - n_prompt)
        if not n:
            self.n_computed = 0


def n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids, from the first, are the same: in runs, each twice as long as the last, and by
    halving the one that differs, as lists compare at native speed."""
    low, step, most = 0, 8, min(len(a), len(b))
    while low + step <= most and a[low : low + step] == b[low : low + step]:
        low, step = low + step, 2 * step
    high = min(low + step, most)
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
