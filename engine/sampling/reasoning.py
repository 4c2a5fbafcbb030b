"""A constraint that begins where the reasoning ends, and a budget for that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from linnet.engine.sampling.constraint import Rule
from linnet.engine.sampling.mask import Mask
from linnet.engine.text.tokenizer import Tokenizer

UNBEGUN, REASONING, ANSWER = range(3)


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """The tokens that open and close it; `begun`: whether the prompt has opened it."""

    opens: Sequence[int]
    closes: Sequence[int]
    begun: bool

    @classmethod
    def of(cls, opens: str, closes: str, tokenizer: Tokenizer, *, begun: bool) -> ReasoningTags:
        """Of the texts of the tags."""

        def ids(tag: str) -> Sequence[int]:
            return tokenizer.encode(tag, add_special=False, parse_special=True)

        return cls(ids(opens), ids(closes), begun)


class Reasoned:
    """What `answer` allows once the reasoning is closed; before, anything but an end. A `Rule`.

    An answer whose prompt has not opened it may begin with it, where that is one token, or with
    what is constrained. After `budget` tokens of reasoning it is closed. Without an `answer`,
    anything may follow, and the reasoning may end, too.
    """

    def __init__(
        self, answer: Rule | None, mask: Mask, tags: ReasoningTags, tokenizer: Tokenizer, *,
        budget: int | None = None,
    ) -> None:  # fmt: skip
        self._answer, self._tags, self._tokenizer = answer, tags, tokenizer
        self.mask: Final = mask
        self._left = math.inf if budget is None else budget  # tokens of the reasoning
        self._n_closed = 0  # tokens of the closing tag that have come because none was left
        self._closing = b"".join(map(tokenizer.token_bytes, tags.closes))
        self._tail = b""  # of the reasoning
        self._state = REASONING if tags.begun else UNBEGUN if len(tags.opens) == 1 else ANSWER

    @property
    def is_free(self) -> bool:
        if self._is_closing:
            return False
        return self._answer is None or self._answer.is_free

    @property
    def is_over(self) -> bool:
        return self._state == ANSWER and self._answer is not None and self._answer.is_over

    @property
    def _is_closing(self) -> bool:
        return self._state == REASONING and self._left <= 0

    def fill(self) -> None:
        if self._is_closing:
            self.mask.allow_only([self._tags.closes[self._n_closed]])
        elif self._state == REASONING:
            self.mask.allow_all_but(self._tokenizer.eog_ids)
        elif self._answer is not None:
            self._answer.fill()
            if self._state == UNBEGUN:
                self.mask.allow(self._tags.opens)

    def accept(self, token_id: int) -> None:
        if self._state == REASONING:
            self._reason(token_id)
        elif self._state == UNBEGUN and token_id == self._tags.opens[0]:
            self._state = REASONING
        else:
            self._state = ANSWER
            if self._answer is not None:
                self._answer.accept(token_id)

    def _reason(self, token_id: int) -> None:
        if self._is_closing:
            self._n_closed += 1
        self._left -= 1
        self._tail = (self._tail + self._tokenizer.token_bytes(token_id))[-2 * len(self._closing) :]
        if self._closing in self._tail or self._n_closed == len(self._tags.closes):
            self._state = ANSWER

    def forced(self) -> list[int]:
        if self._is_closing:
            return [*self._tags.closes[self._n_closed :]]
        return self._answer.forced() if self._answer and self._state == ANSWER else []
