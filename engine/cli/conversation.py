"""A conversation with a model: what was said so far, and what is answered next."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from linnet.engine.chat.formats.parts import joined
from linnet.engine.chat.template import Message
from linnet.engine.cli.reading import read_text
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
        self._check(messages, self.llm)
        self.messages = messages

    def move(self, llm: LLM, params: SamplingParams) -> None:
        """Go on with another model. Raises TemplateError, with nothing changed, where its template
        does not take what was said."""
        self._check(self.messages, llm)
        self.llm, self.params = llm, params

    @property
    def system(self) -> str | None:
        """The system prompt."""
        first = self.messages[:1]
        is_given = bool(first) and first[0]["role"] == "system"
        return str(first[0]["content"]) if is_given else None

    @property
    def question(self) -> str:
        """The user's last message. Raises ValueError where there is none, or it is no text."""
        content = self.messages[self._last()]["content"]
        if not isinstance(content, str):
            raise ValueError("the last message is not text alone")
        return content

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
        return self._answer(self.asked(text), progress)

    def ask_again(
        self, text: str | None = None, *, progress: Progress | None = None
    ) -> Generator[Chunk, None, None]:
        """Another answer to the user's last message, or to `text` in its place, as `ask` has it:
        until a character comes, the old ones stay. Raises ValueError where there is no message."""
        last = self._last()
        new = self.messages[last] if text is None else _question(text)
        return self._answer([*self.messages[:last], new], progress)

    def undo(self) -> None:
        """Forget the user's last message, and what was answered. Raises ValueError where there is
        none."""
        self.messages = self.messages[: self._last()]

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

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote, in place of what there is. Raises OSError, and ValueError,
        with nothing changed, for what is no such file, or what the template does not take."""
        try:
            messages = json.loads(read_text(os.path.abspath(path)))  # "-" is a file here
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
        if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
            wanted = 'a list of messages, each with a "role" and a "content", as /save writes it'
            raise ValueError(f"{str(path)!r} is not {wanted}")
        self._check(messages, self.llm)
        self.messages = messages

    def _answer(
        self, asked: list[dict[str, Any]], progress: Progress | None
    ) -> Generator[Chunk, None, None]:
        chunks = list[Chunk]()
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

    def _last(self) -> int:
        """Where the user's last message is."""
        for index in reversed(range(len(self.messages))):
            if self.messages[index]["role"] == "user":
                return index
        raise ValueError("nothing was said yet")

    def _check(self, messages: list[dict[str, Any]], llm: LLM) -> None:
        """Raise TemplateError where the model's template does not take these and a question."""
        said = messages if messages[-1:] and messages[-1]["role"] == "user" else [
            *messages, _question("Hello")
        ]  # fmt: skip
        llm.chat_template.render(said, **self._variables)


def _question(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and "content" in value
