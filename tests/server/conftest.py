"""The server that most tests ask, opened once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.scripted import Say, asked, scripted
from support.serving import Running, serving


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    with serving() as running:
        yield running


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Say:
    """See `scripted`; the tokenizer is `server.llm.tokenizer`."""
    return scripted(monkeypatch)


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The ids of each prompt that the server is asked, from now on."""
    return asked(monkeypatch)
