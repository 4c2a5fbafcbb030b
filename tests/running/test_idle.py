"""What a scheduler does while nobody waits: answers become prompts, unless somebody comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.watched_scheduler import N_CTX, Watched, ids_of, watching

from linnet.engine.running.generation import Generation
from linnet.kernels.compiler.jit import Library
from linnet.kernels.runtime.team import Interrupted

Make = Callable[..., Watched]


@pytest.fixture
def watched_of(best_library: Library) -> Iterator[Make]:
    with watching(best_library) as make:
        yield make


def answered(watched: Watched, ids: list[int], n: int = 12) -> Generation:
    """A request that has run to its end."""
    generation = watched.request(ids, n)
    watched.tokens(generation)
    assert len(generation.ids) == min(len(ids) + n, N_CTX + 1)
    return generation


def idle(watched: Watched) -> int:
    """How many steps there were to do."""
    n = 0
    with watched.scheduler.alone():
        assert not watched.scheduler.step()
        while watched.scheduler.idle_step():
            n += 1
    return n


@pytest.mark.parametrize("name", ["llama", "gemma3", "gemma4", "deepseek2", "smollm3"])
def test_the_next_turn_finds_prompt_and_answer(watched_of: Make, name: str) -> None:
    """And has the tokens, so the bits, that it has where nothing is cached."""
    watched = watched_of(name)
    talks = [answered(watched, ids_of(20 + i, i)).ids for i in range(3)]
    turns = [lambda ids=ids: watched.request([*ids, 5, 6, 7]) for ids in talks]
    assert idle(watched) == 3
    assert idle(watched) == 0
    watched.passes.clear()
    requests = [turn() for turn in turns]
    found = watched.tokens(*requests)
    assert [each.stats.n_cached for each in requests] == [len(ids) for ids in talks]
    assert sum(sum(n) for few, n in watched.passes if not few) == 9
    assert len({each.sequence.slot for each in requests if each.sequence}) == 3
    assert found == watched.alone(turns)


@pytest.mark.parametrize("name", ["lfm2", "qwen35"])
def test_a_state_cannot_go_back_and_is_left_alone(watched_of: Make, name: str) -> None:
    watched = watched_of(name)
    turn = lambda: watched.request([*ids, 5])  # noqa: E731
    ids = answered(watched, ids_of(20)).ids
    watched.passes.clear()
    assert idle(watched) == 0
    assert watched.passes == []
    assert watched.tokens(turn()) == watched.alone([turn])


def test_a_long_answer_takes_several_passes_up_to_the_end_of_the_context(watched_of: Make) -> None:
    watched = watched_of(n_batch=32)
    generation = answered(watched, ids_of(90), 200)
    watched.passes.clear()
    assert idle(watched) == 3
    assert watched.passes == [(False, [32]), (False, [32]), (False, [6])]
    assert generation.sequence
    assert generation.sequence.n_from_prompts == N_CTX == len(generation.ids) - 1


def test_a_ring_that_has_come_around_is_left_alone(watched_of: Make) -> None:
    watched = watched_of("gemma3", n_batch=8)
    assert answered(watched, ids_of(20), 120).sequence
    assert idle(watched) == 0


def test_callers_do_not_pay_for_it(watched_of: Make) -> None:
    watched = watched_of()
    answered(watched, ids_of(20))
    answered(watched, ids_of(30, 1))
    assert [n for few, n in watched.passes if not few] == [[20], [30]]


def test_nothing_is_done_while_a_request_is_there(watched_of: Make) -> None:
    """Under way, or waiting, or resting."""
    watched = watched_of()
    answered(watched, ids_of(20))
    stream = watched.scheduler.events([watched.request(ids_of(9), 100)])
    next(stream)
    assert not watched.scheduler.idle_step()
    stream.close()  # type: ignore[attr-defined]
    assert watched.scheduler.idle_step()


def test_a_pass_ends_as_a_request_comes(watched_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done again later, where the request has not taken the slot."""
    watched = watched_of()
    ids = answered(watched, ids_of(20)).ids
    team = watched.scheduler.session.runner.team
    stop, begun, stopped = team.stop, threading.Event(), threading.Event()
    late = watched.request(ids_of(9, 1), 3)

    def endless(program: Any) -> None:
        begun.set()
        assert stopped.wait(60)
        raise Interrupted

    def note() -> None:
        stop()
        stopped.set()

    def come() -> None:
        assert begun.wait(60)
        watched.scheduler.submit([late])

    other = threading.Thread(target=come)
    with monkeypatch.context() as patch:
        patch.setattr(team, "run", endless)
        patch.setattr(team, "stop", note)
        other.start()
        assert watched.scheduler.idle_step()
        other.join(60)
    assert not watched.scheduler.idle_step()
    while watched.scheduler.step():
        late.events.clear()
    assert len(late.ids) == 12
    assert idle(watched) == 2
    turn = lambda: watched.request([*ids, 5])  # noqa: E731
    request = turn()
    found = watched.tokens(request)
    assert request.stats.n_cached == len(ids)
    assert found == watched.alone([turn])


def test_a_slot_that_another_request_has_had_is_not_touched(watched_of: Make) -> None:
    watched = watched_of(n_slots=1)
    answered(watched, ids_of(20))
    cancelled = watched.scheduler.events([watched.request(ids_of(40, 1), 50)])
    for _ in range(9):
        next(cancelled)
    cancelled.close()  # type: ignore[attr-defined]
    held = watched.scheduler.session.sequences[0].ids[:]
    assert idle(watched) == 0
    assert watched.scheduler.session.sequences[0].ids == held


def test_no_other_gives_way_to_it(watched_of: Make) -> None:
    """The last token, which was not run through a pass, may have no room."""
    watched = watched_of(n_slots=2)
    session = watched.scheduler.session
    for n_more, n_steps, n_held in ((0, 0, [31, 11]), (1, 1, [31, 12]), (2, 2, [32, 12])):
        for slot in range(2):
            session.release(slot)
        session.runner.kv_bytes = session.runner.graph.sequence_bytes(31 + 11 + n_more)
        answered(watched, ids_of(20))
        answered(watched, ids_of(9, 1), 3)
        assert sorted(sequence.n_touched for sequence in session.sequences) == [11, 31]
        assert idle(watched) == n_steps
        assert sorted(sequence.n_touched for sequence in session.sequences) == sorted(n_held)


def test_an_answer_that_the_next_turn_leaves_out_keeps_no_slot(watched_of: Make) -> None:
    """As where a template cuts old reasoning: the conversation goes on in its slot."""
    watched = watched_of()
    prompt = ids_of(30)
    first = answered(watched, prompt)
    assert idle(watched) == 1
    second = watched.request([*prompt, (first.ids[30] + 1) % 96, 2, 3])
    watched.tokens(second)
    assert first.sequence is second.sequence
    assert second.stats.n_cached == 30
