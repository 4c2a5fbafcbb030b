"""Schedulers of small models that can be looked at while they work."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from linnet import SamplingParams
from linnet.engine.running.drafts import Drafts
from linnet.engine.running.generation import Chunk, Generation
from linnet.engine.running.runner import Runner
from linnet.engine.running.scheduler import Scheduler
from linnet.engine.running.session import Session
from linnet.kernels.compiler.jit import Library
from linnet.models import load_model
from support.model_runner import INT8
from support.tiny_architectures import N_VOCAB, TINY

N_CTX = 160


class NoText:
    """A tokenizer of tokens that have no text and do not end."""

    eog_ids: frozenset[int] = frozenset()

    def detokenizer(self, **_: object) -> NoText:
        return self

    def push(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def ids_of(n: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(N_VOCAB), k=n)


@dataclass(slots=True)
class Watched:
    """A scheduler of a small model, and the passes that it has made."""

    scheduler: Scheduler
    passes: list[tuple[bool, list[int]]] = field(default_factory=list)  # few; tokens of each part

    def request(self, ids: Sequence[int], n: int = 12, **how: Any) -> Generation:
        params = SamplingParams(**({"temperature": 1.0, "seed": len(ids), "max_tokens": n} | how))
        return Generation(ids, params, NoText(), n_ctx=N_CTX, n_vocab=N_VOCAB)  # type: ignore[arg-type]

    def tokens(self, *generations: Generation) -> list[list[int | None]]:
        found: list[list[int | None]] = [[] for _ in generations]
        for index, event in self.scheduler.events(generations):
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Chunk):
                found[index].append(event.token_id)
        return found

    def alone(self, requests: Sequence[Callable[[], Generation]]) -> list[list[int | None]]:
        """Each by itself, in a session that has seen nothing."""
        found = []
        for request in requests:
            for slot in range(self.scheduler.session.n_slots):
                self.scheduler.session.release(slot)
            found += self.tokens(request())
        return found


@contextmanager
def watching(library: Library) -> Iterator[Callable[..., Watched]]:
    """Gives a function that makes them."""
    made: list[Session] = []

    def make(
        name: str = "llama", *, n_slots: int = 8, n_batch: int = 32, drafts: Drafts | None = None,
        **options: Any,
    ) -> Watched:  # fmt: skip
        model = load_model(TINY[name].metadata(), TINY[name].tensors())
        sizes = {"n_slots": n_slots, "n_batch": n_batch, "kv_tokens": n_slots * N_CTX} | options
        made.append(
            Session(Runner(model, library, n_threads=1, n_ctx=N_CTX, numerics=INT8, **sizes))
        )
        watched = Watched(Scheduler(made[-1], n_parallel=n_slots, drafts=drafts))
        run = made[-1].run

        def note(parts: Any, *, few: bool, **how: Any) -> Any:
            watched.passes.append((few, [len(part.ids) for part in parts]))
            return run(parts, few=few, **how)

        made[-1].run = note  # type: ignore[method-assign]
        return watched

    try:
        yield make
    finally:
        for session in made:
            session.close()


def interrupting(session: Session, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A function that has the nth pass from then on raise KeyboardInterrupt as soon as it is
    over."""
    run, n_left = session.run, 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal n_left
        n_left -= 1
        rows = run(*arguments, **options)
        if not n_left:
            raise KeyboardInterrupt
        return rows

    def interrupt(n: int) -> None:
        nonlocal n_left
        n_left = n

    monkeypatch.setattr(session, "run", interrupted)
    return interrupt
