"""The Python API: a model file in, text out."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, overload

import numpy as np

from linnet.engine.chat.answers import AnswerReader
from linnet.engine.chat.template import Message, template_variables
from linnet.engine.measure.roofline import read_bandwidth, weights_read
from linnet.engine.open_model import OpenModel, Prompt
from linnet.engine.running.generation import Chunk, Generation, Output
from linnet.engine.running.results import chunks, outputs
from linnet.engine.running.session import Progress
from linnet.engine.sampling.params import SamplingParams

Prompts = list[str] | list[Sequence[int]] | tuple[str, ...] | tuple[Sequence[int], ...]


class LLM(OpenModel):
    """A model ready to generate, for any number of threads and streams at once.

    What they ask for shares passes over the weights, up to 8 sequences in one; each gets, bit for
    bit, what it gets alone.

    `path`: a GGUF file, or the first of a split one; None for the model that linnet ships.
    `n_threads`: None for one a CPU core this process may use, fewer for models of some MB.
    `n_ctx`: the most tokens in a sequence; 0 for what the model was trained on, None for that, but
    at most 8192. More than it was trained on gives a UserWarning.
    `n_batch`: the most tokens of a prompt in one pass.
    `kv_tokens`: the most tokens in all sequences under way together, at least `n_ctx`; None for
    what half of the available memory holds, at most 8 whole contexts.
    `isa`: see `linnet.kernels.isa`; None for the best this CPU has.
    `activations`: "int8", or "f32" for the exact mode, which multiplies the same packed weights by
    f32 activations and keeps keys and values in f32.
    `mmap`: whether to map the file, or to read it into memory.
    `chat_template`: the text of a template in Jinja, in place of the file's own.
    `ignore_unknown`: whether to load a file that says more of its model than is used here, with a
    UserWarning in place of a ModelError.

    Raises GGUFError or ModelError for a file that is malformed or of an unknown architecture,
    ISAError, OSError, MemoryError, and ValueError for arguments out of range; with a template
    TemplateError or TokenizerError.
    """

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> LLM:
        """A model on the Hugging Face hub, "user/model" or "user/model:Q4_K_M", kept in the hub's
        own cache. `options`: the keyword arguments of LLM. Needs linnet[hub].

        Raises HubError, ValueError for what is no name, and what LLM raises.
        """
        from linnet.engine.gguf.hub import download  # imports what few need

        return cls(download(name), **options)

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of packed weights that decoding a token reads."""
        return sum(array.nbytes for array in weights_read(self._session.runner.program))

    def read_bandwidth(self) -> float:
        """Bytes a second that our threads could read of these weights; measured now, in moments."""
        runner = self._session.runner
        with self._scheduler.alone(), self._session.lease.hold():
            return read_bandwidth(runner.team, self._library, weights_read(runner.program))

    @overload
    def generate(
        self, prompts: Prompt, params: SamplingParams | None = None, *, parse_special: bool = False,
        progress: Progress | None = None,
    ) -> Output: ...  # fmt: skip
    @overload
    def generate(
        self, prompts: Prompts, params: SamplingParams | list[SamplingParams] | None = None, *,
        parse_special: bool = False, progress: Progress | None = None,
    ) -> list[Output]: ...  # fmt: skip
    def generate(
        self, prompts: Any, params: Any = None, *, parse_special: bool = False,
        progress: Progress | None = None,
    ) -> Any:  # fmt: skip
        """Continue a prompt, or each of a list or tuple of prompts: texts, or lists of token ids.

        Prompts in a list go on together, up to 8 at a time, which reads the weights once for all of
        them; each output is, bit for bit, what its prompt gives alone. An empty list is one of no
        prompts. `params`: one for all, or a list with one for each; by default what the file
        suggests, see `sampling_params`. `parse_special`: see `stream`. `progress` is called with
        the outputs that are done and their number, after each.

        Raises what `stream` raises, before anything is computed where a prompt is wrong, with a
        note which one it is; and ValueError for a list of another length. See `generate_each`.
        """
        several = isinstance(prompts, list | tuple) and (
            not prompts or any(isinstance(prompt, Sequence | np.ndarray) for prompt in prompts)
        )
        all_prompts = prompts if several else [prompts]
        requests = self._requests(all_prompts, params, parse_special)
        for index, request in enumerate(requests):
            if isinstance(request, Exception):
                raise _noted(request, index, len(requests))
        done: dict[int, Output] = {}
        for index, output in outputs(self._scheduler, requests):
            if isinstance(output, Exception):
                raise _noted(output, index, len(requests))
            done[index] = output
            if progress:
                progress(len(done), len(requests))
        return [done[index] for index in range(len(done))] if several else done[0]

    def generate_each(
        self, prompts: Prompts, params: SamplingParams | list[SamplingParams] | None = None, *,
        parse_special: bool = False,
    ) -> Iterator[tuple[int, Output | Exception]]:  # fmt: skip
        """What `generate` gives for a list, as it comes: each prompt's index, and its output or,
        where the prompt is wrong or its generation fails, the error; the others go on.

        Raises ValueError for `params` of another length, Interrupted after `stop`, and what every
        prompt would raise.
        """
        return outputs(self._scheduler, self._requests(prompts, params, parse_special))

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
        where the model gives NaN or infinity.
        """
        generation = self._generation(prompt, params, parse_special)
        return chunks(self._scheduler, generation, progress)

    def stop(self) -> None:
        """End all generations under way, from any thread; whoever reads them gets Interrupted.

        What begins later is not affected.
        """
        self._scheduler.stop()

    def _requests(
        self, prompts: Sequence[Prompt], params: Any, parse_special: bool
    ) -> list[Generation | Exception]:
        """A generation for each prompt, or what is wrong with it."""
        all_params = params if isinstance(params, list) else [params] * len(prompts)
        if len(all_params) != (n := len(prompts)):
            raise ValueError(f"params has {len(all_params)} items; it must have {n}, one each")
        requests: list[Generation | Exception] = []
        for prompt, how in zip(prompts, all_params, strict=True):
            try:
                requests.append(self._generation(prompt, how, parse_special))
            except ValueError as error:
                requests.append(error)
        return requests

    def _generation(
        self, prompt: Prompt, params: SamplingParams | None, parse_special: bool
    ) -> Generation:
        ids = self._session.check(self._ids(prompt, parse_special))
        if not isinstance(params, SamplingParams | None):
            raise ValueError(f"params is {reprlib.repr(params)}; it must be a SamplingParams")
        return Generation(
            ids, params or self.sampling_params(), self.tokenizer,
            n_ctx=self.n_ctx, n_vocab=self.config.n_vocab,
        )  # fmt: skip

    def chat(
        self,
        messages: Sequence[Message],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> Output:
        """The model's answer to a conversation, by its own chat template.

        It is read for reasoning, content and tool calls; its `message` goes on in the conversation.
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
        """What `chat` gives, chunk by chunk, each with its `part`; `progress`: see `stream`."""
        variables = {"tools": tools} | template_variables(chat_template_kwargs)
        self._session.lease.check()  # or not even a template is rendered
        ids = self.chat_template.encode(messages, **variables)
        params = params or self.sampling_params()
        chunks = self.stream(ids, params, progress=progress)
        reader = AnswerReader(
            self.chat_template.format, self.tokenizer, ids, skip_special=params.skip_special
        )
        return _read(chunks, reader)


def _read(chunks: Iterator[Chunk], reader: AnswerReader) -> Iterator[Chunk]:
    """The chunks, each with its part."""
    for chunk in chunks:
        yield replace(chunk, part=reader.push(chunk.token_id, chunk.text))


def _noted(error: Exception, index: int, n: int) -> Exception:
    """The error, with a note of which of several prompts it is about."""
    if n > 1:
        error.add_note(f"prompts[{index}] of {n}")
    return error
