"""Passes of a model, as a session runs them, without text and sampling: what is measured."""

from __future__ import annotations

import numpy as np

from linnet.engine.machine import available_memory, check_memory
from linnet.engine.measure.bench.work import bytes_seen, seen
from linnet.engine.measure.roofline import read_bandwidth, weights_read
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.attention import Attend
from linnet.kernels.products.linear import Product
from linnet.kernels.quants import WeightType
from linnet.kernels.runtime.program import Lowered, Program
from linnet.kernels.runtime.team import Team
from linnet.models import Model
from linnet.models.parts.graph import Graph


class Runner:
    """`n_parallel` sequences of random tokens, each up to `n_ctx` long, that grow together.

    Prompts go through the many-row kernels, `n_batch` tokens of one sequence at a time; then every
    sequence gets a token in each pass of the few-row kernels. `n_filled` positions hold tokens.
    """

    def __init__(
        self, model: Model, library: Library, *, n_threads: int, n_ctx: int, n_batch: int,
        n_parallel: int = 1, exact: bool = False,
    ) -> None:  # fmt: skip
        self.library, self.n_ctx, self.n_parallel = library, n_ctx, n_parallel
        self.n_batch, self.n_filled = min(n_batch, n_ctx), 0
        self.program = Program(max(self.n_batch, n_parallel), n_parallel)
        graph = Graph(self.program, n_ctx=n_ctx, n_slots=n_parallel, exact=exact)
        self.logits = model.record(graph)
        needed = graph.n_bytes + self.program.layout_bytes(keep=[self.logits])
        check_memory(
            needed, available_memory(), f"{n_parallel} x {n_ctx} positions, {self.n_batch} a pass,",
            "fewer (-p, -n, -d, -npl) or smaller passes (-b) need less",
        )  # fmt: skip
        graph.reach(n_ctx)
        self.program.lay_out(keep=[self.logits])
        self.team = Team(library, n_threads)
        self._lowered: dict[tuple[int | None, int], Lowered] = {}
        random = np.random.default_rng(0)
        self._ids = random.integers(model.config.n_vocab, size=self.program.max_tokens)

    def prompt(self, n_tokens: int) -> None:
        """Append `n_tokens` to every sequence, as a prompt."""
        start, end = self.n_filled, self.n_filled + n_tokens
        for slot in range(self.n_parallel):
            for first in range(start, end, self.n_batch):
                count = min(self.n_batch, end - first)
                self.prepare_prompt(first, count, slot, n_outputs=int(first + count == end))
                self.team.run(self.prompt_pass)
        self.n_filled = end

    def generate(self) -> None:
        """Append a token to every sequence, in one pass."""
        self.prepare_token()
        self.team.run(self.token_pass)
        self.n_filled += 1

    def prepare_prompt(self, position: int, count: int, slot: int = 0, *, n_outputs: int) -> None:
        """Set the inputs of a pass of `count` tokens of a sequence from `position` on."""
        program = self.program
        program.state[:2] = count, n_outputs
        program.tokens.data[:count] = self._ids[:count]
        program.positions.data[:count] = range(position, position + count)
        program.slots.data[:count] = slot
        program.outputs.data[:1] = count - 1

    def prepare_token(self) -> None:
        """Set the inputs of a pass of one token for every sequence."""
        program, n = self.program, self.n_parallel
        program.state[:2] = n, n
        program.tokens.data[:n] = self._ids[:n]
        program.positions.data[:n] = self.n_filled
        program.slots.data[:n] = program.outputs.data[:n] = range(n)

    @property
    def prompt_pass(self) -> Lowered:
        return self._lower(None, 1)

    @property
    def token_pass(self) -> Lowered:
        return self._lower(self.n_parallel, self.n_parallel)

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
        return sum(array.nbytes for array in weights_read(self.program, n_tokens, n_outputs))

    def _cached(self, n_positions: int) -> int:
        """Bytes of keys and values that the last of so many tokens of a sequence sees."""
        return sum(
            bytes_seen(step, seen(step, n_positions - 1))
            for step in self.program.steps
            if isinstance(step.op, Attend)
        )

    def read_bandwidth(self) -> float:
        """Bytes a second that these threads can read of these weights; measured now."""
        return read_bandwidth(self.team, self.library, weights_read(self.program))

    def types(self) -> list[WeightType]:
        """The types of the packed matrices."""
        ops = [step.op for step in self.program.steps]
        return list({op.type.name: op.type for op in ops if isinstance(op, Product)}.values())

    def close(self) -> None:
        self.team.close()

    def _lower(self, n_tokens: int | None, n_outputs: int) -> Lowered:
        key = n_tokens, n_outputs
        if key not in self._lowered:
            self._lowered[key] = self.program.lower(
                self.library, n_tokens=n_tokens, n_outputs=n_outputs
            )
        return self._lowered[key]
