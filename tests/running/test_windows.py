"""Layers with a window keep what they can still see: the same bits in a fraction of the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.kernel_harness import Array, nmse
from support.model_runner import BOTH, INT8, Runner
from support.tiny_architectures import N_VOCAB, TINY

from linnet.engine.running.runner import Runner as _Runner
from linnet.engine.running.sequence import CachedSequence
from linnet.engine.running.session import Session
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.attention import NO_WINDOW
from linnet.kernels.ops.query_rows import RUN
from linnet.kernels.runtime.program import Persistent, Program
from linnet.kernels.runtime.team import Interrupted
from linnet.models import Model, load_model
from linnet.models.parts.cache import STATE, Ring
from linnet.models.parts.graph import Graph
from linnet.models.parts.numerics import Numerics

N_CTX, WINDOW, CAPACITY = 300, 7, 64  # of passes of 16 tokens: the rings come around four times
TIGHT = CAPACITY - WINDOW  # tokens in a pass after which nothing is left that nobody sees
TOKENS = [int(token) for token in np.random.default_rng(5).integers(0, N_VOCAB, N_CTX)]


def model_of(name: str) -> Model:
    return load_model(TINY[name].metadata(), TINY[name].tensors())


def graph_of(name: str, *, n_ctx: int = N_CTX, numerics: Numerics = INT8) -> Graph:
    """Recorded for passes of 16 tokens; without memory."""
    graph = Graph(Program(16, 1), n_ctx=n_ctx, numerics=numerics)
    model_of(name).record(graph)
    return graph


def rings_of(name: str) -> set[Ring]:
    return graph_of(name).rings


WINDOWED = [name for name in TINY if any(r.window == WINDOW for r in rings_of(name))]


def test_the_architectures_with_windows() -> None:
    """Those with other layers, too, keep whole contexts for these."""
    names = {"cohere2", "exaone4", "gemma2", "gemma3", "gemma4", "gpt-oss", "olmo2"}
    assert {TINY[name].name for name in WINDOWED} == names
    for name in WINDOWED:
        assert rings_of(name) == {Ring(CAPACITY, WINDOW), Ring(N_CTX, NO_WINDOW)}


# ---- how much is kept ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "n_batch", "capacity"),
    [(7, 16, 64), (7, 57, 64), (7, 58, 128), (1024, 512, 1536), (1000, 512, 1536),
     (4096, 512, 4608), (7680, 512, 8192), (7681, 512, 8192), (20000, 512, 8192), (1, 1, 64)],
)  # fmt: skip
def test_a_ring_has_room_for_what_a_pass_sees_and_the_pass(
    window: int, n_batch: int, capacity: int
) -> None:
    assert Ring.of(window, n_ctx=8192, n_batch=n_batch) == Ring(capacity, window)
    assert capacity % RUN == 0
    assert Ring.of(None, n_ctx=100, n_batch=n_batch) == Ring(100, NO_WINDOW)


@BOTH
@pytest.mark.parametrize("name", TINY)
def test_what_is_computed_beforehand_is_what_is_allocated(name: str, numerics: Numerics) -> None:
    """Also with rings, states, layers without keys of their own and wider heads in some layers."""
    graph = graph_of(name, numerics=numerics)
    kept = {
        array
        for step in graph.program.steps
        for argument, array in step.arguments.items()
        if argument in ("keys", "values", "state") and isinstance(array, Persistent)
    }
    assert all(array.array is None for array in kept)
    n_bytes = 3 * graph.slot_bytes
    graph.allocate(3)
    assert n_bytes == sum(array.data.nbytes for array in kept)


def test_memory_is_that_of_windows() -> None:
    """Six of gemma3's seven layers keep 64 positions instead of 4800."""
    position = 2 * 2 * 16 * 2  # keys and values of two heads of 16 halves
    graph = graph_of("gemma3", n_ctx=4800)
    assert graph.slot_bytes == (6 * 64 + 4800) * position
    for n, n_positions in ((1, 7), (64, 7 * 64), (65, 6 * 64 + 65), (4800, 6 * 64 + 4800)):
        assert graph.sequence_bytes(n) == n_positions * position


# ---- the same bits -------------------------------------------------------------------------------


def in_parts(run: Callable[..., Array], n_batch: int) -> Array:
    parts = [range(i, min(i + n_batch, N_CTX)) for i in range(0, N_CTX, n_batch)]
    return np.concatenate([run(TOKENS[part.start : part.stop], part) for part in parts])


@BOTH
@pytest.mark.parametrize("name", WINDOWED)
def test_rings_give_the_bits_of_whole_contexts(
    runner: Callable[..., Runner], name: str, numerics: Numerics
) -> None:
    """With passes of few tokens, of as many as leave no room, of one, and on one thread."""
    model = model_of(name)
    whole = runner(model, numerics=numerics, n_ctx=N_CTX, n_batch=N_CTX)
    expected, one_by_one = whole.run(TOKENS), whole.one_by_one(TOKENS)
    for n_batch, n_threads in ((16, 2), (TIGHT, 2), (13, 1)):
        ring = runner(model, numerics=numerics, n_ctx=N_CTX, n_batch=n_batch, n_threads=n_threads)
        assert in_parts(ring.run, n_batch).tobytes() == expected.tobytes()
        assert ring.one_by_one(TOKENS).tobytes() == one_by_one.tobytes()


@pytest.mark.parametrize("name", WINDOWED)
def test_rings_natively_and_in_numpy(runner: Callable[..., Runner], name: str) -> None:
    run = runner(model_of(name), n_ctx=N_CTX, n_batch=TIGHT)
    assert nmse(in_parts(run.run, TIGHT), in_parts(run.reference, TIGHT)) <= 1e-9


@pytest.mark.parametrize("name", WINDOWED)
def test_less_room_would_not_do(
    runner: Callable[..., Runner], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail: a pass then writes over what it sees."""
    model = model_of(name)
    expected = runner(model, n_ctx=N_CTX, n_batch=N_CTX).run(TOKENS)
    of = Ring.of
    n_batch = 2 * CAPACITY - WINDOW - 1
    assert of(WINDOW, n_ctx=N_CTX, n_batch=n_batch).capacity == 2 * CAPACITY
    monkeypatch.setattr(
        Ring, "of", lambda window, **sizes: Ring(CAPACITY, WINDOW) if window else of(None, **sizes)
    )
    run = runner(model, n_ctx=N_CTX, n_batch=n_batch)
    assert nmse(in_parts(run.run, n_batch), expected) > 1e-3


def test_sequences_come_around_at_different_times(runner: Callable[..., Runner]) -> None:
    model = model_of("gemma3")
    prompts = {slot: TOKENS[slot : slot + 150 + 37 * slot] for slot in range(3)}
    more = TOKENS[-50:]
    run = runner(model, numerics=INT8, n_ctx=N_CTX, n_batch=16, n_slots=3)
    alone = runner(model, numerics=INT8, n_ctx=N_CTX, n_batch=N_CTX)
    for slot, prompt in prompts.items():
        for i in range(0, len(prompt), 16):
            part = prompt[i : i + 16]
            run.run(part, range(i, i + len(part)), [slot] * len(part))
    ends = [len(prompt) for prompt in prompts.values()]
    rows = [
        run.run([token] * 3, [end + i for end in ends], [0, 1, 2], few_rows=True)
        for i, token in enumerate(more)
    ]
    for slot, prompt in prompts.items():
        alone.run(prompt)
        expected = alone.one_by_one(more, start=len(prompt))
        assert np.stack([row[slot] for row in rows]).tobytes() == expected.tobytes()


# ---- going back ----------------------------------------------------------------------------------


@pytest.fixture(params=WINDOWED)
def make(request: pytest.FixtureRequest, best_library: Library) -> Iterator[Callable[..., Session]]:
    """Opens sessions of a model with windows."""
    model, sessions = model_of(request.param), []

    def open_session(n_batch: int = 16, **options: Any) -> Session:
        sessions.append(
            Session(
                _Runner(model, best_library, n_threads=2, n_ctx=N_CTX, n_batch=n_batch, **options)
            )
        )
        return sessions[-1]

    yield open_session
    for session in sessions:
        session.close()


def continued(session: Session, ids: Sequence[int]) -> list[bytes]:
    """The bits of the logits of a prompt, and of tokens after it."""
    rows = [session.prompt(ids).tobytes()]
    return rows + [session.extend(token).tobytes() for token in TOKENS[:5]]


FARTHEST = 250 - (CAPACITY - WINDOW + 1)  # that 250 tokens leave room to go back to


@pytest.mark.parametrize("n_kept", [1, FARTHEST - 1, FARTHEST, 249])
def test_a_prompt_reuses_what_the_rings_still_hold(
    make: Callable[..., Session], n_kept: int
) -> None:
    session, progress = make(), []
    session.prompt(TOKENS[:250])
    ids = [*TOKENS[:n_kept], *TOKENS[290:], *TOKENS[:20]]
    session.prompt(ids, progress=lambda done, of: progress.append(done))
    assert progress[0] == (n_kept if n_kept >= FARTHEST else 0)
    assert session.ids == ids
    fresh = make(N_CTX)
    assert continued(session, ids) == continued(fresh, ids)
    assert continued(session, TOKENS[:250]) == continued(fresh, TOKENS[:250])


def test_short_sequences_go_back_anywhere(make: Callable[..., Session]) -> None:
    """As long as nothing has come around."""
    session, progress = make(), []
    session.prompt(TOKENS[:CAPACITY])
    session.prompt([TOKENS[0], 1, 2], progress=lambda done, of: progress.append(done))
    assert progress[0] == 1
    assert continued(session, TOKENS[:40]) == continued(make(N_CTX), TOKENS[:40])


def test_a_prompt_after_many_generated_tokens(make: Callable[..., Session]) -> None:
    """First of as many as the rings let it forget, then of one more."""
    for n_generated, n_reused in ((CAPACITY - WINDOW + 1, 100), (CAPACITY - WINDOW + 2, 0)):
        session, progress = make(), []
        session.prompt(TOKENS[:100])
        for token in TOKENS[100 : 100 + n_generated]:
            session.extend(token)
        session.prompt(TOKENS[:200], progress=lambda done, of: progress.append(done))  # noqa: B023
        assert progress[0] == n_reused
        assert continued(session, TOKENS[:200]) == continued(make(N_CTX), TOKENS[:200])


@pytest.mark.parametrize("n_batch", [16, TIGHT])
@pytest.mark.parametrize("call", ["prompt", "extend"])
def test_a_stopped_pass_leaves_the_state_before_it(
    make: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, call: str, n_batch: int
) -> None:
    """Even where all of it has been written, at any place of the rings, and several times."""
    session, expected = make(n_batch), make(N_CTX).prompt(TOKENS).tobytes()
    run = session.runner.team.run

    def interrupted(*arguments: Any) -> None:
        run(*arguments)
        raise Interrupted

    done = 0
    for n_more in (n_batch, 5, 60, 100, 64, 0):
        session.prompt(TOKENS[: done + n_more] if n_more else TOKENS[: done + 1])
        done = len(session.ids)
        with monkeypatch.context() as patch:
            patch.setattr(session.runner.team, "run", interrupted)
            for _ in range(2):
                wrong = [(token + 1) % N_VOCAB for token in TOKENS[done : done + n_batch]]
                with pytest.raises(Interrupted):
                    session.prompt(TOKENS[:done] + wrong) if call == "prompt" else session.extend(1)
                assert session.ids == TOKENS[:done]
    told: list[int] = []
    logits = session.prompt(TOKENS, progress=lambda n_done, of: told.append(n_done))
    assert told[0] == done
    assert logits.tobytes() == expected


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(0, 3),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9), st.booleans())),
)  # fmt: skip
def test_a_sequence_knows_what_its_rings_hold(
    window: int, n_batch: int, spare: int, steps: list[tuple[int, int, bool]]
) -> None:
    """Held against a ring that notes whose position lies where, through going back and stops."""
    ring = Ring(window + n_batch - 1 + spare, window)
    sequence, places, n_tokens = CachedSequence({ring}), [-1] * ring.capacity, 0
    for back, n, stopped in steps:
        end = max(0, len(sequence.ids) - back)
        for p in range(len(sequence.ids) + 1):
            seen = range(max(0, p + 1 - window), p)
            there = all(places[q % ring.capacity] == sequence.ids[q] for q in seen)
            assert there or not sequence.can_go_on_at(p)
            assert not there or sequence.can_go_on_at(p) or not seen
        assert sequence.can_go_on_at(len(sequence.ids))
        sequence.truncate(end if sequence.can_go_on_at(end) else 0)
        ids = list(range(n_tokens, n_tokens + min(n, n_batch)))
        n_tokens += len(ids)
        sequence.begin(len(ids))
        for i, token in enumerate(ids, len(sequence.ids)):
            places[i % ring.capacity] = token
        if stopped:
            sequence.interrupted()
        else:
            sequence.ids += ids


def test_a_state_goes_on_where_it_is_and_nowhere_else() -> None:
    assert [STATE.holds(n, 5) for n in (0, 4, 5)] == [False, False, True]
    assert Ring(100, NO_WINDOW).holds(1, 100)
