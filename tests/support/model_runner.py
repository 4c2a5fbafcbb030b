"""Models run from tests: natively by a team of threads, or in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linnet.engine.gguf.reader import GGUFFile
from linnet.kernels.compiler.jit import Library
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.kernels.runtime.program import Lowered, Program
from linnet.kernels.runtime.team import Team
from linnet.models import Model, load_model
from linnet.models.parts.graph import Graph
from support.kernel_harness import Array


class Runner:
    """A model, recorded for `n_slots` sequences of up to `n_ctx` tokens, and a team to run it."""

    def __init__(
        self, model: Model, library: Library, *, exact: bool, n_threads: int = 2, n_slots: int = 1,
        n_ctx: int = 64, n_batch: int = 64,
    ) -> None:  # fmt: skip
        self.program = Program(max_tokens=n_batch, max_outputs=n_batch)
        graph = Graph(self.program, n_ctx=n_ctx, n_slots=n_slots, exact=exact)
        self.logits = model.record(graph)
        graph.reach(64)
        self.program.lay_out([self.logits])
        self.library, self.team = library, Team(library, n_threads)
        self._lowered: dict[int | None, Lowered] = {}

    def run(
        self,
        tokens: Sequence[int],
        positions: Sequence[int] | None = None,
        slots: Sequence[int] | None = None,
        *,
        few_rows: bool = False,
    ) -> Array:
        """The logits of every token of one pass, by the kernels for few rows or for any number."""
        n = self._set_inputs(tokens, positions, slots)
        n_rows = n if few_rows else None
        if n_rows not in self._lowered:
            lowered = self.program.lower(self.library, n_tokens=n_rows, n_outputs=n_rows)
            self._lowered[n_rows] = lowered
        self.team.run(self._lowered[n_rows])
        return self.logits.data[:n].copy()

    def one_by_one(self, tokens: Sequence[int], start: int = 0, slot: int = 0) -> Array:
        """The logits of every token, each in a pass of its own."""
        passes = [
            self.run([token], [start + i], [slot], few_rows=True) for i, token in enumerate(tokens)
        ]
        return np.concatenate(passes)

    def reference(self, tokens: Sequence[int], positions: Sequence[int] | None = None) -> Array:
        n = self._set_inputs(tokens, positions, None)
        self.program.reference()
        return self.logits.data[:n].copy()

    def _set_inputs(
        self,
        tokens: Sequence[int],
        positions: Sequence[int] | None,
        slots: Sequence[int] | None,
    ) -> int:
        n, program = len(tokens), self.program
        program.state[:2] = n
        program.tokens.data[:n] = tokens
        program.positions.data[:n] = np.arange(n) if positions is None else positions
        program.slots.data[:n] = 0 if slots is None else slots
        program.outputs.data[:n] = np.arange(n)
        return n


def load_fixture(path: Path) -> tuple[Model, Any]:
    """A model, and its tokens and known logits."""
    known = np.load(path.with_suffix(".npz"))
    with GGUFFile(path) as file:
        types = {tensor.type.name for tensor in file.tensors.values()}
        if types - WEIGHT_TYPES.keys():
            pytest.skip(f"no kernels for {', '.join(sorted(types - WEIGHT_TYPES.keys()))}")
        return load_model(file.metadata, file.tensors), known
