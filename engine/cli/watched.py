"""A stream and what it has come to, which its last chunk tells, where Ctrl-C lets that come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from linnet.engine.running.generation import Chunk, Stats
from linnet.engine.running.session import Progress


class Watched:
    """Begins a stream when it is called; `stats` is of what has come since."""

    def __init__(self, stream: Callable[..., Iterator[Chunk]]) -> None:
        """`stream` takes `progress`, as LLM.stream does."""
        self._stream, self.stats = stream, Stats(n_prompt=0)

    def __call__(self, progress: Progress | None = None) -> Iterator[Chunk]:
        """Raises what the stream raises before anything is computed."""
        begun = time.perf_counter()

        def tell(n_done: int, n_tokens: int) -> None:
            if not self.stats.n_prompt:  # the first time, before any pass
                self.stats.n_prompt, self.stats.n_cached = n_tokens, n_done
            if progress is not None:
                progress(n_done, n_tokens)

        return self._counted(self._stream(progress=tell), begun)

    def _counted(self, chunks: Iterator[Chunk], begun: float) -> Iterator[Chunk]:
        stats = self.stats
        for chunk in chunks:
            if chunk.token_id is not None:
                if not stats.n_generated:
                    stats.prompt_seconds = time.perf_counter() - begun
                stats.n_generated += 1
                stats.generate_seconds = time.perf_counter() - begun - stats.prompt_seconds
            yield chunk
