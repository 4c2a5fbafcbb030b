"""Models run from tests: natively by a team of threads, or in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.running import runner
from linnet.engine.running.batch import Batch
from linnet.kernels.compiler.jit import Library
from linnet.kernels.quants import WEIGHT_TYPES
from linnet.models import Model, load_model
from linnet.models.parts.numerics import Numerics
from support.kernel_harness import Array

INT8, F32 = Numerics.of("int8"), Numerics.of("f32")
BOTH = pytest.mark.parametrize("numerics", [INT8, F32], ids=["int8", "f32"])


class Runner:
    """A model whose passes tests spell out, natively or in numpy; every token gives logits."""

    def __init__(
        self, model: Model, library: Library, *, numerics: Numerics = F32, n_threads: int = 2,
        n_slots: int = 1, n_ctx: int = 64, n_batch: int = 64,
    ) -> None:  # fmt: skip
        self.inner = runner.Runner(
            model, library, n_threads=n_threads, n_ctx=n_ctx, n_slots=n_slots, n_batch=n_batch,
            n_outputs=n_batch, numerics=numerics, kv_tokens=n_slots * n_ctx,
        )  # fmt: skip
        self.program, self.graph, self.team = self.inner.program, self.inner.graph, self.inner.team

    def run(
        self,
        tokens: Sequence[int],
        positions: Sequence[int] | None = None,
        slots: Sequence[int] | None = None,
        *,
        few_rows: bool = False,
    ) -> Array:
        """The logits of every token of one pass, by the kernels for few rows or for any number."""
        return self.inner.run(_batch(tokens, positions, slots, few_rows)).copy()

    def one_by_one(self, tokens: Sequence[int], start: int = 0, slot: int = 0) -> Array:
        """The logits of every token, each in a pass of its own."""
        passes = [
            self.run([token], [start + i], [slot], few_rows=True) for i, token in enumerate(tokens)
        ]
        return np.concatenate(passes)

    def reference(self, tokens: Sequence[int], positions: Sequence[int] | None = None) -> Array:
        batch = _batch(tokens, positions, None, False)
        self.inner.fill(batch)
        self.inner.program.reference()
        return self.inner.rows(batch).copy()


def _batch(
    tokens: Sequence[int], positions: Sequence[int] | None, slots: Sequence[int] | None, few: bool
) -> Batch:
    n = len(tokens)
    return Batch(
        tokens, [0] * n if slots is None else slots, range(n) if positions is None else positions,
        range(n), few=few, few_outputs=few,
    )  # fmt: skip


def load_fixture(path: Path) -> tuple[Model, Any]:
    """A model, and its tokens and known logits."""
    known = np.load(path.with_suffix(".npz"))
    with GGUFFile(path) as file:
        types = {tensor.type.name for tensor in file.tensors.values()}
        if types - WEIGHT_TYPES.keys():
            pytest.skip(f"no kernels for {', '.join(sorted(types - WEIGHT_TYPES.keys()))}")
        return load_model(file.metadata, file.tensors), known
