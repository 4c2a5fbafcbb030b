"""A conversation's prompt as a request: what holds its answer to a form, and what reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from linnet.engine.chat.answers import AnswerReader, end_of, marker_tokens
from linnet.engine.chat.formats import without_reasoning
from linnet.engine.chat.formats.calls import names
from linnet.engine.chat.formats.grammar import GrammarError, Lark, Tool, function_of
from linnet.engine.chat.formats.harmony import Harmony
from linnet.engine.chat.formats.parts import Format, Part, ToolSchemas, Wanted
from linnet.engine.checks import whole
from linnet.engine.open_model import OpenModel
from linnet.engine.running.generation import Chunk, Generation
from linnet.engine.sampling.constraint import (
    JSON_OPTIONS,
    Constraint,
    ConstraintError,
    Rule,
    containing,
    grammar_of,
    is_installed,
    lark_grammar,
)
from linnet.engine.sampling.parameter import MAX_INT
from linnet.engine.sampling.params import SamplingParams
from linnet.engine.sampling.reasoning import Reasoned, ReasoningTags
from linnet.engine.sampling.triggered import Triggered

SHAPE: Final = "shape"
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """An answer to a prompt. `ids`: the prompt's."""

    llm: OpenModel
    ids: Sequence[int]
    params: SamplingParams

    def generation(self) -> Generation:
        """To be submitted to the scheduler. Raises what `LLM.stream` raises before anything is
        computed."""
        return self.llm.generation(self.ids, self.params)

    def reader(self, generation: Generation) -> ChunkReader:
        """Reads the chunks of that generation."""
        return ChunkReader(generation)

    def read(self, generation: Generation, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The chunks of that generation, with what is read of them."""
        reader = self.reader(generation)
        for chunk in chunks:
            yield from reader.read(chunk)
            if reader.is_over:
                return


@dataclass(frozen=True, kw_only=True)
class ChatRequest(TextRequest):
    """The answer to a conversation.

    `tools`: those that the prompt offers. `tool_choice`: "auto"; "required" for calls and nothing
    else; a tool's name for a call of that; "none". `parallel_tool_calls`: whether an answer may go
    on after its first call. Without `tells_reasoning`, that is content. `reasoning_budget`: after
    so many tokens the reasoning is closed.
    """

    tools: ToolSchemas = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    tells_reasoning: bool = True
    reasoning_budget: int | None = None

    def generation(self) -> Generation:
        """Raises ConstraintError, too: for tools whose schemas cannot be held to; and ValueError
        for a choice or budget that cannot be."""
        return self.llm.generation(self.ids, self.params, constraint=self._constraint())

    def _constraint(self) -> Rule | None:
        """What the answer is held to: shape, calls and budget; from the reasoning's end on."""
        constraints, tokenizer = self.llm.constraints, self.llm.tokenizer
        format, prompt = self.llm.chat_template.format, end_of(self.ids, tokenizer)
        answer = self._answer(format, prompt)
        if self.reasoning_budget is not None:
            whole("reasoning_budget", self.reasoning_budget, 0, MAX_INT)
            if isinstance(format, Harmony):
                wanted = "leave it out, and say how much by reasoning_effort"
                raise ValueError(f"reasoning_budget: this model reasons in channels; {wanted}")
        elif answer is None:
            return None
        if format.reasoning is None or prompt.rstrip().endswith(format.reasoning[1]):
            return answer
        begun = prompt.rstrip().endswith(format.reasoning[0])
        tags = ReasoningTags.of(*format.reasoning, tokenizer, begun=begun)
        budget = self.reasoning_budget
        return Reasoned(answer, constraints.mask, tags, tokenizer, budget=budget)

    def _answer(self, format: Format, prompt: str) -> Rule | None:
        """Of what follows the reasoning."""
        shape, offered = grammar_of(self.params), self._offered()
        is_asked = self.tool_choice not in ("auto", "none")
        constraints = self.llm.constraints

        def new() -> Lark:
            return Lark(marker_tokens(format, self.llm.tokenizer), JSON_OPTIONS)

        def whole_answer(tools: ToolSchemas) -> Constraint | None:
            wanted = Wanted(
                shape=None if shape is None else SHAPE, tools=Tool.all(tools), must_call=is_asked,
                several=self.parallel_tool_calls,
            )  # fmt: skip
            text = format.grammar(new(), wanted, prompt)
            held = None if is_asked else shape
            return None if text is None else constraints.make(containing(text, SHAPE, held))

        def triggered(tools: ToolSchemas) -> Triggered | None:
            grammars = format.call_grammars(new, tools)
            begun = {i: constraints.make(lark_grammar(text)) for i, text in grammars.items()}
            return Triggered(begun, constraints.mask) if begun else None

        if shape is not None or is_asked:
            return _for_tools(whole_answer, offered)
        return _for_tools(triggered, offered) if offered and is_installed() else None

    def _offered(self) -> ToolSchemas:
        """The tools that may be called. Raises ValueError where one must be that is not there."""
        if self.tool_choice in ("auto", "required", "none"):
            found = () if self.tool_choice == "none" else self.tools
        else:
            found = [t for t in self.tools if function_of(t).get("name") == self.tool_choice]
        if not found and self.tool_choice not in ("auto", "none"):
            known = ", ".join(sorted(map(str, names(self.tools)))) or "none are given"
            choices = "'auto', 'none', 'required' or the name of one of the tools"
            raise ValueError(f"tool_choice is {self.tool_choice!r}; it must be {choices}: {known}")
        return found

    def reader(self, generation: Generation) -> ChunkReader:
        format = self.llm.chat_template.format
        reader = AnswerReader(
            format if self.tells_reasoning else without_reasoning(format), self.llm.tokenizer,
            self.ids, skip_special=self.params.skip_special, tools=self.tools,
        )  # fmt: skip
        return ChunkReader(generation, reader, has_one_call=not self.parallel_tool_calls)


def _for_tools(make: Callable[[ToolSchemas], _T], tools: ToolSchemas) -> _T:
    """What is made for the tools. Raises ConstraintError, which names the one at fault."""
    try:
        return make(tools)
    except (GrammarError, ConstraintError) as error:
        for tool in tools if len(tools) > 1 else ():
            _for_tools(make, [tool])
        if not tools:
            raise
        name = function_of(tools[0]).get("name")
        raise ConstraintError(f"tools: calls of {name!r} cannot be held to it: {error}") from error


class ChunkReader:
    """Gives the chunks of a generation, those of a chat with their part, until `is_over`."""

    def __init__(
        self, generation: Generation, reader: AnswerReader | None = None, *,
        has_one_call: bool = False,
    ) -> None:  # fmt: skip
        self._generation: Final = generation
        self._reader, self._has_one_call = reader, has_one_call
        self.is_over = False

    def read(self, chunk: Chunk) -> Iterator[Chunk]:
        """What is told of a chunk: itself and, where it ends an answer of one call, a last one."""
        part = None
        if self._reader is not None:
            is_cut = chunk.finish_reason == "length"
            part = self._reader.push(chunk.token_id, chunk.text, is_cut=is_cut)
            if self._has_one_call and part.tool_calls:
                part, self.is_over = part._replace(tool_calls=part.tool_calls[:1]), True
        yield replace(chunk, part=part)
        if self.is_over and chunk.finish_reason is None:
            yield Chunk("", finish_reason="stop", stats=self._generation.stats, part=Part())
        self.is_over = self.is_over or chunk.finish_reason is not None
