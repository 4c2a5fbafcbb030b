"""A model file, opened: what every use of it shares."""

from __future__ import annotations

import os
import reprlib
import threading
import time
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from linnet.engine.chat.template import ChatTemplate
from linnet.engine.checks import whole
from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.gguf.source import naming
from linnet.engine.machine import MOST_THREADS, usable_threads
from linnet.engine.running.embedding import POOLINGS, embed
from linnet.engine.running.generation import finite
from linnet.engine.running.runner import MOST_PROMPT_TOKENS, OUTPUTS, PROMPT_TOKENS, Runner
from linnet.engine.running.scheduler import Scheduler
from linnet.engine.running.session import Session
from linnet.engine.sampling.params import METADATA, SamplingParams
from linnet.engine.text.tokenizer import Tokenizer, TokenizerError
from linnet.kernels.compiler.host import choose_isa
from linnet.kernels.compiler.jit import Library
from linnet.models import ModelError, load_model
from linnet.models.parts.config import MAX_CONTEXT
from linnet.models.parts.numerics import Numerics

DEFAULT_CONTEXT = 8192
N_SLOTS = 8  # sequences whose keys and values are kept
BYTES_A_THREAD = 1 << 20  # of weights; with fewer, threads meet more than they work
DEMO_MODEL = Path(__file__).parents[1] / "models" / "demo" / "demo-Q4_K_M.gguf"

Prompt = str | Sequence[int]


class OpenModel:
    """Weights, vocabulary, chat template and kernels of a file, and sessions over them.

    The arguments are those of `LLM`. `load_seconds`: what opening took.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        n_threads: int | None = None,
        n_ctx: int | None = None,
        n_batch: int = PROMPT_TOKENS,
        kv_tokens: int | None = None,
        isa: str | None = None,
        activations: str = "int8",
        mmap: bool = True,
        chat_template: str | None = None,
        ignore_unknown: bool = False,
    ) -> None:
        started = time.perf_counter()
        self._numerics = Numerics.of(activations)
        self._file = GGUFFile(DEMO_MODEL if path is None else path, mmap=mmap)
        self.path = self._file.path
        self.weight_bytes = sum(tensor.data.nbytes for tensor in self._file.tensors.values())
        worthwhile = 1 + self.weight_bytes // BYTES_A_THREAD
        n_threads = whole("n_threads", n_threads, 1, MOST_THREADS)
        self.n_threads = n_threads or min(usable_threads(), worthwhile)
        with naming(self.path):
            self.model = load_model(
                self._file.metadata, self._file.tensors, ignore_unknown=ignore_unknown
            )
        self.config = self.model.config
        if chat_template is not None:
            self.chat_template = ChatTemplate(chat_template, self.tokenizer, name="chat_template")
        self._suggested = {
            key: self._file.metadata[key] for key in METADATA.values() if key in self._file.metadata
        }
        trained = self.config.n_ctx_train
        whole("n_ctx", n_ctx, 0, MAX_CONTEXT)
        self.n_ctx = min(trained, DEFAULT_CONTEXT) if n_ctx is None else n_ctx or trained
        self.n_batch = whole("n_batch", n_batch, 1, MOST_PROMPT_TOKENS) or PROMPT_TOKENS
        whole("kv_tokens", kv_tokens, self.n_ctx, MAX_CONTEXT * N_SLOTS)
        self.activations = activations
        self._library = Library(choose_isa(isa))
        self._session = self.session(N_SLOTS, kv_tokens=kv_tokens)
        self._scheduler = Scheduler(self._session)
        self._aside = threading.Lock()  # for sessions beside that one
        self.load_seconds = time.perf_counter() - started
        if self.n_ctx > trained:
            beyond = f"the model was trained on {trained} tokens, and may make no sense beyond"
            warnings.warn(f"n_ctx (-c) is {self.n_ctx}; {beyond}", stacklevel=2)

    @property
    def compile_seconds(self) -> float:
        """Seconds spent so far on compiling kernels that the cache did not have."""
        return self._library.compile_seconds

    @property
    def isa(self) -> str:
        """The instruction set that kernels are compiled for."""
        return self._library.isa.name

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises TokenizerError where the file has no vocabulary we can use."""
        tokenizer, n = Tokenizer.from_gguf(self._file), self.config.n_vocab
        if tokenizer.n_vocab != n:
            found = f"{tokenizer.n_vocab} tokens, and token_embd.weight {n} rows"
            what = f"the vocabulary has {found}; they must be as many"
            raise TokenizerError(f"{os.fspath(self.path)!r}: {what}")
        return tokenizer

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """Raises TemplateError where the file has no chat template we can use."""
        return ChatTemplate.from_metadata(self._file.metadata, self.tokenizer)

    def session(
        self, n_slots: int = 1, *, n_outputs: int = OUTPUTS, hidden: bool = False,
        kv_tokens: int | None = None,
    ) -> Session:  # fmt: skip
        """Sequences of their own over the same weights, with their own cache and threads: see
        `Runner`."""
        return Session(
            Runner(
                self.model, self._library, n_threads=self.n_threads, n_ctx=self.n_ctx,
                n_slots=n_slots, n_batch=self.n_batch, n_outputs=n_outputs,
                numerics=self._numerics, hidden=hidden, kv_tokens=kv_tokens,
            )
        )  # fmt: skip

    def sampling_params(self, **given: Any) -> SamplingParams:
        """`SamplingParams` of the fields given and, for the others, what the file suggests.

        Without any, what is used where `params` are None; see `SamplingParams.from_metadata`.
        """
        return SamplingParams.from_metadata(self._suggested, **given)

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Every token's logits (len(ids), n_vocab). Needs no tokenizer.

        Raises ContextOverflow, NonFiniteLogits, and ValueError for ids out of the vocabulary.
        """
        self._session.lease.check()
        with self._aside:
            return finite(self._logits_session.all_logits(ids))

    def embed(
        self, texts: Sequence[Prompt], *, pooling: str | None = None, normalize: bool = True,
        parse_special: bool = False,
    ) -> npt.NDArray[np.float32]:  # fmt: skip
        """A vector for each text, or list of token ids: (len(texts), n_embd).

        They are made of the states after the last norm: `pooling` is "mean", over all tokens, bos
        included; "cls", that of the first; or "last"; None for what the file says, or else the
        mean. `normalize`: to a length of 1. `parse_special`: see `stream`.

        Raises what `logits` raises, TokenizerError, ModelError for a file that ranks texts and has
        no vectors, and ValueError for a prompt of no tokens, a text where a list of them belongs,
        or another `pooling`.
        """
        if pooling is None:
            pooling = "mean" if self.config.pooling == "none" else self.config.pooling
            if pooling not in POOLINGS:
                found = f"{self.config.architecture}.pooling_type is {pooling}, for scores of texts"
                remedy = "embed makes vectors with another pooling="
                raise ModelError(f"{os.fspath(self.path)!r}: {found}; {remedy}")
        if isinstance(texts, str) or not isinstance(texts, Sequence | np.ndarray):
            raise ValueError(f"texts is {reprlib.repr(texts)}; it must be a list of texts")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; it must be one of {', '.join(POOLINGS)}")
        self._session.lease.check()
        all_ids = [self._ids(text, parse_special) for text in texts]
        vectors = np.zeros((len(texts), self.config.n_embd), np.float32)
        with self._aside:
            for vector, ids in zip(vectors, all_ids, strict=True):
                vector[:] = embed(self._hidden_session, ids, pooling=pooling, normalize=normalize)
        return vectors

    @cached_property
    def _logits_session(self) -> Session:
        return self.session()

    @cached_property
    def _hidden_session(self) -> Session:
        return self.session(n_outputs=self.n_batch, hidden=True)

    def _ids(self, prompt: Prompt, parse_special: bool) -> list[int]:
        if not isinstance(prompt, Sequence | np.ndarray) or isinstance(prompt, bytes | bytearray):
            found = reprlib.repr(prompt)
            raise ValueError(f"prompt is {found}; it must be a text or a list of token ids")
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, parse_special=parse_special)
        return list(prompt)

    def close(self) -> None:
        """End threads and processes, and let go of the file."""
        self._session.close()
        for name in ("_logits_session", "_hidden_session"):
            if name in self.__dict__:
                getattr(self, name).close()
        if "chat_template" in self.__dict__:
            self.chat_template.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
