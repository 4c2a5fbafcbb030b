"""The Python API: a model file in, text out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, overload

import numpy as np

from linnet.engine.chat.rounds import MOST_ROUNDS, Rounds
from linnet.engine.chat.template import Message, template_variables
from linnet.engine.chat.tools import Tool, Tools
from linnet.engine.chat_request import ChatRequest
from linnet.engine.gguf.description import description
from linnet.engine.measure.roofline import read_bandwidth, weights_read
from linnet.engine.open_model import OpenModel, Prompt
from linnet.engine.running.generation import Chunk, Generation, Output
from linnet.engine.running.prefix_file import PrefixFile, write
from linnet.engine.running.results import chunks, outputs
from linnet.engine.running.session import Progress
from linnet.engine.sampling.params import SamplingParams

Prompts = Iterable[Prompt]
Params = SamplingParams | Sequence[SamplingParams]  # for all prompts, or one each


class LLM(OpenModel):
    """A model ready to generate, for any number of threads and streams at once.

    What they ask for shares passes over the weights, up to 8 sequences in one; each gets, bit for
    bit, what it gets alone. Up to 64 sequences are kept when they are done, so that a prompt that
    begins as one of them does computes only the rest.

    `path`: a GGUF file, or the first of a split one; "user/model" or "user/model:Q8_0" on the
    Hugging Face hub, or a URL, which are downloaded once; None for the model that linnet ships.
    `n_threads`: None for one a CPU core this process may use, fewer for models of some MB.
    `n_ctx`: the most tokens in a sequence; 0 for what the model was trained on, None for that, but
    at most 8192. More than it was trained on gives a UserWarning.
    `n_batch`: the most tokens of a prompt in one pass.
    `n_parallel`: the most requests that run at once, 1 to 64; others wait. Of more than 8, those
    that decode take turns.
    `kv_tokens`: the most tokens in all sequences together, those that are kept included, at least
    `n_ctx`; None for what half of the available memory holds, at most `n_parallel` contexts.
    `prompt_cache`: a folder in which the keys and values of long prefixes are kept when the LLM is
    closed, or its scheduler has nothing else to do, and found again by later ones of the same
    model, version, instruction set and numerics. Prompts can be read from it; it is made for the
    user alone. Models with a state keep nothing there, since it goes on with the answer.
    `prompt_cache_bytes`: the most that its files take; those unused for longest go.
    `spec_type`: who guesses the tokens that come next, for passes to try in rows that are free:
    no bit of any answer depends on it. "ngram": what followed the last few tokens where they came
    before, in the prompt or the answer; "draft": `draft_model`, a smaller file with the same
    vocabulary; "none". None for "draft" where there is such a file, and else "ngram", but "none"
    for models with a state, which cannot take a token back. Guesses are made where they have been
    good enough to save time. `draft_max`: the most tokens in a pass that are guesses of one
    sequence, 1 to 7.
    `isa`: see `linnet.kernels.isa`; None for the best this CPU has.
    `activations`: "int8", or "f32" for the exact mode, which multiplies the same packed weights by
    f32 activations and keeps keys and values in f32.
    `cache_type_k`, `cache_type_v`: how keys, and values, are kept: "f32", "f16" or "q8_0", which
    takes half of f16's memory and heads of a multiple of 32 numbers; None for f16 or, in the exact
    mode, f32. See docs/numerics.md for what it costs.
    `mmap`: whether to map the file, or to read it into memory.
    `chat_template`: in place of the file's own, the text of a template in Jinja, or the name of a
    common one, as "chatml": see `linnet.engine.chat.builtin`.
    `ignore_unknown`: whether to load a file that says more of its model than is used here, with a
    UserWarning in place of a ModelError.

    Raises HubError for a model that cannot be had, GGUFError or ModelError for a file that is
    malformed or of an unknown architecture, ISAError, OSError, MemoryError, and ValueError for
    arguments out of range; with a template TemplateError or TokenizerError.
    """

    @classmethod
    def from_pretrained(
        cls, repo_id: str, filename: str | None = None, *, revision: str | None = None,
        token: str | None = None, cache_dir: str | os.PathLike[str] | None = None,
        local_dir: str | os.PathLike[str] | None = None, **options: Any,
    ) -> LLM:  # fmt: skip
        """A model on the Hugging Face hub, kept in the hub's own cache: "user/model", of which
        `filename` is the one file by its path or a glob pattern, or "user/model:Q8_0"; without
        either, the file in Q4_K_M, or the first.

            LLM.from_pretrained("user/model", "*Q8_0.gguf", n_ctx=4096)

        `revision`: a branch, tag or commit. `token`: None for HF_TOKEN, or what `hf auth login` has
        kept. `options`: the keyword arguments of LLM.

        Raises HubError, ValueError for what is no name, and what LLM raises.
        """
        from linnet.engine.gguf.hub import fetch  # imports what few need
        from linnet.engine.gguf.named import hub_model

        model = hub_model(repo_id)
        model = model._replace(file=filename or model.file, revision=revision or model.revision)
        return cls(fetch(model, token=token, cache_dir=cache_dir, local_dir=local_dir), **options)

    @cached_property
    def bytes_per_token(self) -> int:
        """Bytes of packed weights that decoding a token reads."""
        return sum(array.nbytes for array in weights_read(self._session.runner.program))

    def read_bandwidth(self) -> float:
        """Bytes a second that our threads could read of these weights; measured now, in moments."""
        runner = self._session.runner
        with self.scheduler.alone(), self._session.lease.hold():
            return read_bandwidth(runner.team, self._library, weights_read(runner.program))

    def __repr__(self) -> str:
        if not self._session.lease.is_open:
            return f"LLM({self.path.name!r}, closed)"
        model = description(self.metadata, self._file.tensors)
        name = self.metadata.get("general.name", "")
        return f"LLM({self.path.name!r}, name={name!r}, model={model!r}, n_ctx={self.n_ctx})"

    @overload
    def generate(
        self, prompts: Prompt, params: SamplingParams | None = None, *, parse_special: bool = False,
        progress: Progress | bool | None = None, **fields: Any,
    ) -> Output: ...  # fmt: skip
    @overload
    def generate(
        self, prompts: Prompts, params: Params | None = None, *,
        parse_special: bool = False, progress: Progress | bool | None = None,
        return_exceptions: Literal[False] = False, **fields: Any,
    ) -> list[Output]: ...  # fmt: skip
    @overload
    def generate(
        self, prompts: Prompts, params: Params | None = None, *,
        parse_special: bool = False, progress: Progress | bool | None = None,
        return_exceptions: bool, **fields: Any,
    ) -> list[Output | Exception]: ...  # fmt: skip
    def generate(
        self, prompts: Prompt | Prompts, params: Params | None = None, *,
        parse_special: bool = False, progress: Progress | bool | None = None,
        return_exceptions: bool = False, **fields: Any,
    ) -> Output | list[Output] | list[Output | Exception]:  # fmt: skip
        """Continue a prompt, a text or a list of token ids, to an Output; or each of several, in a
        list, an iterator or an array, to a list of Outputs.

            llm.generate("Once upon a time", max_tokens=64, temperature=0)

        Several go on together, `n_parallel` at a time, which reads the weights once for
        all of them; each output is, bit for bit, what its prompt gives alone. An empty list is one
        of no prompts. `params`: one for all, or a list with one for each; `fields` of
        SamplingParams count before it, and what neither gives is as the file suggests: see
        `sampling_params`. `parse_special`: see `stream`. `progress` is called with the outputs that
        are done and their number, after each; True for a bar on stderr.

        Raises what `stream` raises, before anything is computed where a prompt is wrong, with a
        note which one it is; and ValueError for a list of another length. With `return_exceptions`,
        the error of a prompt stands in the place of its output, and the others go on. See
        `generate_each`.
        """
        several = _several(prompts)
        all_prompts = [prompts] if several is None else several
        requests = self._requests(all_prompts, params, parse_special, fields)
        n = len(requests)
        for index, request in enumerate(requests):
            if isinstance(request, Exception) and not return_exceptions:
                raise _noted(request, index, n)
        done: dict[int, Output | Exception] = {}
        with _bar(n) if progress is True else nullcontext(progress or None) as tell:
            for index, output in outputs(self.scheduler, requests):
                if isinstance(output, Exception) and not return_exceptions:
                    raise _noted(output, index, n)
                done[index] = output
                if tell:
                    tell(len(done), n)
        if several is None:
            return cast(Output, done[0])
        return [done[index] for index in range(n)]

    def generate_each(
        self, prompts: Prompts, params: Params | None = None, *,
        parse_special: bool = False, **fields: Any,
    ) -> Iterator[tuple[int, Output | Exception]]:  # fmt: skip
        """What `generate` gives for a list, as it comes: each prompt's index, and its output or,
        where the prompt is wrong or its generation fails, the error; the others go on.

        Raises ValueError for `params` of another length, Interrupted after `stop`, and what every
        prompt would raise.
        """
        requests = self._requests([*prompts], params, parse_special, fields)
        return outputs(self.scheduler, requests)

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, *, parse_special: bool = False,
        progress: Progress | None = None, **fields: Any,
    ) -> Iterator[Chunk]:  # fmt: skip
        """Continue a text, or a list of token ids, chunk by chunk; see `Chunk`.

        `params` and `fields`: see `generate`. `parse_special`: whether control tokens that are
        spelled in a text become tokens; else they are text. `progress` is called with the prompt's
        tokens that are done and their number, before the first pass and after each. What it raises
        ends the stream.

        Raises, before anything is computed, ContextOverflow for a prompt longer than the context,
        ValueError for a prompt of no tokens or ids out of the vocabulary, and TypeError for a field
        there is not; later NonFiniteLogits where the model gives NaN or infinity.
        """
        generation = self.generation(prompt, params, parse_special=parse_special, **fields)
        return chunks(self.scheduler, generation, progress)

    def save_prefix(
        self, path: str | os.PathLike[str], prompt: Prompt, *, parse_special: bool = False
    ) -> int:  # fmt: skip
        """Write a prompt's keys and values, computed as far as they are not cached, to a file for
        the user alone: prompts that begin with it need not compute it again. Returns its tokens.

        Other requests wait while it is written. A model with a state (LFM2, Qwen 3.5) uses a file
        only for prompts that go on beyond it. `parse_special`: see `stream`, whose errors are
        raised; and OSError.
        """
        ids = self._session.check(self.prompt_ids(prompt, parse_special=parse_special))
        while True:  # or another thread's request may have taken the slot
            with self.scheduler.alone():
                slot = self.scheduler.prefixes.holding(ids)
                if slot is not None:
                    write(Path(path), self._session, slot, len(ids), self._origin)
                    return len(ids)
            list(self.stream(ids, SamplingParams(max_tokens=0)))

    def load_prefix(self, path: str | os.PathLike[str]) -> int:
        """Put what `save_prefix` wrote into the cache; returns how many tokens.

        Raises OSError, and PrefixError for a file that is no prefix, is damaged, or was made with
        another model, version of linnet, instruction set or numerics; RuntimeError while requests
        under way have all slots or all memory. The file's digest guards against damage, not
        against somebody who makes one: load what you have written.
        """
        file = PrefixFile.open(Path(path), self._session, self._origin)
        with self.scheduler.alone():
            self.scheduler.prefixes.load(file, self.scheduler.running())
        return len(file.ids)

    def stop(self) -> None:
        """End all generations under way, from any thread; whoever reads them gets Interrupted.

        What begins later is not affected.
        """
        self.scheduler.stop()

    def _requests(
        self, prompts: Sequence[Any], params: Any, parse_special: bool, fields: Mapping[str, Any]
    ) -> list[Generation | Exception]:
        """A generation for each prompt, or what is wrong with it."""
        if not isinstance(params, list | tuple):
            all_params = [self.sampling_params(params, **fields)] * len(prompts)
        elif len(params) == len(prompts):
            all_params = [self.sampling_params(each, **fields) for each in params]
        else:
            n, n_params = len(prompts), len(params)
            raise ValueError(f"params has {n_params} items; it must have {n}, one each")
        requests: list[Generation | Exception] = []
        for prompt, how in zip(prompts, all_params, strict=True):
            try:
                requests.append(self.generation(prompt, how, parse_special=parse_special))
            except ValueError as error:
                requests.append(error)
        return requests

    def chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *,
        tools: Sequence[Tool] = (), run_tools: bool = False, max_rounds: int = MOST_ROUNDS,
        **options: Any,
    ) -> Output:  # fmt: skip
        """The model's answer to a conversation, by its own chat template.

        It is read for reasoning, content and tool calls; its `message` goes on in the conversation.
        `messages`: dicts with a "role" ("system", "user", "assistant", ...) and a "content".
        `tools`: functions that the model may call, of Python or as JSON schemas: see `Tools`. With
        `run_tools`, calls of the former are made, their results or errors told to the model, and
        its next answer got, up to `max_rounds` answers: the last one is returned, which may have
        calls. `options`: `tool_choice`, "auto", "none", "required" or one's name, of which the
        latter two count for the first answer; `parallel_tool_calls`, and `reasoning_budget`, in
        tokens: see `ChatRequest`; `chat_template_kwargs`, what else the template takes; and fields,
        see `generate`. Raises what `ChatTemplate.render` and `stream` raise, and ValueError for a
        function that cannot be told to a model.
        """
        rounds = Rounds(
            messages, tools, options, run_tools=run_tools, max_rounds=max_rounds, awaits=False
        )
        while True:
            output = Output.of(list(self.stream_chat(rounds.messages, params, **rounds.options)))
            calls = rounds.calls(output.tool_calls)
            if not calls:
                return output
            rounds.go_on(output.message, rounds.tools.results(calls))

    def stream_chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *,
        progress: Progress | None = None, **options: Any,
    ) -> Iterator[Chunk]:  # fmt: skip
        """What `chat` gives, chunk by chunk, each with its `part`; `options`: its keyword
        arguments; `progress`: see `stream`."""
        request = self.chat_request(messages, params, **options)
        answer = request.begin()
        return answer.read_all(chunks(self.scheduler, answer.generation, progress))

    def chat_request(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *,
        tools: Sequence[Tool] | None = None, tool_choice: str = "auto",
        parallel_tool_calls: bool = True, reasoning_budget: int | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None, **fields: Any,
    ) -> ChatRequest:  # fmt: skip
        """What `chat` asks for, not begun. Raises what rendering raises."""
        tools = None if tool_choice == "none" or not tools else Tools(tools).schemas
        variables = {"tools": tools} | template_variables(chat_template_kwargs)
        params = self.sampling_params(params, **fields)
        self._session.lease.check()  # or not even a template is rendered
        return ChatRequest(
            llm=self, ids=self.chat_template.encode(messages, **variables), params=params,
            tools=tools or (), tool_choice=tool_choice, parallel_tool_calls=parallel_tool_calls,
            reasoning_budget=reasoning_budget,
        )  # fmt: skip


def _several(prompts: Any) -> list[Any] | None:
    """The prompts of an iterator, or of a list, tuple or array that holds more than token ids; None
    for one prompt, or what is none."""
    if isinstance(prompts, Iterator):
        return [*prompts]
    if not isinstance(prompts, list | tuple | np.ndarray):
        return None
    is_none = isinstance(prompts, list | tuple) and not prompts
    is_several = any(isinstance(prompt, Sequence | np.ndarray) for prompt in prompts)
    return [*prompts] if is_none or is_several else None


def _noted(error: Exception, index: int, n: int) -> Exception:
    """The error, with a note of which of several prompts it is about."""
    if n > 1:
        error.add_note(f"prompts[{index}] of {n}")
    return error


@contextmanager
def _bar(n: int) -> Iterator[Progress]:
    """A bar on stderr for so many prompts; what is called with those done and their number."""
    from tqdm import tqdm  # imports what few need

    with tqdm(total=n, desc="prompts", unit="prompt") as shown:
        yield lambda done, _: shown.update(done - shown.n)
