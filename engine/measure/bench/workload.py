"""Passes of a model without text and sampling: what is measured."""

from __future__ import annotations

import numpy as np

from linnet.engine.measure.roofline import read_bandwidth, weights_read
from linnet.engine.running.batch import Batch
from linnet.engine.running.runner import Floats, Runner
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.attention import Attend
from linnet.models import Model
from linnet.models.parts.numerics import Numerics


class Workload:
    """`n_parallel` sequences of random tokens, each up to `n_ctx` long, that grow together.

    Prompts go through the many-row kernels, `n_batch` tokens of one sequence at a time; then every
    sequence gets a token in each pass of the few-row kernels. `n_filled` positions hold tokens.
    """

    def __init__(
        self, model: Model, library: Library, *, n_threads: int, n_ctx: int, n_batch: int,
        n_parallel: int = 1, numerics: Numerics | None = None,
    ) -> None:  # fmt: skip
        """Raises MemoryError."""
        self.n_parallel, self.n_filled, self.n_batch = n_parallel, 0, min(n_batch, n_ctx)
        n_ctx, n_batch = max(n_ctx, n_parallel), max(n_batch, n_parallel)  # all, in one pass
        self.runner = Runner(
            model, library, n_threads=n_threads, n_ctx=n_ctx, n_slots=n_parallel, n_batch=n_batch,
            n_outputs=n_parallel, numerics=numerics, kv_tokens=n_parallel * n_ctx,
            remedy="fewer tokens (-p, -n, -d, -npl) or smaller passes (-b) need less",
        )  # fmt: skip
        random = np.random.default_rng(0)
        self.ids = [int(i) for i in random.integers(model.config.n_vocab, size=self.n_batch)]
        self.logits: Floats = np.empty((0, 0), np.float32)  # of the last pass

    def prompt(self, n_tokens: int) -> None:
        """Append `n_tokens` to every sequence, as a prompt."""
        start, end = self.n_filled, self.n_filled + n_tokens
        for slot in range(self.n_parallel):
            for first in range(start, end, self.n_batch):
                n = min(self.n_batch, end - first)
                batch = self.prompt_batch(first, n, slot, n_outputs=int(first + n == end))
                self.logits = self.runner.run(batch)
        self.n_filled = end

    def generate(self) -> None:
        """Append a token to every sequence, in one pass."""
        self.logits = self.runner.run(self.token_batch())
        self.n_filled += 1

    def prompt_batch(self, position: int, n: int, slot: int = 0, *, n_outputs: int) -> Batch:
        """`n` tokens of a sequence from `position` on, and logits of the last `n_outputs`."""
        positions, outputs = range(position, position + n), range(n - n_outputs, n)
        return Batch(self.ids[:n], [slot] * n, positions, outputs, few=False)

    def token_batch(self) -> Batch:
        """One token for every sequence."""
        slots, n = range(self.n_parallel), self.n_parallel
        ids = [self.ids[slot % self.n_batch] for slot in slots]
        return Batch(ids, slots, [self.n_filled] * n, slots, few=True)

    def bytes_read(self, n_prompt: int, n_gen: int) -> int:
        """What appending so many tokens has to read, from `n_filled` positions on.

        A pass reads its packed weights (those of the logits where it makes some, and of experts as
        many as it can take), and of each of its sequences the keys and values that its last token
        sees.
        """
        n, middle = self.n_parallel, self.n_filled + n_prompt
        total = 0
        for first in range(self.n_filled, middle, self.n_batch):
            end = min(first + self.n_batch, middle)
            weights = self._weights(end - first, n_outputs=int(end == middle))
            total += n * (weights + self._cached(end))
        for end in range(middle + 1, middle + n_gen + 1):
            total += self._weights(n, n_outputs=n) + n * self._cached(end)
        return total

    def _weights(self, n_tokens: int, *, n_outputs: int) -> int:
        """Bytes of packed weights that a pass reads."""
        return sum(array.nbytes for array in weights_read(self.runner.program, n_tokens, n_outputs))

    def _cached(self, n_positions: int) -> int:
        """Bytes of keys and values that the last of so many tokens of a sequence sees."""
        last = {"slots": np.zeros(1, np.int32), "positions": np.array([n_positions - 1])}
        program = self.runner.program
        return sum(
            step.op.work(**program.arguments(step) | last).n_bytes
            for step in program.steps
            if isinstance(step.op, Attend)
        )

    def read_bandwidth(self) -> float:
        """Bytes a second that these threads can read of these weights; measured now."""
        return read_bandwidth(
            self.runner.team, self.runner.library, weights_read(self.runner.program)
        )

    def close(self) -> None:
        self.runner.close()
