"""A conversation with a model: what was said so far, and what is answered next."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from linnet.engine.chat.formats.parts import joined
from linnet.engine.chat.template import Message
from linnet.engine.llm import LLM
from linnet.engine.running.generation import Chunk
from linnet.engine.running.session import Progress
from linnet.engine.sampling.params import SamplingParams


class Conversation:
    """Messages by turns of user and model, after a system prompt if there is one."""

    def __init__(
        self, llm: LLM, params: SamplingParams, *, system: str | None = None,
        variables: Mapping[str, Any] | None = None, reasoning_budget: int | None = None,
    ) -> None:  # fmt: skip
        """`variables`: what the chat template takes beside messages. `reasoning_budget`: tokens.
        Raises TemplateError where there is no template, or none that takes a system prompt if
        there is one."""
        self.llm, self.params = llm, params
        self._variables, self._budget = variables or {}, reasoning_budget
        self.messages: list[dict[str, Any]] = []
        self.begin(system)

    def begin(self, system: str | None) -> None:
        """Forget everything and go by this system prompt. Raises TemplateError, with nothing
        forgotten, where the template takes none."""
        messages = [] if system is None else [{"role": "system", "content": system}]
        self.llm.chat_template.render([*messages, _question("Hello")], **self._variables)
        self.messages = messages

    @property
    def system(self) -> str | None:
        """The system prompt."""
        first = self.messages[:1]
        is_given = bool(first) and first[0]["role"] == "system"
        return str(first[0]["content"]) if is_given else None

    def asked(self, text: str) -> list[dict[str, Any]]:
        """The messages with one more, of the user."""
        return [*self.messages, _question(text)]

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """The prompt that is made of such messages."""
        return self.llm.chat_template.encode(messages, **self._variables)

    def ask(self, text: str, *, progress: Progress | None = None) -> Generator[Chunk, None, None]:
        """The answer, chunk by chunk: see `LLM.stream_chat`.

        However the iterator ends, question and answer are remembered as far as it came. If not a
        character came before it was stopped, the question is not, either. Close it in any case.
        """
        asked, chunks = self.asked(text), list[Chunk]()
        try:
            for chunk in self.llm.stream_chat(
                asked, self.params, progress=progress, reasoning_budget=self._budget,
                chat_template_kwargs=self._variables,
            ):  # fmt: skip
                chunks.append(chunk)
                yield chunk
        finally:
            if any(chunk.text or chunk.finish_reason is not None for chunk in chunks):
                parts = joined(chunk.part for chunk in chunks if chunk.part is not None)
                self.messages = [*asked, parts.message]

    def save(self, path: Path) -> None:
        """Write the messages as JSON. Raises OSError, also where there is such a file already."""
        text = json.dumps(self.messages, indent=2, ensure_ascii=False) + "\n"
        data = text.encode(errors="backslashreplace")
        with path.open("xb") as file:
            try:
                file.write(data)
                file.flush()
            except BaseException:  # Ctrl-C included
                path.unlink()
                raise


def _question(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}
