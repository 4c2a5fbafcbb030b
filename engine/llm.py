"""The Python API: a model file in, text out."""

from __future__ import annotations

import os
import reprlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from linnet.engine.chat.template import ChatTemplate, Message, template_variables
from linnet.engine.checks import whole
from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.machine import MOST_THREADS, usable_threads
from linnet.engine.measure.roofline import read_bandwidth, weights_read
from linnet.engine.running.generation import Chunk, Generation, Output, finite, generate
from linnet.engine.running.session import (
    MOST_PROMPT_TOKENS,
    OUTPUTS,
    PROMPT_TOKENS,
    Floats,
    Progress,
    Session,
    slots_that_fit,
)
from linnet.engine.sampling.params import METADATA, SamplingParams
from linnet.engine.text.tokenizer import Tokenizer, TokenizerError
from linnet.kernels.compiler.jit import Library
from linnet.kernels.isa import choose_isa
from linnet.models import load_model
from linnet.models.parts.config import MAX_CONTEXT

DEFAULT_CONTEXT = 8192
BYTES_A_THREAD = 1 << 20  # of weights; with fewer, threads meet more than they work
DEMO_MODEL = Path(__file__).parents[1] / "models" / "demo" / "demo-Q4_K_M.gguf"
POOLINGS: dict[str, Callable[[Floats], Floats]] = {  # of (n_tokens, n_embd)
    "mean": lambda states: states.mean(axis=0),
    "last": lambda states: states[-1],
}

Prompt = str | Sequence[int]


class LLM:
    """A model ready to generate. A later call ends an earlier stream.

    One thread at a time may call it: another gets a RuntimeError. For several there is an LLM each,
    which all read the same pages of the file, or one list of prompts.

    `path`: a GGUF file, or the first of a split one; None for the model that linnet ships.
    `n_threads`: None for one a CPU core this process may use, fewer for models of some MB.
    `n_ctx`: the most tokens in a sequence; 0 for what the model was trained on, None for that, but
    at most 8192. More than it was trained on gives a UserWarning.
    `n_batch`: the most tokens of a prompt in one pass.
    `isa`: see `linnet.kernels.isa`; None for the best this CPU has.
    `activations`: "int8", or "f32" for the exact mode, which multiplies the same packed weights by
    f32 activations and keeps keys and values in f32.
    `mmap`: whether to map the file, or to read it into memory.
    `chat_template`: the text of a template in Jinja, in place of the file's own.

    Raises GGUFError or ModelError for a file that is malformed or of an unknown architecture,
    ISAError, OSError, MemoryError, and ValueError for arguments out of range; with a template
    TemplateError or TokenizerError.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        n_threads: int | None = None,
        n_ctx: int | None = None,
        n_batch: int = PROMPT_TOKENS,
        isa: str | None = None,
        activations: str = "int8",
        mmap: bool = True,
        chat_template: str | None = None,
    ) -> None:
        started = time.perf_counter()
        if activations not in ("int8", "f32"):
            raise ValueError(f"activations is {activations!r}; it must be 'int8' or 'f32'")
        self._file = GGUFFile(DEMO_MODEL if path is None else path, mmap=mmap)
        self.path = self._file.path
        self.weight_bytes = sum(tensor.data.nbytes for tensor in self._file.tensors.values())
        worthwhile = 1 + self.weight_bytes // BYTES_A_THREAD
        n_threads = whole("n_threads", n_threads, 1, MOST_THREADS)
        self.n_threads = n_threads or min(usable_threads(), worthwhile)
        self.model = load_model(self._file.metadata, self._file.tensors)
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
        self.activations = activations
        self._library = Library(choose_isa(isa))
        exact = activations == "f32"
        n_slots = slots_that_fit(self.model, self.n_ctx, n_batch=self.n_batch, exact=exact)
        self._session = self.session(n_slots)
        self.load_seconds = time.perf_counter() - started
        if self.n_ctx > trained:
            beyond = f"the model was trained on {trained} tokens, and may make no sense beyond"
            warnings.warn(f"n_ctx (-c) is {self.n_ctx}; {beyond}", stacklevel=2)

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> LLM:
        """A model on the Hugging Face hub, "user/model" or "user/model:Q4_K_M", kept in the hub's
        own cache. `options`: the keyword arguments of LLM. Needs linnet[hub].

        Raises HubError, ValueError for what is no name, and what LLM raises.
        """
        from linnet.engine.gguf.hub import download  # imports what few need

        return cls(download(name), **options)

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
        return sum(array.nbytes for array in weights_read(self._session.program))

    def read_bandwidth(self) -> float:
        """Bytes a second that our threads could read of these weights; measured now, in moments."""
        session = self._session
        with session.exclusively():
            return read_bandwidth(session.team, self._library, weights_read(session.program))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Raises TokenizerError where the file has no vocabulary we can use."""
        tokenizer = Tokenizer.from_gguf(self._file)
        if tokenizer.n_vocab != self.config.n_vocab:
            found = f"{tokenizer.n_vocab} tokens, and token_embd.weight {self.config.n_vocab} rows"
            raise TokenizerError(f"the vocabulary has {found}; they must be as many")
        return tokenizer

    def session(
        self, n_slots: int = 1, *, n_outputs: int = OUTPUTS, hidden: bool = False
    ) -> Session:
        """Sequences of their own over the same weights, with their own cache and threads."""
        return Session(
            self.model,
            self._library,
            n_threads=self.n_threads,
            n_ctx=self.n_ctx,
            exact=self.activations == "f32",
            n_slots=n_slots,
            n_batch=self.n_batch,
            n_outputs=n_outputs,
            hidden=hidden,
        )

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Every token's logits (len(ids), n_vocab). Needs no tokenizer.

        Raises ContextOverflow, NonFiniteLogits, and ValueError for ids out of the vocabulary.
        """
        return finite(self._session.all_logits(ids))

    def embed(
        self, texts: Sequence[Prompt], *, pooling: str = "mean", normalize: bool = True,
        parse_special: bool = False,
    ) -> npt.NDArray[np.float32]:  # fmt: skip
        """A vector for each text, or list of token ids: (len(texts), n_embd).

        They are made of the states after the last norm: their mean over all tokens, bos included,
        or, with `pooling="last"`, that of the last one. `normalize`: to a length of 1.
        `parse_special`: see `stream`.

        Raises what `logits` raises, TokenizerError, and ValueError for a prompt of no tokens, a
        text where a list of them belongs, or another `pooling`.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence | np.ndarray):
            raise ValueError(f"texts is {reprlib.repr(texts)}; it must be a list of texts")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; it must be one of {', '.join(POOLINGS)}")
        vectors = np.zeros((len(texts), self.config.n_embd), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            ids = self._ids(text, parse_special)
            vector[:] = POOLINGS[pooling](finite(self._hidden_session.all_logits(ids)))
            if normalize and (length := np.linalg.norm(vector)) > 0:
                vector /= length
        return vectors

    @cached_property
    def _hidden_session(self) -> Session:
        return self.session(n_outputs=self.n_batch, hidden=True)

    def sampling_params(self, **given: Any) -> SamplingParams:
        """`SamplingParams` of the fields given and, for the others, what the file suggests.

        Without any, what is used where `params` are None; see `SamplingParams.from_metadata`.
        """
        return SamplingParams.from_metadata(self._suggested, **given)

    @overload
    def generate(
        self, prompts: Prompt, params: SamplingParams | None = None, *, parse_special: bool = False
    ) -> Output: ...
    @overload
    def generate(
        self,
        prompts: list[str] | list[Sequence[int]] | tuple[str, ...] | tuple[Sequence[int], ...],
        params: SamplingParams | list[SamplingParams] | None = None,
        *,
        parse_special: bool = False,
    ) -> list[Output]: ...
    def generate(self, prompts: Any, params: Any = None, *, parse_special: bool = False) -> Any:
        """Continue a prompt, or each of a list or tuple of prompts: texts, or lists of token ids.

        Prompts in a list go on together, up to 8 at a time, which reads the weights once for all of
        them; each output is, bit for bit, what its prompt gives alone. An empty list is one of no
        prompts. `params`: one for all, or a list with one for each; by default what the file
        suggests, see `sampling_params`. `parse_special`: see `stream`. Raises what `stream` raises,
        and ValueError for a list of another length.
        """
        several = isinstance(prompts, list | tuple) and (
            not prompts or any(isinstance(prompt, Sequence | np.ndarray) for prompt in prompts)
        )
        all_prompts = prompts if several else [prompts]
        all_params = params if isinstance(params, list) else [params] * len(all_prompts)
        if len(all_params) != (n := len(all_prompts)):
            raise ValueError(f"params has {len(all_params)} items; it must have {n}, one each")
        generations = [
            self._generation(prompt, params, parse_special)
            for prompt, params in zip(all_prompts, all_params, strict=True)
        ]
        chunks: list[list[Chunk]] = [[] for _ in generations]
        for index, chunk in generate(self._session, generations):
            chunks[index].append(chunk)
        outputs = [Output.of(parts) for parts in chunks]
        return outputs if several else outputs[0]

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        parse_special: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Chunk]:
        """Continue a text, or a list of token ids, chunk by chunk; see `Chunk`.

        `parse_special`: whether control tokens that are spelled in a text become tokens; else they
        are text. `progress` is called with the prompt's tokens that are done and their number,
        before the first pass and after each. What it raises ends the stream.

        Raises, before anything is computed, ContextOverflow for a prompt longer than the context
        and ValueError for a prompt of no tokens or ids out of the vocabulary; later NonFiniteLogits
        where the model gives NaN or infinity, and RuntimeError where another call has taken over.
        """
        generation = self._generation(prompt, params, parse_special)
        return (chunk for _, chunk in generate(self._session, [generation], progress))

    def stop(self) -> None:
        """End the generation under way, from any thread; whoever reads it gets Interrupted.

        What begins later is not affected.
        """
        self._session.stop()

    def _generation(
        self, prompt: Prompt, params: SamplingParams | None, parse_special: bool
    ) -> Generation:
        ids = self._ids(prompt, parse_special)
        if not isinstance(params, SamplingParams | None):
            raise ValueError(f"params is {reprlib.repr(params)}; it must be a SamplingParams")
        return Generation(self._session, self.tokenizer, ids, params or self.sampling_params())

    def _ids(self, prompt: Prompt, parse_special: bool) -> list[int]:
        if not isinstance(prompt, Sequence | np.ndarray) or isinstance(prompt, bytes | bytearray):
            found = reprlib.repr(prompt)
            raise ValueError(f"prompt is {found}; it must be a text or a list of token ids")
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, parse_special=parse_special)
        return list(prompt)

    @cached_property
    def chat_template(self) -> ChatTemplate:
        """Raises TemplateError where the file has no chat template we can use."""
        return ChatTemplate.from_metadata(self._file.metadata, self.tokenizer)

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Output:
        """The model's answer to a conversation, by its own chat template.

        `messages`: dicts with a "role" ("system", "user", "assistant", ...) and a "content".
        `tools` and `chat_template_kwargs`, what else the template takes: see `ChatTemplate.render`,
        whose errors are raised, and those of `stream`.
        """
        chunks = self.stream_chat(
            messages, params, tools=tools, chat_template_kwargs=chat_template_kwargs
        )
        return Output.of(list(chunks))

    def stream_chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Chunk]:
        """What `chat` gives, chunk by chunk; `progress` is that of `stream`."""
        variables = {"tools": tools} | template_variables(chat_template_kwargs)
        with self._session.exclusively():  # or not even a template is rendered
            ids = self.chat_template.encode(messages, **variables)
        return self.stream(ids, params, progress=progress)

    def close(self) -> None:
        """End threads and processes, and let go of the file."""
        self._session.close()
        if "_hidden_session" in self.__dict__:
            self._hidden_session.close()
        if "chat_template" in self.__dict__:
            self.chat_template.close()
        self._file.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
