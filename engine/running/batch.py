"""What one pass over the weights does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """Tokens that a pass appends to the sequence in a slot, and of how many of them, from the
    last, it makes logits."""

    slot: int
    ids: Sequence[int]
    n_outputs: int = 1


class Batch(NamedTuple):
    """The tokens of one pass: an id, a slot and a position each, those of a sequence in order.

    `outputs`: the rows, counted from the pass's first token, whose logits are wanted.
    `few`: tokens go through the kernels for few rows (GEMV), at most MOST_FEW_ROWS of them, as
    generated tokens do; else through those for many (GEMM), as prompts do. Sums are taken in
    another order there, so a token's bits depend on this and on nothing else.
    `few_outputs`: the same of the rows that logits are made of.
    """

    ids: Sequence[int]
    slots: Sequence[int]
    positions: Sequence[int]
    outputs: Sequence[int]
    few: bool
    few_outputs: bool = True

    @classmethod
    def of(
        cls, parts: Sequence[Part], ends: Sequence[int], *, few: bool, few_outputs: bool = True
    ) -> Batch:
        """The parts one after another; `ends`: the position at which each begins."""
        ids: list[int] = []
        slots: list[int] = []
        positions: list[int] = []
        outputs: list[int] = []
        for part, end in zip(parts, ends, strict=True):
            ids += part.ids
            slots += [part.slot] * len(part.ids)
            positions += range(end, end + len(part.ids))
            outputs += range(len(ids) - part.n_outputs, len(ids))
        return cls(ids, slots, positions, outputs, few, few_outputs)

    @property
    def n_rows(self) -> tuple[int | None, int | None]:
        """The numbers of tokens and of outputs that kernels are specialised for; None for any."""
        n_outputs = max(1, len(self.outputs))  # a pass without any counts them at run time
        return len(self.ids) if self.few else None, n_outputs if self.few_outputs else None
