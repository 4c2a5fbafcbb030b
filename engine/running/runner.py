"""A model that is recorded, has its memory, and runs batches."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from linnet.engine.checks import whole
from linnet.engine.machine import available_memory, check_memory
from linnet.engine.running.batch import Batch
from linnet.engine.sampling.logits import Blocks, Logits
from linnet.kernels import log
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.base import MOST_FEW_ROWS
from linnet.kernels.runtime.program import Lowered, Program
from linnet.kernels.runtime.team import Team
from linnet.models import Model
from linnet.models.parts.graph import Graph
from linnet.models.parts.numerics import Numerics

Floats = npt.NDArray[np.float32]
PROMPT_TOKENS = 512  # in one pass
MOST_PROMPT_TOKENS = 16384
MOST_SLOTS = 512
OUTPUTS = 32  # rows of logits one pass makes


class Runner:
    """One model's program, the memory of up to `n_slots` sequences, and a team to run it.

    `n_batch`: the most tokens in a pass. `n_outputs`: the most rows of logits in a pass.
    `hidden`: leave the output matrix out; rows are then the states before it (n_embd).
    `kv_tokens`: how many tokens of full sequences the caches may hold, all slots together; None
    for what half of the available memory holds, at least one sequence and at most `n_parallel`
    (by default `n_slots`).
    Memory is taken as positions are filled; `kv_bytes` is what it may come to, and `n_bytes` that
    with tables and buffers.

    Raises MemoryError, with figures and `remedy`, where that does not fit, and ValueError for
    numbers out of range.
    """

    def __init__(
        self, model: Model, library: Library, *, n_threads: int, n_ctx: int, n_slots: int = 1,
        n_batch: int = PROMPT_TOKENS, n_outputs: int = OUTPUTS, numerics: Numerics | None = None,
        hidden: bool = False, kv_tokens: int | None = None, n_parallel: int | None = None,
        remedy: str = "a smaller n_ctx (-c) or n_batch (-b) needs less",
    ) -> None:  # fmt: skip
        whole("n_slots", n_slots, 1, MOST_SLOTS)
        whole("n_batch", n_batch, 1, MOST_PROMPT_TOKENS)
        self.library, self.n_ctx = library, n_ctx
        self.n_batch, self.n_outputs = min(n_batch, n_ctx), n_outputs
        self.n_vocab = model.config.n_vocab
        self.program = Program(max(self.n_batch, MOST_FEW_ROWS), max(n_outputs, MOST_FEW_ROWS))
        self.graph = graph = Graph(self.program, n_ctx=n_ctx, numerics=numerics or Numerics())
        self._rows = model.hidden(graph) if hidden else model.record(graph)
        self._blocks = () if hidden else graph.softmax_blocks(self._rows)
        kept = [self._rows, *self._blocks]
        self.kv_bytes = self._budget(kv_tokens, n_parallel or n_slots)
        # As many as may be full to a quarter: address space is not without end.
        self.n_slots = min(n_slots, max(1, 4 * self.kv_bytes // graph.slot_bytes))
        table_bytes = graph.table_bytes + self.program.layout_bytes(keep=kept)
        self.n_bytes = self.kv_bytes + table_bytes
        check_memory(
            self.n_bytes, available_memory(),
            f"a cache of {self.kv_tokens} tokens with passes of "
            f"{self.n_batch}", remedy,
        )  # fmt: skip
        graph.allocate(self.n_slots)
        self.program.lay_out(keep=kept)
        self.team = Team(library, n_threads)
        log.info(
            __name__, "%d threads; up to %d sequences of %d tokens, %.1f MB of keys and values, "
            "%.1f MB of tables and buffers", n_threads, self.n_slots, n_ctx,
            self.kv_bytes / 1e6, table_bytes / 1e6,
        )  # fmt: skip
        self._lowered: dict[tuple[int | None, int | None], Lowered] = {}
        self._lowering = threading.Lock()

    @property
    def kv_tokens(self) -> int:
        """Tokens of full sequences that fit `kv_bytes`."""
        return self.n_ctx * self.kv_bytes // self.graph.slot_bytes

    @property
    def width(self) -> int:
        """Numbers in a row of what a pass makes."""
        return self._rows.width

    def run(self, batch: Batch) -> Floats:
        """One pass; returns the rows wanted (n_outputs, width), a view until the next pass.

        Raises Interrupted where the team is stopped meanwhile.
        """
        self.fill(batch)
        self.team.run(self.lowered(batch))
        return self.rows(batch)

    def fill(self, batch: Batch) -> None:
        """Write what the next pass works on into the program's inputs."""
        program, n, n_outputs = self.program, len(batch.ids), len(batch.outputs)
        self.graph.reach(max(batch.positions) + 1)
        program.state[:2] = n, n_outputs
        program.tokens.data[:n] = batch.ids
        program.slots.data[:n] = batch.slots
        program.positions.data[:n] = batch.positions
        program.outputs.data[:n_outputs] = batch.outputs

    def rows(self, batch: Batch) -> Floats:
        """What the last pass made."""
        rows: Floats = self._rows.data[: len(batch.outputs)]
        return rows

    def logits(self, batch: Batch) -> list[Logits]:
        """What the last pass made, a row each, with what it knows of it; not of hidden states."""
        blocks = (buffer.data[: len(batch.outputs)] for buffer in self._blocks)
        known = (Blocks.of(*row) for row in zip(*blocks, strict=True))
        return [Logits(*row) for row in zip(self.rows(batch), known, strict=True)]

    def lowered(self, batch: Batch) -> Lowered:
        """The program with native code for such a batch; compiled where it is the first."""
        return self._lowered.get(batch.n_rows) or self._lower(batch.n_rows)

    def prepare(self, n_rows: int) -> None:
        """Have native code for passes of up to so many generated tokens, and for prompts of which
        as many end in a pass; from any thread, while passes run."""
        for n in range(1, n_rows + 1):
            for key in ((n, n), (None, n)):
                if key not in self._lowered:
                    self._lower(key)

    def close(self) -> None:
        """End the team's threads."""
        self.team.close()

    def _lower(self, key: tuple[int | None, int | None]) -> Lowered:
        with self._lowering:
            if key not in self._lowered:
                n_tokens, n_outputs = key
                n_before = self.library.n_compiled
                lowered = self._lowered[key] = self.program.lower(
                    self.library, n_tokens=n_tokens, n_outputs=n_outputs
                )
                log.info(
                    __name__, "passes of %s tokens: %d steps of native code, %d kernels compiled",
                    n_tokens or "many", len(lowered.steps), self.library.n_compiled - n_before,
                )  # fmt: skip
            return self._lowered[key]

    def _budget(self, kv_tokens: int | None, n_full: int) -> int:
        """Bytes that caches and states of all slots may take."""
        one = self.graph.slot_bytes
        if kv_tokens is not None:
            return one * kv_tokens // self.n_ctx
        available = available_memory()
        most = n_full * one
        return most if available is None else max(one, min(most, available // 2))
