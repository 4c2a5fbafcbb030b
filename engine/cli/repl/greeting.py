"""What a conversation begins with: which model, and how it is set."""

from __future__ import annotations

from linnet.engine.cli.conversation import Conversation
from linnet.engine.cli.repl.settings import summary
from linnet.engine.cli.terminal import one_line
from linnet.engine.gguf.description import description
from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.llm import LLM

MOST_CHARACTERS = 60  # of a model's name


def greeting(conversation: Conversation, *, template: str) -> str:
    """Some lines; `template`: where it comes from."""
    return (
        f"{model_line(conversation.llm)}\n"
        f"template: {one_line(template)}; {summary(conversation.params)}\n"
        "/help lists the commands"
    )


def model_line(llm: LLM) -> str:
    """Its name, architecture, parameters, type, and context."""
    given = llm.metadata.get("general.name")
    name = given if isinstance(given, str) and given.strip() else llm.path.name
    with GGUFFile(llm.path) as file:
        kind = description(file.metadata, file.tensors)
    return f"{one_line(name)[:MOST_CHARACTERS]}: {kind}, a context of {llm.n_ctx} tokens"
