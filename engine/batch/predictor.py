"""A model for the tables of data engines: batches of rows in, the same with answers out."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from linnet.engine.batch.tables import column, column_names, with_columns
from linnet.engine.llm import LLM
from linnet.engine.open_model import OpenModel
from linnet.engine.running.generation import Chunk, Output
from linnet.engine.sampling.params import SamplingParams
from linnet.kernels.runtime.team import Interrupted


def _keywords(function: Callable[..., Any]) -> frozenset[str]:
    parameters = inspect.signature(function).parameters.values()
    return frozenset(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)


OPENING: Final = _keywords(OpenModel.__init__)
OF_PROMPTS: Final = _keywords(LLM.stream) - {"progress"}
OF_CHATS: Final = _keywords(LLM.chat_request)
SAMPLING: Final = {field.name for field in dataclasses.fields(SamplingParams)} - {
    "logprobs", "prompt_logprobs",  # which have no column
}  # fmt: skip
FIGURES: Final[dict[str, type]] = {
    "finish_reason": str,
    "n_prompt": int,
    "n_generated": int,
    "error": str,
}
PARTS: Final[dict[str, type]] = {"reasoning": str, "tool_calls": str}  # of chats

_MODELS: Final[dict[Hashable, LLM]] = {}  # open in this process
_OPENING: Final = threading.Lock()


class Predictor:
    """Answers to a column of prompts, or of conversations, a batch of rows at a time.

        predict = Predictor("model.gguf", prompt="question", max_tokens=64, temperature=0)
        predict({"question": ["What is a linnet?", "And a siskin?"]})["text"]

    `model`: as for `LLM`. `prompt`: the column of texts, or lists of token ids, to continue;
    "prompt" where neither is given. `messages`: in its place the column of conversations, each a
    list of messages as for `LLM.chat`. `output`: the name of the column for what the model says.
    `options`: the keyword arguments of `LLM`; fields of `SamplingParams`, for all rows; and, with
    `messages`, `tools`, `chat_template_kwargs` and whatever else `LLM.chat` takes.

    The model is opened with the first batch that has rows. A Predictor is pickled without it;
    copies in one process share one open model, and any number of threads may call them.

    Raises ValueError for a value out of range, and TypeError for an option there is not.
    """

    def __init__(
        self, model: str | os.PathLike[str] | None = None, *, prompt: str | None = None,
        messages: str | None = None, output: str = "text", **options: Any,
    ) -> None:  # fmt: skip
        if prompt is not None and messages is not None:
            raise ValueError(f"prompt is {prompt!r}, and messages {messages!r}; give one of them")
        self._is_chat, self._column = messages is not None, messages or prompt or "prompt"
        known = SAMPLING | OPENING | (OF_CHATS if self._is_chat else OF_PROMPTS)
        if unknown := sorted(options.keys() - known):
            takers = "LLM and SamplingParams, and with `messages` of LLM.chat"
            raise TypeError(f"there is no option {unknown[0]!r}; there are those of {takers}")
        SamplingParams(**_only(SAMPLING, options))  # what is wrong with it is told here and now
        self._asking = {name: options[name] for name in options.keys() - OPENING}
        self._model, self._output = (model, _only(OPENING, options)), output
        said: dict[str, type] = {output: str}
        self._columns = said | FIGURES | (PARTS if self._is_chat else {})
        self._copy = partial(
            Predictor, model, prompt=prompt, messages=messages, output=output, **options
        )

    def __call__(self, batch: Any) -> Any:
        """The batch with columns added: `output`, what the model says, of a chat without reasoning
        and calls; `finish_reason`; `n_prompt` and `n_generated`, in tokens; `error`, what is wrong
        with a row that has no answer, whose other columns then are None and 0; with `messages` also
        `reasoning`, and `tool_calls`, a list in JSON. What there is not is None.

        `batch`: a dict of lists or numpy arrays, a pandas DataFrame, or a pyarrow Table or
        RecordBatch.

        Raises ValueError where the batch has no such column, or has one of ours, TypeError for what
        is no batch, and what opening the model raises.
        """
        names = column_names(batch)
        if self._column not in names:
            there = ", ".join(map(str, names)) or "none"
            raise ValueError(f"the batch has no column {self._column!r}; it has: {there}")
        if taken := [name for name in self._columns if name in names]:
            what = "rename it; that of the text is named by `output`"
            raise ValueError(f"the batch has a column {taken[0]!r} already; {what}")
        rows = self._answers(column(batch, self._column))
        columns = {
            name: (type_, [row[name] for row in rows]) for name, type_ in self._columns.items()
        }
        return with_columns(batch, self._column, columns)

    def close(self) -> None:
        """Close the model for all copies in this process; the next batch opens it again."""
        with _OPENING:
            if llm := _MODELS.pop(self._key, None):
                llm.close()

    def __reduce__(self) -> tuple[Callable[[], Predictor], tuple[()]]:
        return self._copy, ()

    def _answers(self, values: Sequence[Any]) -> list[dict[str, Any]]:
        """Of each row: what its columns have."""
        if not values:
            return []
        llm = self._llm()
        _ = llm.chat_template if self._is_chat else llm.tokenizer  # what fails is no row's fault
        with ThreadPoolExecutor(llm.n_parallel, thread_name_prefix="linnet-row") as pool:
            return [*pool.map(partial(self._answer, llm), values)]

    def _answer(self, llm: LLM, value: Any) -> dict[str, Any]:
        ask: Callable[..., Iterator[Chunk]] = llm.stream_chat if self._is_chat else llm.stream
        try:
            output = Output.of([*ask(value, **self._asking)])
        except Interrupted:
            raise
        except Exception as error:  # of this row, and of no other
            nothing = {name: 0 if type_ is int else None for name, type_ in self._columns.items()}
            return nothing | {"error": f"{type(error).__name__}: {error}"}
        calls = json.dumps(output.tool_calls, ensure_ascii=False) if output.tool_calls else None
        return {
            self._output: output.content if self._is_chat else output.text,
            "finish_reason": output.finish_reason, "n_prompt": output.stats.n_prompt,
            "n_generated": output.stats.n_generated, "error": None,
            "reasoning": output.reasoning, "tool_calls": calls,
        }  # fmt: skip

    def _llm(self) -> LLM:
        """The model, which no other thread opens meanwhile."""
        with _OPENING:
            if self._key not in _MODELS:
                model, options = self._model
                _MODELS[self._key] = LLM(model, **options)
            return _MODELS[self._key]

    @property
    def _key(self) -> Hashable:
        model, options = self._model
        return os.getpid(), model, *sorted(options.items())  # a fork has no threads of its parent


def _only(names: Set[str], options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in names}
