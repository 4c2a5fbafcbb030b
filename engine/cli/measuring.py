"""How far measuring has come: a bar on stderr that rows on stdout do not run into, or lines."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from tqdm import tqdm

MOST_LABEL = 32  # characters, so that a bar has room beside it


class Progress:
    """So many steps, or any number for None, in parts that have a label.

    A bar, where stderr is a terminal; with `lines`, a line for each step, wherever it goes.
    """

    def __init__(self, total: int | None, *, lines: bool = False) -> None:
        self._total, self._lines, self._label, self._n = total, lines, "", 0
        self._bar: tqdm[None] = tqdm(
            total=total, disable=True if lines else None, leave=False, file=sys.stderr,
            dynamic_ncols=True,
        )  # fmt: skip

    def begin(self, label: str) -> None:
        """The next steps are of this."""
        self._label = label
        self._bar.set_description(label[:MOST_LABEL])

    def step(self) -> None:
        """One is done."""
        self._n += 1
        self._bar.update()
        if self._lines:
            of = "" if self._total is None else f"/{self._total}"
            print(f"linnet: {self._n}{of}: {self._label}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the bar off the screen until the next step: before a row goes to the same screen."""
        self._bar.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        self._bar.close()
