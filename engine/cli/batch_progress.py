"""How far a batch is, on stderr: a bar on a terminal, elsewhere a line every half minute."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from linnet.engine.batch.output import Counts

QUIET_SECONDS = 30.0  # between two lines


class Progress:
    """`counts`: of what there is, which others go on counting; `before`: of what there was when
    this run began; `n`: answers that there are to be. Its block is where they come. `quiet`: show
    nothing."""

    def __init__(self, counts: Counts, before: Counts, n: int, *, quiet: bool) -> None:
        self._counts, self._before, self._n, self._quiet = counts, before, n, quiet
        self._began = self._told = time.perf_counter()
        self._seconds = 0.0
        self._bar: Any = None

    def __enter__(self) -> Self:
        self._began = self._told = time.perf_counter()
        if not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm  # which takes a moment to import

            self._bar = tqdm(total=self._n, initial=self._counts.answers, unit=" answers")
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds = time.perf_counter() - self._began
        if self._bar is not None:
            self._bar.close()

    def update(self) -> None:
        """Another answer is there."""
        now = time.perf_counter()
        self._seconds = now - self._began
        if self._bar is not None:
            self._bar.set_postfix_str(self._figures(), refresh=False)
            self._bar.update()
        elif not self._quiet and now - self._told >= QUIET_SECONDS:
            self._told = now
            there = self._counts.answers
            left = (self._n - there) * self._seconds / (there - self._before.answers)
            self._tell(
                f"{there:,} of {self._n:,} answers, {self._figures()}, {_duration(left)} left"
            )

    def conclude(self) -> None:
        """The last line."""
        there, before = self._counts.answers, self._before.answers
        line = f"{there:,} answers"
        if there < self._n:
            line = f"stopped at {there:,} of {self._n:,} answers"
        if before:
            line += f", {'all' if before == there else f'{before:,} of them'} from before"
        line += f", {_several(self._counts.errors, 'error')}"
        if there > before:
            line += f", {self._rates()}, {_duration(self._seconds)}"
        if there < self._n:
            line += "; the same command goes on from there"
        if not self._quiet:
            self._tell(line)

    def _figures(self) -> str:
        return f"{_several(self._counts.errors, 'error')}, {self._rates()}"

    def _rates(self) -> str:
        """Of this run."""
        counts, before = self._counts, self._before
        each = {
            "prompt": counts.prompt_tokens - before.prompt_tokens,
            "generated": counts.generated_tokens - before.generated_tokens,
        }
        seconds = max(self._seconds, 1e-9)
        return ", ".join(
            f"{name} {n:,} tokens, {n / seconds:,.0f} tok/s" for name, n in each.items()
        )

    def _tell(self, line: str) -> None:
        print(f"linnet: {line}", file=sys.stderr, flush=True)


def _several(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
