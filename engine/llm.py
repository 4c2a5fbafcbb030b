"""The Python API: a model file in, text out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from linnet.engine.gguf import GGUFFile
from linnet.engine.machine import usable_threads
from linnet.engine.roofline import read_bandwidth, weights_read
from linnet.engine.sampling import NonFiniteLogits, Sampler
from linnet.engine.sampling_params import SamplingParams
from linnet.engine.session import Session
from linnet.engine.stopping import StopMatcher
from linnet.engine.tokenizer import Tokenizer, TokenizerError
from linnet.kernels.isa import choose_isa
from linnet.kernels.jit import Library
from linnet.models import load_model

DEFAULT_CONTEXT = 8192
BYTES_A_THREAD = 8 << 20  # of weights; with fewer, threads wait for each other more than they work
DEMO_MODEL = Path(__file__).parents[1] / "models" / "demo" / "demo-Q4_K_M.gguf"

Prompt = str | Sequence[int]


@dataclass(slots=True)
class Stats:
    """What a generation took. Seconds are wall-clock."""

    n_prompt: int
    n_generated: int = 0
    prompt_seconds: float = 0.0
    generate_seconds: float = 0.0  # from the first token to the last

    @property
    def prompt_rate(self) -> float:
        """Prompt tokens a second."""
        return self.n_prompt / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def generate_rate(self) -> float:
        """Tokens a second after the first, whose time is the prompt's."""
        steps = self.n_generated - 1
        return steps / self.generate_seconds if steps > 0 and self.generate_seconds else 0.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a generation: the text that one more token made certain, perhaps none.

    The last chunk has no token, but the rest of the text, a `finish_reason`, "stop" for an end
    token or a stop string or "length" for max_tokens or a full context, and the `stats`.
    """

    text: str
    token_id: int | None = None
    finish_reason: str | None = None
    stats: Stats | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A whole generation. `token_ids` leave out the end token."""

    text: str
    token_ids: list[int]
    finish_reason: str
    stats: Stats


class LLM:
    """A model ready to generate: one sequence at a time, so a later call ends an earlier stream.

    `path`: a GGUF file, or the first of a split one; None for the model that linnet ships.
    `n_threads`: None for one a CPU core this process may use, fewer for models of some MB.
    `n_ctx`: the most tokens in a sequence; None for what the model was trained on, at most 8192.
    `isa`: see `linnet.kernels.isa`; None for the best this CPU has.
    `activations`: "int8", or "f32" for the exact mode, which multiplies the same packed weights by
    f32 activations and keeps keys and values in f32.
    `mmap`: whether to map the file, or to read it into memory.

    Raises GGUFError or ModelError for a file that is malformed or of an unknown architecture,
    ISAError, OSError, MemoryError, and ValueError for arguments out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        n_threads: int | None = None,
        n_ctx: int | None = None,
        isa: str | None = None,
        activations: str = "int8",
        mmap: bool = True,
    ) -> None:
        started = time.perf_counter()
        if activations not in ("int8", "f32"):
            raise ValueError(f"activations is {activations!r}; it must be 'int8' or 'f32'")
        self._file = GGUFFile(DEMO_MODEL if path is None else path, mmap=mmap)
        self.path = self._file.path
        self.weight_bytes = sum(tensor.data.nbytes for tensor in self._file.tensors.values())
        worthwhile = 1 + self.weight_bytes // BYTES_A_THREAD
        self.n_threads = _whole("n_threads", n_threads, 1, 1024) or min(
            usable_threads(), worthwhile
        )
        self.model = load_model(self._file.metadata, self._file.tensors)
        self.config = self.model.config
        trained = min(self.config.n_ctx_train, DEFAULT_CONTEXT)
        self.n_ctx = _whole("n_ctx", n_ctx, 1, 1 << 24) or trained
        self.activations = activations
        self._library = Library(choose_isa(isa))
        self._session = self.session()
        self.load_seconds = time.perf_counter() - started

    @property
    def compile_seconds(self) -> float:
        """Seconds spent so far on compiling kernels that the cache did not have."""
        return self._library.compile_seconds

    @property
    def isa(self) -> str:
        """The instruction set that kernels are compiled for."""
        return self._library.isa.name

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of packed weights that decoding a token reads."""
        return sum(array.nbytes for array in weights_read(self._session))

    def read_bandwidth(self) -> float:
        """Bytes a second that our threads could read of these weights; measured now, in moments."""
        return read_bandwidth(self._session, weights_read(self._session))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises TokenizerError where the file has no vocabulary we can use."""
        tokenizer = Tokenizer.from_gguf(self._file)
        if tokenizer.n_vocab != self.config.n_vocab:
            found = f"{tokenizer.n_vocab} tokens, and token_embd.weight {self.config.n_vocab} rows"
            raise TokenizerError(f"the vocabulary has {found}; they must be as many")
        return tokenizer

    def session(self) -> Session:
        """A sequence of its own over the same weights, with its own cache and threads."""
        return Session(
            self.model,
            self._library,
            n_threads=self.n_threads,
            n_ctx=self.n_ctx,
            exact=self.activations == "f32",
        )

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Every token's logits (len(ids), n_vocab). Needs no tokenizer.

        Raises ContextOverflow, NonFiniteLogits, and ValueError for ids out of the vocabulary.
        """
        return _finite(self._session.all_logits(ids))

    @overload
    def generate(self, prompts: Prompt, params: SamplingParams | None = None) -> Output: ...
    @overload
    def generate(
        self, prompts: list[str] | list[Sequence[int]], params: SamplingParams | None = None
    ) -> list[Output]: ...
    def generate(self, prompts: Any, params: SamplingParams | None = None) -> Any:
        """Continue a prompt, or each of a list of prompts: texts, or lists of token ids.

        Raises what `stream` raises.
        """
        if isinstance(prompts, list) and any(isinstance(p, Sequence | np.ndarray) for p in prompts):
            return [self.generate(prompt, params) for prompt in prompts]
        texts, token_ids = [], []
        for chunk in self.stream(prompts, params):
            texts.append(chunk.text)
            if chunk.token_id is not None:
                token_ids.append(chunk.token_id)
        if chunk.finish_reason is None or chunk.stats is None:
            raise RuntimeError("the stream ended without its last chunk")
        return Output("".join(texts), token_ids, chunk.finish_reason, chunk.stats)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[Chunk]:
        """Continue a text, or a list of token ids, chunk by chunk; see `Chunk`.

        Raises, before anything is computed, ContextOverflow for a prompt longer than the context
        and ValueError for an empty one or ids out of the vocabulary; later NonFiniteLogits where
        the model gives NaN or infinity, and RuntimeError where another call has taken over.
        """
        params = params or SamplingParams()
        tokenizer = self.tokenizer
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        return _Generation(self._session, tokenizer, ids, params).chunks()

    def close(self) -> None:
        """End the threads and let go of the file."""
        self._session.close()
        self._file.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Generation:
    """One prompt's way through session, sampler, detokeniser and stop strings."""

    def __init__(
        self, session: Session, tokenizer: Tokenizer, ids: list[int], params: SamplingParams
    ) -> None:
        session.check(ids)
        self.session, self.tokenizer, self.ids, self.params = session, tokenizer, ids, params
        self.sampler = Sampler(params, session.n_vocab, prompt=ids, eog_ids=tokenizer.eog_ids)
        self.stats = Stats(n_prompt=len(ids))

    def chunks(self) -> Iterator[Chunk]:
        detokenizer = self.tokenizer.detokenizer(continues=True)
        matcher = StopMatcher(self.params.stop)
        finish_reason = "length"
        for token_id in self._token_ids():
            if token_id is None:
                finish_reason = "stop"
                break
            yield Chunk(matcher.push(detokenizer.push(token_id)), token_id)
            if matcher.matched is not None:
                break
        rest = matcher.push(detokenizer.finish()) + matcher.finish()
        if matcher.matched is not None:
            finish_reason = "stop"
        yield Chunk(rest, finish_reason=finish_reason, stats=self.stats)

    def _token_ids(self) -> Iterator[int | None]:
        """Tokens until max_tokens or the context is full; None for an end token."""
        stats, session = self.stats, self.session
        room = session.n_ctx - len(self.ids)
        limit = self.params.max_tokens
        owner = object()
        started = time.perf_counter()
        logits = session.prompt(self.ids, owner=owner)
        stats.prompt_seconds = time.perf_counter() - started
        started = time.perf_counter()
        token_id = -1
        # The last token of a full context needs no place in the cache, but nothing can follow it.
        for n in range(room + 1 if limit is None else min(limit, room + 1)):
            if n:
                logits = session.extend(token_id, owner=owner)
            token_id = self.sampler.sample(_finite(logits))
            session.check_owner(owner)  # what was sampled from were our logits to the end
            if token_id in self.tokenizer.eog_ids and not self.params.ignore_eos:
                yield None
                return
            self.sampler.accept(token_id)
            stats.n_generated += 1
            stats.generate_seconds = time.perf_counter() - started
            yield token_id


def _finite(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same logits. Raises NonFiniteLogits where one is NaN or infinite."""
    for extreme in (logits.min(), logits.max()):  # of NaN and numbers, both are NaN
        if not math.isfinite(extreme):
            raise NonFiniteLogits(f"the model's logits are not all finite: {extreme} is among them")
    return logits


def _whole(name: str, value: int | None, low: int, high: int) -> int | None:
    """A checked whole number, or None. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from {low} to {high}")
    return value
