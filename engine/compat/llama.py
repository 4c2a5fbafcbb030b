"""llama-cpp-python's class: the part of it that most programs use."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from linnet.engine.chat_request import ChatRequest, TextRequest
from linnet.engine.compat.arguments import (
    POOLINGS,
    RANDOM_SEED,
    cache_type,
    check_options,
    sampling_params,
)
from linnet.engine.compat.results import (
    chat_chunks,
    chat_completion,
    text_chunks,
    text_completion,
)
from linnet.engine.compat.shapes import tool_choice_of
from linnet.engine.llm import LLM
from linnet.engine.openai.text import TextChoice
from linnet.engine.running.generation import Chunk, Generation
from linnet.engine.running.results import chunks
from linnet.engine.running.runner import MOST_PROMPT_TOKENS
from linnet.engine.sampling.params import SamplingParams


class LlamaState(NamedTuple):
    """What `Llama.save_state` gives: the tokens so far, whose keys and values are in the cache or,
    once others have taken their place there, are computed again, to the same bits."""

    input_ids: npt.NDArray[np.intc]
    seed: int

    @property
    def n_tokens(self) -> int:
        return len(self.input_ids)


class Llama:
    """llama-cpp-python's `Llama`, by its names, defaults and shapes of results.

        from linnet.compat import Llama

        llm = Llama("model.gguf", n_ctx=2048)
        llm("Q: Name the planets. A:", max_tokens=32, stop=["Q:"])["choices"][0]["text"]
        llm.create_chat_completion([{"role": "user", "content": "Hello"}])

    Arguments that say how llama.cpp computes (`n_gpu_layers`, `flash_attn`, ...) change nothing
    here. Those that would change what comes out, and are not there, raise ValueError: LoRA, RoPE's
    parameters, `suffix`, `functions`. `logits_all` is not needed for `logprobs`.

    What is otherwise: conversations go by the file's chat template, or by `chat_template`, and
    `chat_format` is ignored with a warning; with `tools`, answers are read for their calls;
    `temperature` and `top_p` out of range are errors; several threads may use one Llama; and
    `embed` gives one vector a text, the mean where the file names no pooling.

    `model_path`, `n_ctx`, `n_batch`, `n_threads`, `use_mmap`, `chat_template`: see `LLM`, which is
    `llm`; 0 for `n_ctx` is what the model was trained on. `seed`: for calls that give none.
    `last_n_tokens_size`: the tokens that penalties look at. `embedding`: whether `embed` may be
    called; `pooling_type`: llama.cpp's number, -1 for what the file says. `type_k`, `type_v`: of
    cached keys and values, ggml's number: 0 for f32, 1 and None for f16, 8 for q8_0.
    """

    def __init__(
        self, model_path: str | os.PathLike[str], *, n_ctx: int = 512, n_batch: int = 512,
        n_threads: int | None = None, seed: int = RANDOM_SEED, last_n_tokens_size: int = 64,
        embedding: bool = False, pooling_type: int = -1, use_mmap: bool = True,
        chat_template: str | None = None, type_k: int | None = None, type_v: int | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        check_options(options)
        if pooling_type not in POOLINGS:
            raise ValueError(f"pooling_type is {pooling_type!r}; it must be one of {[*POOLINGS]}")
        self.model_path, self.chat_format = os.fspath(model_path), options.get("chat_format")
        self.llm = LLM(
            model_path, n_ctx=n_ctx, n_batch=min(n_batch, MOST_PROMPT_TOKENS),
            n_threads=n_threads or None, mmap=use_mmap, chat_template=chat_template,
            cache_type_k=cache_type("type_k", type_k), cache_type_v=cache_type("type_v", type_v),
        )  # fmt: skip
        self.metadata = {
            key: _written(value)
            for key, value in self.llm.metadata.items()
            if isinstance(value, str | int | float)
        }
        self._embedding, self._pooling = embedding, POOLINGS[pooling_type]
        self._seed, self._last_n = seed, last_n_tokens_size
        self._ids: list[int] = []

    @classmethod
    def from_pretrained(
        cls, repo_id: str, filename: str, additional_files: Sequence[str] | None = None,
        local_dir: str | os.PathLike[str] | None = None, local_dir_use_symlinks: Any = "auto",
        cache_dir: str | os.PathLike[str] | None = None, **options: Any,
    ) -> Self:  # fmt: skip
        """The one model file in a repository on the Hugging Face hub whose name matches a glob
        pattern. Parts of a split file come by themselves, so `additional_files` are not downloaded.
        `options`: what Llama takes.

        Raises HubError, and ValueError for what is no name.
        """
        from linnet.engine.gguf.hub import fetch  # imports what few need
        from linnet.engine.gguf.named import hub_model

        model = hub_model(repo_id)._replace(file=filename)
        return cls(fetch(model, local_dir=local_dir, cache_dir=cache_dir), **options)

    # -- text -----------------------------------------------------------------------------------
    def create_completion(
        self, prompt: str | Sequence[int], suffix: str | None = None, max_tokens: int | None = 16,
        temperature: float = 0.8, *, echo: bool = False, stream: bool = False,
        model: str | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Continue a text, in which control tokens are parsed, or token ids: a dict of OpenAI's
        "text_completion" or, with `stream`, an iterator of such.

        `max_tokens`: 0 and less, and None, for as many as fit the context. `echo`: whether the
        prompt comes first. `model`: the name to say. `options`: stop, seed, top_k, top_p, min_p,
        typical_p, repeat_penalty, presence_penalty, frequency_penalty, mirostat_mode, mirostat_tau,
        mirostat_eta, logit_bias and logprobs, as in `SamplingParams`; logits_processor: functions
        of all token ids so far (n,) and the logits (n_vocab,) to other logits; stopping_criteria: a
        function of the same that is true where the text ends; grammar: a `LlamaGrammar`.

        Raises ContextOverflow, which is a ValueError, ValueError for values out of range, and
        TypeError for an argument there is not.
        """
        options |= {"suffix": suffix, "max_tokens": max_tokens, "temperature": temperature}
        params = self._params(options, echo=echo)
        ids = self.llm.prompt_ids(prompt, parse_special=True)
        generation = self.llm.generation(ids, params)
        text = prompt if isinstance(prompt, str) else self.detokenize(ids).decode(errors="replace")
        choice = TextChoice(
            0, generation, self.llm.tokenizer, echo=text if echo else None, offset=len(text)
        )
        give = text_chunks if stream else text_completion
        return give(self._chunks(generation), model or self.model_path, choice)

    def __call__(self, prompt: str | Sequence[int], *arguments: Any, **options: Any) -> Any:
        """See `create_completion`."""
        return self.create_completion(prompt, *arguments, **options)

    def create_chat_completion(
        self, messages: Sequence[Mapping[str, Any]], *,
        tools: Sequence[Mapping[str, Any]] | None = None, tool_choice: Any = None,
        temperature: float = 0.2, stream: bool = False, model: str | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """The answer to a conversation: a dict of OpenAI's "chat.completion" or, with `stream`, an
        iterator of "chat.completion.chunk".

        Its content is the text as the model wrote it, reasoning included; with `tools`, calls are
        taken out of it. `tool_choice`: "auto", "none", "required", or the tool that is to be
        called, as OpenAI's API names it. `options`: max_tokens, logprobs (a bool) and top_logprobs,
        response_format ("json_object" with a "schema", or OpenAI's "json_schema"), and those of
        `create_completion`, whose errors are raised; and TemplateError.
        """
        params = self._params(options | {"temperature": temperature})
        choice = tool_choice_of(tool_choice)
        offered = () if choice == "none" else tools or ()
        ids = self.llm.chat_template.encode(messages, tools=offered or None)
        request: TextRequest = TextRequest(llm=self.llm, ids=ids, params=params)
        if offered or choice not in ("auto", "none") or params.shape:
            request = ChatRequest(
                llm=self.llm, ids=ids, params=params, tools=offered, tool_choice=choice,
                parallel_tool_calls=not isinstance(tool_choice, Mapping), tells_reasoning=False,
            )  # fmt: skip
        give = chat_chunks if stream else chat_completion
        answer = request.begin()
        said = answer.read_all(self._chunks(answer.generation))
        return give(said, model or self.model_path, self.llm.tokenizer)

    def generate(
        self, tokens: Sequence[int], *, temp: float = 0.8, reset: bool = True, **options: Any
    ) -> Iterator[int]:
        """The ids that follow, one by one, until the model ends, whose end token is not given, or
        the context is full. `options`: those of `create_completion`; `reset` changes nothing."""
        params = self._params(options | {"temperature": temp, "max_tokens": None})
        for chunk in self._chunks(self.llm.generation(tokens, params)):
            if chunk.token_id is not None:
                yield chunk.token_id

    # -- tokens ---------------------------------------------------------------------------------
    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        """The ids of a text in UTF-8; `add_bos`: with the tokens that the model wants around it;
        `special`: whether control tokens spelled in it are parsed."""
        if not isinstance(text, bytes):
            raise ValueError(f"text is {reprlib.repr(text)}; it must be bytes, as of 'x'.encode()")
        return self.llm.tokenizer.encode(text.decode(), add_special=add_bos, parse_special=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None,
        special: bool = False,
    ) -> bytes:  # fmt: skip
        """The bytes of ids; `special`: those of control tokens, too, which are their names."""
        tokenizer = self.llm.tokenizer
        shown = [each for each in tokens if special or not tokenizer.is_hidden(each)]
        data = b"".join(map(tokenizer.token_bytes, shown))
        begins = len(tokens) > 0 and tokens[0] == tokenizer.bos_id
        return data.removeprefix(b" ") if begins else data

    def token_bos(self) -> int:
        """Its id, or -1."""
        return _id(self.llm.tokenizer.bos_id)

    def token_eos(self) -> int:
        """Its id, or -1."""
        return _id(self.llm.tokenizer.eos_id)

    # -- vectors --------------------------------------------------------------------------------
    def embed(
        self, input: str | Sequence[str], normalize: bool = False, truncate: bool = True,
        return_count: bool = False,
    ) -> Any:  # fmt: skip
        """A vector for a text, or one for each of several, as lists; with `return_count`, and the
        number of their tokens. `truncate`: whether a text longer than the context is cut, or else
        raises ContextOverflow. Raises RuntimeError without `embedding`."""
        if not self._embedding:
            raise RuntimeError("to call embed, give Llama embedding=True")
        texts = [input] if isinstance(input, str) else input
        limit = self.n_ctx() if truncate else None
        all_ids = [self.tokenize(text.encode())[:limit] for text in texts]
        vectors = self.llm.embed(all_ids, pooling=self._pooling, normalize=normalize).tolist()
        found = vectors[0] if isinstance(input, str) else vectors
        return (found, sum(map(len, all_ids))) if return_count else found

    def create_embedding(
        self, input: str | Sequence[str], model: str | None = None
    ) -> dict[str, Any]:  # fmt: skip
        """The same as OpenAI's list of "embedding"; see `embed`."""
        texts = [input] if isinstance(input, str) else input
        vectors, n_tokens = self.embed(texts, return_count=True)
        data = [
            {"object": "embedding", "embedding": vector, "index": index}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": n_tokens, "total_tokens": n_tokens}
        return {"object": "list", "data": data, "model": model or self.model_path, "usage": usage}

    # -- state ----------------------------------------------------------------------------------
    @property
    def n_tokens(self) -> int:
        """Of the last prompt and what followed it."""
        return len(self._ids)

    def save_state(self) -> LlamaState:
        """The last prompt and what followed it. It is not needed for prompts that go on from
        another to be fast: the cache is looked up by itself."""
        return LlamaState(np.array(self._ids, np.intc), self._seed)

    def load_state(self, state: LlamaState) -> None:
        self._ids, self._seed = state.input_ids.tolist(), state.seed

    def reset(self) -> None:
        """Forget the last prompt. What a prompt gives does not depend on those before."""
        self._ids = []

    def set_cache(self, cache: Any) -> None:
        """Changes nothing: prefixes are kept, and found again, by themselves."""

    def set_seed(self, seed: int) -> None:
        """For calls that give none."""
        self._seed = seed

    def n_ctx(self) -> int:
        return self.llm.n_ctx

    def n_vocab(self) -> int:
        return self.llm.config.n_vocab

    def n_embd(self) -> int:
        return self.llm.config.n_embd

    def close(self) -> None:
        """End threads and processes, and let go of the file."""
        self.llm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- within ---------------------------------------------------------------------------------
    def _params(self, options: Mapping[str, Any], *, echo: bool = False) -> SamplingParams:
        return sampling_params(
            options, seed=self._seed, last_n_tokens=self._last_n, echo=echo,
            eos_id=self.llm.tokenizer.eos_id,
        )  # fmt: skip

    def _chunks(self, generation: Generation) -> Iterator[Chunk]:
        """As they come; the tokens so far are what `save_state` saves."""
        self._ids = generation.ids
        return chunks(self.llm.scheduler, generation)


def _written(value: str | int | float) -> str:
    """A value of the metadata as llama.cpp writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:f}" if isinstance(value, float) else str(value)


def _id(token_id: int | None) -> int:
    return -1 if token_id is None else token_id
