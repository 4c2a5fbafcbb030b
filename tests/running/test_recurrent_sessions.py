"""Sessions of models with a state: what is reused of it, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from support.tiny_architectures import N_CTX, N_VOCAB, TINY

from linnet.engine.running.runner import Runner
from linnet.engine.running.session import Session
from linnet.kernels.compiler.jit import Library
from linnet.models import load_model

TOKENS = [int(token) for token in np.random.default_rng(3).integers(0, N_VOCAB, 40)]


@pytest.fixture(params=["lfm2", "qwen35"])
def make(request: pytest.FixtureRequest, best_library: Library) -> Iterator[Any]:
    """Opens sessions of a model with a state."""
    model = load_model(TINY[request.param].metadata(), TINY[request.param].tensors())
    sessions: list[Session] = []

    def open_session() -> Session:
        sessions.append(Session(Runner(model, best_library, n_threads=2, n_ctx=N_CTX, n_batch=16)))
        return sessions[-1]

    yield open_session
    for session in sessions:
        session.close()


def test_a_prompt_goes_on_where_all_of_the_last_one_ended(make: Any) -> None:
    session, progress = make(), []
    session.prompt(TOKENS[:25])
    logits = session.prompt(TOKENS, progress=lambda done, of: progress.append(done)).tobytes()
    assert progress[0] == 25
    assert logits == make().prompt(TOKENS).tobytes()


@pytest.mark.parametrize("n_kept", [0, 10, 25, 39, 40])
def test_a_prompt_that_leaves_the_last_one_begins_anew(make: Any, n_kept: int) -> None:
    """Also where it is the last one, or a part of it."""
    session = make()
    session.prompt(TOKENS)
    ids = TOKENS[:n_kept] + ([1, 2, 3] if n_kept < 39 else [])
    assert session.prompt(ids).tobytes() == make().prompt(ids).tobytes()


def test_the_same_prompt_gives_the_same_after_tokens_were_generated(make: Any) -> None:
    session = make()
    first = session.prompt(TOKENS[:20]).tobytes()
    for token in TOKENS[20:30]:
        session.extend(token)
    assert session.prompt(TOKENS[:20]).tobytes() == first
    for token in TOKENS[20:30]:
        session.extend(token)
    assert session.prompt(TOKENS).tobytes() == make().prompt(TOKENS).tobytes()


@pytest.mark.parametrize("call", ["prompt", "extend"])
def test_a_state_that_stopped_midway_is_forgotten(
    make: Any, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make()
    session.prompt(TOKENS[:20])
    run = session.runner.team.run

    def interrupted(*arguments: Any) -> None:
        run(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session.runner.team, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.prompt(TOKENS[:30]) if call == "prompt" else session.extend(TOKENS[20])
    assert session.prompt(TOKENS).tobytes() == make().prompt(TOKENS).tobytes()
