"""Rules for answers that may reason: a constraint that begins after it, and a budget for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, Protocol

from linnet.engine.sampling.constraint import Rule
from linnet.engine.sampling.mask import Mask


class Watch(Protocol):
    """Follows an answer, token by token."""

    @property
    def reasons(self) -> bool:
        """Whether what comes next is reasoning."""

    def push(self, token_id: int) -> object: ...


class Reasoned:
    """What `answer` allows where the answer is not reasoning, which may be anything but `kept_out`.
    A `Rule`.

    `opens`: a token with which the answer may begin, to reason first, where it does not do so
    already. `begins`: tokens that end the reasoning as well as they begin what follows.
    """

    def __init__(
        self, answer: Rule, watch: Watch, *, opens: int | None = None,
        kept_out: Collection[int] = (), begins: Collection[int] = (),
    ) -> None:  # fmt: skip
        self._answer, self._watch = answer, watch
        self.mask: Final = answer.mask
        self._opens: int | None = None if watch.reasons else opens
        self._kept_out: Final = kept_out
        self._begins: Final = begins

    @property
    def is_free(self) -> bool:
        return self._answer.is_free

    @property
    def is_over(self) -> bool:
        return not self._watch.reasons and self._answer.is_over

    def fill(self) -> None:
        if self._watch.reasons:
            self.mask.allow_all_but(self._kept_out)
            return
        self._answer.fill()
        if self._opens is not None:
            self.mask.allow([self._opens])

    def accept(self, token_id: int) -> None:
        reasoned, is_opened = self._watch.reasons, token_id == self._opens
        self._opens = None
        if reasoned or is_opened or self._answer.is_free:  # what is held to a form opens nothing
            self._watch.push(token_id)
        is_begun = reasoned and token_id in self._begins
        if not self._watch.reasons and (is_begun or not reasoned):
            self._answer.accept(token_id)

    def forced(self) -> list[int]:
        return [] if self._watch.reasons else self._answer.forced()


class Budgeted:
    """What `rule` allows, or anything, but that after `budget` tokens of reasoning, wherever in the
    answer they come, `closes` has to follow, and then what `rest` allows, or anything. A `Rule`."""

    def __init__(
        self, rule: Rule | None, rest: Rule | None, mask: Mask, watch: Watch, *,
        closes: Sequence[int], budget: int,
    ) -> None:  # fmt: skip
        self._rule, self._rest, self._watch = rule, rest, watch
        self.mask: Final = mask
        self._closes: Final = closes
        self._left = budget
        self._n_closed = 0  # tokens of `closes` that have come because none was left

    @property
    def is_free(self) -> bool:
        return not self._is_closing and (self._rule is None or self._rule.is_free)

    @property
    def is_over(self) -> bool:
        return not self._is_closing and self._rule is not None and self._rule.is_over

    @property
    def _is_closing(self) -> bool:
        return self._n_closed > 0 or (self._left <= 0 and self._watch.reasons)

    def fill(self) -> None:
        if self._is_closing:
            self.mask.allow_only([self._closes[self._n_closed]])
        elif self._rule is not None:
            self._rule.fill()

    def accept(self, token_id: int) -> None:
        if not self._is_closing:
            self._left -= self._watch.reasons
            self._watch.push(token_id)
            if self._rule is not None:
                self._rule.accept(token_id)
            return
        self._watch.push(token_id)
        self._n_closed += 1
        if self._n_closed == len(self._closes):
            self._n_closed, self._rule = 0, self._rest

    def forced(self) -> list[int]:
        if self._is_closing:
            return [*self._closes[self._n_closed :]]
        return [] if self._rule is None else self._rule.forced()
