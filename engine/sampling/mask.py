"""Tokens that may not be chosen, taken out of logits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from linnet.engine.sampling.logits import Blocks, Floats, Logits
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.softmax import BLOCK, MaskBlocks
from linnet.kernels.runtime.program import Buffer, Program, Rows
from linnet.kernels.runtime.serial import serial


class Mask:
    """Which tokens of a vocabulary may be chosen; not for two threads at once.

    `words`: u32 (n_vocab // 32 + 1,), bit i % 32 of word i // 32 for token i. There is a bit more
    than there are tokens, at least; what is beyond them does not count.
    """

    def __init__(self, library: Library, n_vocab: int) -> None:
        """Raises CompileError."""
        self._n_vocab = n_vocab
        self.words: Final[NDArray[np.uint32]] = np.zeros(n_vocab // 32 + 1, np.uint32)
        self._x = np.zeros(n_vocab, np.float32)  # stands for logits, wherever those are
        self._out = np.zeros(n_vocab, np.float32)
        self._maxima, self._sums = np.zeros((2, -(-n_vocab // BLOCK)), np.float32)
        self._program = self._lowered(library)
        self._run = serial(library, self._program)

    def allow_only(self, ids: Iterable[int]) -> None:
        self.words[:] = 0
        self.allow(ids)

    def allow_all_but(self, ids: Iterable[int]) -> None:
        self.allow_only(ids)
        np.invert(self.words, out=self.words)

    def allow(self, ids: Iterable[int]) -> None:
        for token_id in ids:
            self.words[token_id // 32] |= np.uint32(1 << token_id % 32)

    def apply(self, logits: Logits) -> Logits:
        """A pass's logits, with -inf for tokens that may not be chosen: views, until the next
        call."""
        self._program.arguments[0]["x"][0] = logits.values.ctypes.data
        self._run()
        return Logits(self._out, Blocks.of(self._maxima, self._sums))

    def of(self, values: Floats) -> Floats:
        """The same of logits (n_vocab,) that are not a pass's, for which there are no blocks."""
        bits = np.unpackbits(self.words.view(np.uint8), bitorder="little")[: self._n_vocab]
        return np.where(bits.view(bool), values, np.float32(-np.inf))

    def _lowered(self, library: Library) -> Any:
        """The op on one row."""
        program = Program(max_tokens=1, max_outputs=1)
        n_words = -(-self._n_vocab // 32)
        arrays = {
            "x": self._x, "mask": self.words[:n_words], "out": self._out, "maxima": self._maxima,
            "sums": self._sums,
        }  # fmt: skip
        rows = {
            name: Buffer(name, Rows.TOKENS, len(array), array.dtype, array[None])
            for name, array in arrays.items()
        }
        program.step("mask", MaskBlocks(), **rows, width=self._n_vocab)
        program.lay_out(keep=[])
        program.state[Rows.TOKENS] = 1
        return program.lower(library, n_tokens=1)
