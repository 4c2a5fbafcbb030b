"""The bar that stands in for a long prompt until it is read."""

from __future__ import annotations

from tqdm import tqdm

from linnet.engine.cli.terminal import write

PATIENCE = 0.3  # seconds without a bar


class PromptBar:
    """Writes a prompt to stdout; where it takes more than one pass, after a bar on stderr.

    The bar is gone before the prompt comes, as both may go to one terminal. Called with the
    prompt's tokens that are done and their number; see `LLM.stream`.
    """

    def __init__(self, prompt: str, n_batch: int) -> None:
        self._prompt, self._n_batch = prompt, n_batch
        self._bar: tqdm[None] | None = None

    def __call__(self, n_done: int, n_tokens: int) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=n_tokens, initial=n_done, desc="prompt", unit="tok", delay=PATIENCE,
                leave=False, disable=n_tokens - n_done <= self._n_batch,
            )  # fmt: skip
            if self._bar.disable:
                self._show_prompt()
        elif not self._bar.disable:
            self._bar.update(n_done - self._bar.n)
            if n_done == n_tokens:
                self._bar.close()
                self._show_prompt()

    def _show_prompt(self) -> None:
        write(self._prompt)

    def __enter__(self) -> PromptBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
