"""A conversation's prompt as a request: what holds its answer to a form, and what reads it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, NamedTuple

from linnet.engine.chat.answers import AnswerReader, end_of, marker_tokens
from linnet.engine.chat.formats import without_bare_calls, without_reasoning
from linnet.engine.chat.formats.grammar import Lark
from linnet.engine.chat.formats.parts import Part, ToolSchemas, Wanted
from linnet.engine.chat.formats.schemas import GrammarError, Tool
from linnet.engine.checks import whole
from linnet.engine.open_model import OpenModel
from linnet.engine.running.generation import Chunk, Generation
from linnet.engine.sampling.constraint import (
    JSON_OPTIONS,
    ConstraintError,
    Rule,
    check_shape,
    containing,
    grammar_of,
    is_installed,
    lark_grammar,
)
from linnet.engine.sampling.parameter import MAX_INT
from linnet.engine.sampling.params import SamplingParams
from linnet.engine.sampling.reasoning import Budgeted, Reasoned
from linnet.engine.sampling.triggered import Triggered

SHAPE: Final = "shape"


class Answer(NamedTuple):
    """What holds an answer, and what calls begin with that it holds."""

    rule: Rule | None = None
    held: Sequence[str] = ()


FREE: Final = Answer()


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """An answer to a prompt. `ids`: the prompt's."""

    llm: OpenModel
    ids: Sequence[int]
    params: SamplingParams

    def begin(self) -> ChunkReader:
        """A generation to be submitted to the scheduler, and what reads its chunks. Raises what
        `LLM.stream` raises before anything is computed."""
        return ChunkReader(self.llm.generation(self.ids, self.params))


@dataclass(frozen=True, kw_only=True)
class ChatRequest(TextRequest):
    """The answer to a conversation.

    `tools`: those that the prompt offers. `tool_choice`: "auto"; "required" for calls and nothing
    else; a tool's name for one call of that; "none". `parallel_tool_calls`: whether other answers
    may go on after their first call. Without `tells_reasoning`, that is content.
    `reasoning_budget`: after so many tokens the reasoning is closed.
    """

    tools: ToolSchemas = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    tells_reasoning: bool = True
    reasoning_budget: int | None = None

    def begin(self) -> ChunkReader:
        """Raises ConstraintError, too: for a shape, and for strict tools, that cannot be held to;
        and ValueError for a choice or budget that cannot be. What becomes of other tools whose
        schemas cannot be held to is a UserWarning: their arguments may be any."""
        params, end = self.params, self.llm.chat_template.end
        if end is not None:
            params = replace(params, stop=(*params.stop, end))
        answer, held = self._answer(reasons=True)
        generation = self.llm.generation(self.ids, params, constraint=self._rule(answer))
        reader = self._reader(held=held, tells_reasoning=self.tells_reasoning)
        return ChunkReader(generation, reader, has_one_call=not self._is_several)

    @property
    def _is_several(self) -> bool:
        """Whether there may be several calls."""
        return self.parallel_tool_calls and self.tool_choice in ("auto", "required", "none")

    def _rule(self, answer: Rule | None) -> Rule | None:
        """What an answer is held to, its reasoning included."""
        format, budget = self.llm.chat_template.format, self.reasoning_budget
        whole("reasoning_budget", budget, 0, MAX_INT)
        if format.reasoning is None or (answer is None and budget is None):
            return answer
        rule = answer if answer is None or format.has_channels else self._reasoned(answer)
        if budget is None:
            return rule
        closes = self._tokens(format.reasoning[1])
        rest = self._answer(reasons=False)[0] if format.has_channels else answer
        mask = self.llm.constraints.mask
        return Budgeted(rule, rest, mask, self._reader(), closes=closes, budget=budget)

    def _reasoned(self, answer: Rule) -> Reasoned:
        """It, after the reasoning, which the prompt or the answer may open, if neither has closed
        it."""
        format, tokenizer = self.llm.chat_template.format, self.llm.tokenizer
        opening, closing = format.reasoning or ("", "")
        ids = marker_tokens(format, tokenizer)
        opens = self._tokens(opening)
        is_closed = end_of(self.ids, tokenizer).rstrip().endswith(closing)
        begins = {ids[marker] for marker in format.ends_reasoning if marker in ids}
        return Reasoned(
            answer, self._reader(),
            opens=opens[0] if len(opens) == 1 and not is_closed else None,
            kept_out=tokenizer.eog_ids | (set() if self._offered else begins),
            begins=begins if self._offered else (),
        )  # fmt: skip

    def _tokens(self, marker: str) -> list[int]:
        return self.llm.tokenizer.encode(marker, add_special=False, parse_special=True)

    def _answer(self, *, reasons: bool) -> Answer:
        """Of what follows the reasoning; `reasons`: or, in channels, of that, too."""
        format, constraints = self.llm.chat_template.format, self.llm.constraints
        shape, prompt = grammar_of(self.params), end_of(self.ids, self.llm.tokenizer)
        is_asked = self.tool_choice not in ("auto", "none")

        def new() -> Lark:
            return Lark(marker_tokens(format, self.llm.tokenizer), JSON_OPTIONS)

        def whole_answer(tools: Sequence[Tool]) -> Answer:
            wanted = Wanted(
                shape=None if shape is None else SHAPE, tools=tools, must_call=is_asked,
                several=self._is_several, reasons=reasons,
            )  # fmt: skip
            text = format.grammar(new(), wanted, prompt)
            held = None if is_asked else shape
            if text is None:
                return FREE
            return Answer(constraints.make(containing(text, SHAPE, held)), format.begins_calls)

        def triggered(tools: Sequence[Tool]) -> Answer:
            grammars = format.call_grammars(new, tools)
            begun = {i: constraints.make(lark_grammar(text)) for i, text in grammars.items()}
            if not begun:
                if any(tool.strict for tool in tools):
                    warnings.warn("strict tools: no token begins a call here", stacklevel=2)
                return FREE
            texts = self.llm.tokenizer.vocabulary.texts
            return Answer(Triggered(begun, constraints.mask), [texts[i] for i in begun])

        tools = self._offered
        if is_asked:  # which leaves the shape out
            check_shape(self.params)
        if shape is not None or is_asked or not reasons:
            return self._held(whole_answer, tools)
        if not tools or not is_installed():
            return FREE
        try:
            return self._held(whole_answer if format.has_channels else triggered, tools)
        except ConstraintError as error:
            if any(tool.strict for tool in tools):
                raise
            warnings.warn(f"calls are held to no form: {error}", stacklevel=2)
            return FREE

    def _held(self, make: Callable[[Sequence[Tool]], Answer], tools: Sequence[Tool]) -> Answer:
        """What is made for the tools, or for their like with any arguments, where those cannot be
        held to their schemas and need not be. Raises ConstraintError, naming what is at fault."""
        try:
            return make(tools)
        except (GrammarError, ConstraintError) as error:
            check_shape(self.params)
            if not tools:
                raise
            held = [_holdable(make, tool) for tool in tools]
            if held == tools:
                raise ConstraintError(f"tools: calls cannot be held to them: {error}") from error
            return make(held)

    @cached_property
    def _offered(self) -> list[Tool]:
        """The tools that may be called. Raises ValueError for what is none, and where one must be
        called that is not there."""
        try:
            tools = [] if self.tool_choice == "none" else Tool.all(self.tools)
        except ValueError as error:
            raise ValueError(f"tools: {error}") from error
        if self.tool_choice in ("auto", "none"):
            return tools
        found = [tool for tool in tools if self.tool_choice in ("required", tool.name)]
        if not found:
            known = ", ".join(sorted(tool.name for tool in tools)) or "none are given"
            choices = "'auto', 'none', 'required' or the name of one of the tools"
            raise ValueError(f"tool_choice is {self.tool_choice!r}; it must be {choices}: {known}")
        return found

    def _reader(self, *, held: Sequence[str] = (), tells_reasoning: bool = True) -> AnswerReader:
        format = self.llm.chat_template.format
        format = format if tells_reasoning else without_reasoning(format)
        format = format if self.tools else without_bare_calls(format)
        return AnswerReader(
            format, self.llm.tokenizer, self.ids, skip_special=self.params.skip_special,
            tools=self.tools, held=held,
        )  # fmt: skip


def _holdable(make: Callable[[Sequence[Tool]], Answer], tool: Tool) -> Tool:
    """It, or its like with any arguments, of which something can be made. Raises ConstraintError,
    naming it, where neither can be."""
    try:
        make([tool])
    except (GrammarError, ConstraintError) as error:
        what = f"tools: calls of {tool.name!r} cannot be held to their schema"
        if tool.strict:
            raise ConstraintError(f"{what}, which is strict: {error}") from error
        try:
            make([tool.loose])
        except (GrammarError, ConstraintError):
            raise ConstraintError(f"{what}: {error}") from error
        warnings.warn(f"{what}, so their arguments may be any: {error}", stacklevel=2)
        return tool.loose
    return tool


class ChunkReader:
    """Gives the chunks of its `generation`, those of a chat with their part, until `is_over`."""

    def __init__(
        self, generation: Generation, reader: AnswerReader | None = None, *,
        has_one_call: bool = False,
    ) -> None:  # fmt: skip
        self.generation: Final = generation
        self._reader, self._has_one_call = reader, has_one_call
        self.is_over = False

    def read_all(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """What is told of all of them."""
        for chunk in chunks:
            yield from self.read(chunk)
            if self.is_over:
                return

    def read(self, chunk: Chunk) -> Iterator[Chunk]:
        """What is told of a chunk: itself and, where it ends an answer of one call, a last one."""
        part = None
        if self._reader is not None:
            is_cut = chunk.finish_reason == "length"
            part = self._reader.push(chunk.token_id, chunk.text, is_cut=is_cut)
            if self._has_one_call and part.tool_calls:
                part, self.is_over = part.with_one_call, True
        yield replace(chunk, part=part)
        if self.is_over and chunk.finish_reason is None:
            yield Chunk("", finish_reason="stop", stats=self.generation.stats, part=Part())
        self.is_over = self.is_over or chunk.finish_reason is not None
