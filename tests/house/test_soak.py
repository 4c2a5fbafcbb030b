"""`scripts/soak.py` and `soak_serve.py`: that they do each thing, and notice what they look for."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import soak
import soak_serve
from support.tiny_llama import TinyLlama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[soak.Model]:
    path = TinyLlama(type="Q4_K", n_ctx=512).write(tmp_path_factory.mktemp("soak") / "tiny.gguf")
    model = soak.Model(path, 512)
    yield model
    model.llm.close()


@pytest.mark.parametrize("action", soak.ACTIONS, ids=lambda action: action.__name__)
def test_each_thing_is_done(model: soak.Model, action: Callable[..., None]) -> None:
    for seed in range(3):
        action(model, random.Random(seed))


@pytest.mark.parametrize("action", [soak.generate, soak.session, soak.vectors])
def test_another_answer_than_at_first_is_noticed(
    model: soak.Model, action: Callable[..., None]
) -> None:
    action(model, random.Random(7))
    for request in model.answers:
        model.answers[request] = "another"
    with pytest.raises(SystemExit, match="gave another answer than at first"):
        action(model, random.Random(7))
    model.answers.clear()


def test_requests_that_are_not_refused_are_noticed(
    model: soak.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.llm, "generate", lambda _: None)
    with pytest.raises(SystemExit, match="was not refused"):
        soak.refuse(model, random.Random(0))


@pytest.mark.parametrize(
    ("name", "last", "leaks"),
    [
        ("private", 54 << 20, []),
        ("private", 55 << 20, ["private"]),
        ("descriptors", 7, []),
        ("descriptors", 8, ["descriptors"]),
        ("threads", 4, ["threads"]),
    ],
)
def test_what_grows_is_noticed(name: str, last: int, leaks: list[str]) -> None:
    first: dict[str, Any] = {"private": 50 << 20, "descriptors": 7, "threads": 3}
    samples = [first] * 30 + [first | {name: last}] * 10
    assert list(soak.grown(samples)) == leaks


def test_clients_ask_in_every_way_and_notice_another_answer() -> None:
    with soak_serve.serving(None) as (_, port):
        clients, rng = soak_serve.Clients(port, 2), random.Random(0)
        for kind in (clients.whole, clients.stream, clients.leave, clients.mistake):
            kind(1, rng)
        clients._first[1] = {0: "another"}
        for kind in (clients.whole, clients.stream):
            with pytest.raises(RuntimeError, match="another answer"):
                kind(1, rng)
