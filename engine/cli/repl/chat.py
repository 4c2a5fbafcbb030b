"""A conversation, its model and its settings, as commands and messages change them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from linnet.engine.cli.conversation import Conversation
from linnet.engine.cli.options import note_limit
from linnet.engine.cli.repl.painter import Painter
from linnet.engine.cli.repl.spinner import spinner
from linnet.engine.cli.terminal import note
from linnet.engine.llm import LLM
from linnet.engine.running.generation import Chunk, Stats
from linnet.engine.sampling.constraint import check_shape

Answering = Callable[..., Generator[Chunk, None, None]]  # takes `progress`


class Chat:
    """Answers messages on stdout; notes, where they are wanted, go to stderr."""

    def __init__(
        self, conversation: Conversation, fields: Mapping[str, Any],
        open_model: Callable[[str], LLM], *, notes: bool = False, wrap: bool = True,
    ) -> None:  # fmt: skip
        """`fields`: those of SamplingParams that are set. `open_model`: another one, by its name.
        `notes`: whether to say what was done, and at which rate. `wrap`: whether words are
        wrapped."""
        self.conversation = conversation
        self.notes = self.rates = notes
        self.edit: Callable[[str], str] | None = None  # gives the user a text to change
        self.stats: Stats | None = None  # of the last answer
        self._fields, self._open, self._wrap = dict(fields), open_model, wrap
        self._read: list[str] = []  # what goes before the next message

    @property
    def llm(self) -> LLM:
        return self.conversation.llm

    def ask(self, text: str) -> None:
        """Show the answer to a message, after what was read. Raises what `LLM.stream_chat`
        raises."""
        if not text.strip():
            return
        before = self.conversation.messages
        try:
            self._show(partial(self.conversation.ask, "\n\n".join([*self._read, text])))
        finally:
            if self.conversation.messages is not before:  # stopped or not, it was asked
                self._read.clear()

    def ask_again(self, text: str | None = None) -> None:
        """Show another answer; see `Conversation.ask_again`."""
        self._show(partial(self.conversation.ask_again, text))

    def begin(self, system: str | None) -> None:
        self.conversation.begin(system)
        self._read.clear()
        if self.notes:
            note("(a new conversation)")

    def read(self, text: str) -> None:
        """It goes before the next message."""
        self._read.append(text)

    def undo(self) -> str:
        """Forget what was read or else the last turn; returns what."""
        if self._read:
            self._read.clear()
            return "what was read"
        self.conversation.undo()
        return "the last message and its answer"

    def set(self, field: str, value: Any) -> None:
        """Change a sampling parameter. Raises ValueError, with nothing changed."""
        fields = {**self._fields, field: value}
        params = self.llm.sampling_params(**fields)
        check_shape(params)
        self._fields, self.conversation.params = fields, params

    def move(self, name: str) -> None:
        """Go on with another model. Raises what opening it raises, and TemplateError, with nothing
        changed."""
        old = self.llm
        new = self._open(name)
        try:
            self.conversation.move(new, new.sampling_params(**self._fields))
        except BaseException:
            new.close()
            raise
        old.close()

    def _show(self, answering: Answering) -> None:
        before, painter, last = self.conversation.messages, Painter(wrap=self._wrap), Chunk("")
        try:
            with (
                spinner(self._doing(), self.llm.n_batch) as waiting,
                closing(answering(progress=waiting)) as chunks,
            ):
                for last in chunks:
                    if waiting and last.text:
                        waiting.stop()
                    painter.write(last)
            painter.end()
        except KeyboardInterrupt:
            painter.stop()
            forgotten = self.conversation.messages is before
            note("")
            if forgotten:
                note("(stopped before the answer: nothing has changed)")
            raise
        if last.stats is not None:
            self.stats = last.stats
            self._note(last.stats, is_cut=last.finish_reason == "length")
        if limit := note_limit(last, self._fields):
            note(f"({limit})")

    def _doing(self) -> Callable[[], str]:
        """What the first moments of an answer are spent on."""
        compiled = self.llm.compile_seconds

        def doing() -> str:
            return "thinking" if self.llm.compile_seconds == compiled else "compiling kernels"

        return doing

    def _note(self, stats: Stats, *, is_cut: bool) -> None:
        if self.rates:
            rate = f", {stats.generate_rate:.1f} tok/s" if stats.generate_rate else ""
            note(f"[ {stats.n_generated} tokens{rate} ]")
        n_ctx = self.llm.n_ctx
        if is_cut and stats.n_prompt + stats.n_generated > n_ctx:
            note(f"(the context of {n_ctx} tokens is full: give a larger one (-c), or /reset)")
