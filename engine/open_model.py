"""A model file, opened: what every use of it shares."""

from __future__ import annotations

import os
import reprlib
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from linnet.engine.chat.template import ChatTemplate
from linnet.engine.checks import whole
from linnet.engine.gguf.digest import model_digest
from linnet.engine.gguf.located import located
from linnet.engine.gguf.populate import Populating
from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.gguf.source import naming
from linnet.engine.machine import MOST_THREADS, usable_threads
from linnet.engine.running.draft_model import DraftModel, check_vocabulary
from linnet.engine.running.drafts import MOST_DRAFTS, Drafter, Drafts
from linnet.engine.running.embedding import embed, pooling_of
from linnet.engine.running.finite import finite
from linnet.engine.running.forced import Forced
from linnet.engine.running.generation import Generation
from linnet.engine.running.prefix_file import Origin, origin_of
from linnet.engine.running.prompt_cache import CACHE_BYTES, MOST_CACHE_BYTES, PromptCache
from linnet.engine.running.prompt_lookup import PromptLookup
from linnet.engine.running.runner import MOST_PROMPT_TOKENS, OUTPUTS, PROMPT_TOKENS, Runner
from linnet.engine.running.scheduler import Scheduler
from linnet.engine.running.session import Session
from linnet.engine.sampling.constraint import Constraints, Rule
from linnet.engine.sampling.params import METADATA, SamplingParams
from linnet.engine.text.tokenizer import Tokenizer, TokenizerError
from linnet.kernels.compiler.host import choose_isa
from linnet.kernels.compiler.jit import Library
from linnet.models import load_model
from linnet.models.parts.config import MAX_CONTEXT
from linnet.models.parts.numerics import Numerics

DEFAULT_CONTEXT = 8192
N_PARALLEL = 8  # requests that run at once
MOST_PARALLEL = 64
N_SLOTS = 64  # sequences whose keys and values are kept, at most
BYTES_A_THREAD = 1 << 20  # of weights; with fewer, threads meet more than they work
DEMO_MODEL = Path(__file__).parents[1] / "models" / "demo" / "demo-Q4_K_M.gguf"
SPEC_TYPES = ("none", "ngram", "draft")  # who drafts tokens: nobody, the text itself, a model

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
        n_parallel: int = N_PARALLEL,
        kv_tokens: int | None = None,
        prompt_cache: str | os.PathLike[str] | None = None,
        prompt_cache_bytes: int = CACHE_BYTES,
        spec_type: str | None = None,
        draft_model: str | os.PathLike[str] | None = None,
        draft_max: int = MOST_DRAFTS,
        isa: str | None = None,
        activations: str = "int8",
        cache_type_k: str | None = None,
        cache_type_v: str | None = None,
        mmap: bool = True,
        chat_template: str | None = None,
        ignore_unknown: bool = False,
    ) -> None:
        started = time.perf_counter()
        self._numerics = Numerics.of(activations, cache_type_k, cache_type_v)
        self._file = GGUFFile(DEMO_MODEL if path is None else located(path), mmap=mmap)
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
            self.chat_template = ChatTemplate.given(chat_template, self.tokenizer)
        self._suggested = {
            key: self._file.metadata[key] for key in METADATA.values() if key in self._file.metadata
        }
        trained = self.config.n_ctx_train
        whole("n_ctx", n_ctx, 0, MAX_CONTEXT)
        self.n_ctx = min(trained, DEFAULT_CONTEXT) if n_ctx is None else n_ctx or trained
        self.n_batch = whole("n_batch", n_batch, 1, MOST_PROMPT_TOKENS) or PROMPT_TOKENS
        self.n_parallel = whole("n_parallel", n_parallel, 1, MOST_PARALLEL) or N_PARALLEL
        whole("kv_tokens", kv_tokens, self.n_ctx, MAX_CONTEXT * N_SLOTS)
        whole("prompt_cache_bytes", prompt_cache_bytes, 0, MOST_CACHE_BYTES)
        whole("draft_max", draft_max, 1, MOST_DRAFTS)
        self.activations = activations
        self.cache_type_k = self._numerics.key_type.name
        self.cache_type_v = self._numerics.value_type.name
        self._library = Library(choose_isa(isa))
        self._populating = Populating([tensor.data for tensor in self._file.tensors.values()])
        self._session = self.session(N_SLOTS, n_parallel=self.n_parallel, kv_tokens=kv_tokens)
        try:
            stored = self._stored(prompt_cache, prompt_cache_bytes)
            drafter = self._drafter(
                spec_type, draft_model, isa=isa, mmap=mmap, ignore_unknown=ignore_unknown
            )
        except BaseException:  # a folder that cannot be made; Ctrl-C
            self._session.close()
            raise
        self.scheduler = Scheduler(
            self._session, n_parallel=self.n_parallel, stored=stored,
            drafts=Drafts([Forced(), drafter], draft_max) if drafter else None,
        )  # fmt: skip
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

    @property
    def metadata(self) -> Mapping[str, object]:
        """What the file says, by its own keys; arrays are read as they are looked at."""
        return self._file.metadata

    def _stored(self, folder: str | os.PathLike[str] | None, most: int) -> PromptCache | None:
        if folder is None:
            return None
        return PromptCache(Path(folder), self._session, self._origin, most_bytes=most)

    def _drafter(
        self, spec_type: str | None, path: str | os.PathLike[str] | None, **options: Any
    ) -> Drafter | None:  # fmt: skip
        """Who guesses tokens; `options`: how to open the file at `path`.

        Raises ValueError for types there are not, and for what does not go together; and what
        opening the file raises.
        """
        has_state = bool(self._session.runner.graph.states)
        if spec_type is None:
            spec_type = "draft" if path is not None else "none" if has_state else "ngram"
        if spec_type not in SPEC_TYPES:
            raise ValueError(f"spec_type is {spec_type!r}; it must be one of {SPEC_TYPES}")
        if (spec_type == "draft") != (path is not None):
            raise ValueError(
                f"spec_type is {spec_type!r}, and draft_model {path!r}; a model drafts with "
                "spec_type 'draft', or None"
            )
        if spec_type == "none":
            return None
        if has_state:
            raise ValueError(_cannot_draft(spec_type, self.config.architecture))
        if path is None:
            return PromptLookup()
        smaller = OpenModel(
            path, n_threads=self.n_threads, n_ctx=self.n_ctx, n_batch=self.n_batch,
            n_parallel=self.n_parallel, spec_type="none", activations=self.activations, **options,
        )  # fmt: skip
        try:
            with naming(path):
                self._check_drafts(smaller)
        except BaseException:
            smaller.close()
            raise
        return DraftModel(smaller._session, n_parallel=self.n_parallel, close=smaller.close)

    def _check_drafts(self, smaller: OpenModel) -> None:
        """Raise ValueError where a model's tokens are not ours, or it cannot take one back."""
        if smaller._session.runner.graph.states:
            raise ValueError(_cannot_draft("draft_model", smaller.config.architecture))
        draft = smaller.tokenizer.vocabulary.texts
        check_vocabulary(draft, self.tokenizer.vocabulary.texts, self.path.name)

    @cached_property
    def _origin(self) -> Origin:
        """What prefixes on disk must have been made with."""
        return origin_of(self._session.runner, model_digest(self._file))

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
    def constraints(self) -> Constraints:
        return Constraints(self.tokenizer, self._library)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """Raises TemplateError where the file has no chat template we can use."""
        return ChatTemplate.from_metadata(self._file.metadata, self.tokenizer)

    def session(
        self, n_slots: int = 1, *, n_outputs: int = OUTPUTS, hidden: bool = False,
        n_parallel: int | None = None, kv_tokens: int | None = None,
    ) -> Session:  # fmt: skip
        """Sequences of their own over the same weights, with their own cache and threads: see
        `Runner`."""
        return Session(
            Runner(
                self.model, self._library, n_threads=self.n_threads, n_ctx=self.n_ctx,
                n_slots=n_slots, n_batch=self.n_batch, n_outputs=n_outputs,
                numerics=self._numerics, hidden=hidden, n_parallel=n_parallel, kv_tokens=kv_tokens,
            )
        )  # fmt: skip

    def sampling_params(
        self, params: SamplingParams | None = None, /, **fields: Any
    ) -> SamplingParams:  # fmt: skip
        """`SamplingParams` of the fields given and, for the others, those of `params` or, where
        there are none, what the file suggests: see `SamplingParams.from_metadata`.

        Raises ValueError for a value out of range, and TypeError for a field there is not.
        """
        if params is None:
            return SamplingParams.from_metadata(self._suggested, **fields)
        if not isinstance(params, SamplingParams):
            raise ValueError(f"params is {reprlib.repr(params)}; it must be a SamplingParams")
        return replace(params, **fields) if fields else params

    def generation(
        self, prompt: Prompt, params: SamplingParams | None = None, *, parse_special: bool = False,
        constraint: Rule | None = None, **fields: Any,
    ) -> Generation:  # fmt: skip
        """What `LLM.stream` submits to `scheduler`, with the same errors before anything is
        computed. `constraint`: in place of that of `params`."""
        params = self.sampling_params(params, **fields)
        self._session.lease.check()  # or not even the vocabulary is read
        ids = self._session.check(self.prompt_ids(prompt, parse_special=parse_special))
        return Generation(
            ids, params, self.tokenizer, n_ctx=self.n_ctx, n_vocab=self.config.n_vocab,
            constraint=constraint or self.constraints.of(params),
        )  # fmt: skip

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Every token's logits (len(ids), n_vocab). Needs no tokenizer.

        Raises ContextOverflow, NonFiniteLogits, and ValueError for ids out of the vocabulary.
        """
        self._session.lease.check()
        with self._aside:
            return finite(self._logits_session.all_logits(ids))

    def embed(
        self, texts: str | Sequence[Prompt], *, pooling: str | None = None, normalize: bool = True,
        parse_special: bool = False,
    ) -> npt.NDArray[np.float32]:  # fmt: skip
        """A vector for each text, or list of token ids: (len(texts), n_embd); of a text (n_embd,).

        They are made of the states after the last norm: `pooling` is "mean", over all tokens, bos
        included; "cls", that of the first; or "last"; None for what the file says, or else the
        mean. `normalize`: to a length of 1. `parse_special`: see `stream`.

        Raises what `logits` raises, TokenizerError, ModelError for a file that ranks texts and has
        no vectors, and ValueError for a prompt of no tokens, a text where a list of them belongs,
        or another `pooling`.
        """
        if isinstance(texts, str):
            vectors = self.embed(
                [texts], pooling=pooling, normalize=normalize, parse_special=parse_special
            )
            return np.asarray(vectors[0])
        if not isinstance(texts, Sequence | np.ndarray) or isinstance(texts, bytes):
            raise ValueError(f"texts is {reprlib.repr(texts)}; it must be a text or a list of them")
        pooling = pooling_of(pooling, self.config, self.path)
        self._session.lease.check()
        all_ids = [self.prompt_ids(text, parse_special=parse_special) for text in texts]
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

    def prompt_ids(self, prompt: Prompt, *, parse_special: bool = False) -> list[int]:
        """The ids of a text, bos in front where the model has one, or those given.

        Raises ValueError for what is neither, and TokenizerError."""
        if not isinstance(prompt, Sequence | np.ndarray) or isinstance(prompt, bytes | bytearray):
            found = reprlib.repr(prompt)
            raise ValueError(f"prompt is {found}; it must be a text or a list of token ids")
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, parse_special=parse_special)
        return list(prompt)

    def close(self) -> None:
        """Write what the prompt cache is to keep, end threads and processes, let go of the file."""
        self._populating.stop()
        self.scheduler.close()
        if self.scheduler.drafts:
            self.scheduler.drafts.close()
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


def _cannot_draft(name: str, architecture: str) -> str:
    what = f"models of architecture {architecture!r} carry a state, which cannot go back"
    return f"{name}: {what} to before a draft that was wrong; use spec_type 'none'"
