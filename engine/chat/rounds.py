"""A conversation in which calls of tools are run, and their results told, round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from linnet.engine.chat.formats.parts import ToolCall
from linnet.engine.chat.template import Message
from linnet.engine.chat.tools import Tool, Tools
from linnet.engine.checks import whole

MOST_ROUNDS: Final = 8  # answers, where nothing is said
MAX_ROUNDS: Final = 1000


class Rounds:
    """`messages` and `options` are those of the next answer; `tools` runs the calls of the last."""

    def __init__(
        self, messages: Sequence[Message], tools: Sequence[Tool], options: Mapping[str, Any], *,
        run_tools: bool, max_rounds: int, awaits: bool,
    ) -> None:  # fmt: skip
        """`awaits`: whether async functions can be run. Raises ValueError for a number of rounds
        out of range, and for functions that cannot be told to a model, or run here."""
        whole("max_rounds", max_rounds, 1, MAX_ROUNDS)
        self.messages = [*messages]
        self.options = {"tools": tools, **options}
        self.tools = Tools(tools)
        self._n_left = max_rounds if run_tools else 1
        if run_tools and not awaits and (names := self.tools.async_names):
            raise ValueError(f"tools: {', '.join(names)} must be awaited, as AsyncLLM.chat does")

    def calls(self, output_calls: Sequence[ToolCall]) -> Sequence[ToolCall]:
        """Those of an answer that are to be run; none where it is the last."""
        self._n_left -= 1
        return output_calls if self._n_left and self.tools.can_run(output_calls) else ()

    def go_on(self, answer: Message, results: Sequence[Message]) -> None:
        """Tell the results of the calls in an answer; no later one has to call."""
        self.messages += [answer, *results]
        self.options.pop("tool_choice", None)
