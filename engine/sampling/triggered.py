"""Constraints that tokens begin, in a text that is free before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from linnet.engine.sampling.constraint import Constraint
from linnet.engine.sampling.mask import Mask


class Triggered:
    """Anything, but that a token of `triggers` begins what its constraint allows, itself first."""

    is_over: Final = False

    def __init__(self, triggers: Mapping[int, Constraint], mask: Mask) -> None:
        self._triggers: Final = triggers
        self.mask: Final = mask
        self._begun: Constraint | None = None

    @property
    def is_free(self) -> bool:
        return self._begun is None

    def fill(self) -> None:
        """See `Constraint.fill`."""
        if self._begun is not None:
            self._begun.fill()

    def accept(self, token_id: int) -> None:
        """Take a token. Raises ConstraintError."""
        if self._begun is None and token_id in self._triggers:
            self._begun = self._triggers[token_id].copy()
        if self._begun is not None:
            self._begun.accept(token_id)
            if self._begun.is_over:
                self._begun = None

    def forced(self) -> list[int]:
        """See `Constraint.forced`."""
        return [] if self._begun is None else self._begun.forced()
