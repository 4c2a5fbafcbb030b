"""The loop: who shares passes with whom, in which order, and what happens out of turn."""

from __future__ import annotations

import itertools
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest.mock import Mock

import pytest
from support.systems import needs_timers
from support.watched_scheduler import Watched, ids_of, interrupting, watching

from linnet.engine.running.generation import Chunk, Generation, PromptProgress
from linnet.engine.running.lead import Lead
from linnet.engine.running.policy import FEWEST, PromptPasses
from linnet.engine.running.scheduler import AHEAD, Scheduler
from linnet.engine.running.sequence import CachedSequence
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.base import MOST_FEW_ROWS
from linnet.kernels.runtime.program import Program
from linnet.kernels.runtime.team import Interrupted

SEVERAL = pytest.mark.parametrize("name", ["llama", "gemma3", "qwen35", "lfm2"])


@pytest.fixture
def watched_of(best_library: Library) -> Iterator[Callable[..., Watched]]:
    with watching(best_library) as make:
        yield make


# ---- the same bits -------------------------------------------------------------------------------


@SEVERAL
@pytest.mark.parametrize("n_slots", [1, 3, 12])
def test_requests_get_what_they_get_alone(
    watched_of: Callable[..., Watched], name: str, n_slots: int
) -> None:
    """With fewer slots than requests, and more than a pass has rows; prefixes are shared."""
    watched = watched_of(name, n_slots=n_slots)
    common = ids_of(30, seed=99)
    prompts = [[*common[: 7 * (i % 5)], *ids_of(3 + 5 * i, seed=i)] for i in range(14)]
    requests = [lambda ids=ids: watched.request(ids) for ids in prompts]
    expected = watched.alone(requests)
    assert watched.tokens(*(request() for request in requests)) == expected
    most = max(sum(n) for few, n in watched.passes if few)
    assert min(n_slots, 2) <= most <= MOST_FEW_ROWS


@SEVERAL
def test_a_request_that_lost_its_slot_goes_on_to_the_same_tokens(
    watched_of: Callable[..., Watched], name: str
) -> None:
    watched = watched_of(name, n_slots=2)
    scheduler = watched.scheduler
    prompts = [ids_of(20 + i, seed=i) for i in range(4)]
    requests = [lambda ids=ids: watched.request(ids, 40) for ids in prompts]
    expected = watched.alone(requests)
    streams = [scheduler.events([request()]) for request in requests]
    found: list[list[int | None]] = [[] for _ in streams]

    def read(i: int, n: int) -> None:
        for _, event in streams[i]:
            if isinstance(event, Chunk):
                found[i].append(event.token_id)
                n -= 1
            if not n:
                return

    rng = random.Random(0)
    while left := [i for i in range(4) if len(found[i]) < 41]:
        read(rng.choice(left), rng.randrange(1, 12))
    assert found == expected
    assert any(few and max(n) > 1 for few, n in watched.passes)  # tokens that were known already


@pytest.mark.parametrize("name", ["llama", "qwen35"])
def test_logits_that_were_lost_are_made_again(
    watched_of: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Ctrl-C may come when a pass is over, and before its tokens are drawn."""
    watched = watched_of(name)
    session, prompts = watched.scheduler.session, [ids_of(9 + i, i) for i in range(3)]
    expected = watched.alone([lambda ids=ids: watched.request(ids) for ids in prompts])

    def steps(generations: Sequence[Generation]) -> None:
        while not all(generation.over for generation in generations):
            watched.scheduler.step()
            for generation in generations:  # or they would rest
                generation.events.clear()

    interrupt = interrupting(session, monkeypatch)
    for n in range(1, 10, 2):
        interrupt(n)
        generations = [watched.request(ids) for ids in prompts]
        watched.scheduler.submit(generations)
        with pytest.raises(KeyboardInterrupt):
            steps(generations)
        steps(generations)
        ids = [g.ids[len(ids) :] for g, ids in zip(generations, prompts, strict=True)]
        assert [[*tokens, None] for tokens in ids] == expected


# ---- prompts and decoding ------------------------------------------------------------------------


def test_prompts_are_cut_while_somebody_decodes(
    watched_of: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into passes that are bounded, each followed by as much time of decoding."""
    watched = watched_of()

    def ran(passes: PromptPasses, _: int, seconds: float, n_prompts: int, n_decoding: int) -> None:
        passes._owed = 2.5 if n_decoding else 0

    monkeypatch.setattr(PromptPasses, "ran", ran)
    monkeypatch.setattr(
        PromptPasses, "decoded", lambda self, _: setattr(self, "_owed", self._owed - 1)
    )
    stream = watched.scheduler.events([watched.request(ids_of(9), 100)])
    while not isinstance(next(stream)[1], Chunk):
        pass
    watched.passes.clear()
    late = watched.request(ids_of(40, 1), 2)
    assert [len(tokens) for tokens in watched.tokens(late)] == [3]
    # Both decode, once the prompt is done and its time is paid back.
    prompt = [(False, [FEWEST])]
    assert watched.passes == [*prompt, *[(True, [1])] * 3] * 4 + [*prompt, (True, [1, 1])]
    watched.passes.clear()
    stream.close()  # type: ignore[attr-defined]
    watched.tokens(watched.request(ids_of(70, 2), 1))
    assert watched.passes == [(False, [32]), (False, [32]), (False, [6])]  # alone


def test_short_prompts_share_a_pass(watched_of: Callable[..., Watched]) -> None:
    watched = watched_of()
    watched.tokens(*(watched.request(ids_of(n, n), 1) for n in (5, 9, 20, 4)))
    assert watched.passes == [(False, [5, 9, 14, 4]), (False, [6])]


@pytest.mark.parametrize(("name", "n_computed"), [("llama", 60 + 8 * 5), ("qwen35", 8 * 65)])
def test_a_beginning_in_common_is_computed_once(
    watched_of: Callable[..., Watched], name: str, n_computed: int
) -> None:
    """Where layers keep enough of it: a state is that of all tokens so far."""
    watched = watched_of(name)
    prompts = [[*ids_of(60), *ids_of(5, seed=i)] for i in range(1, 9)]
    expected = watched.alone([lambda ids=ids: watched.request(ids, 5) for ids in prompts])
    for slot in range(8):
        watched.scheduler.session.release(slot)
    watched.passes.clear()
    assert watched.tokens(*(watched.request(ids, 5) for ids in prompts)) == expected
    assert sum(sum(n) for few, n in watched.passes if not few) == n_computed


def test_nobody_waits_for_a_prompt_that_rests(watched_of: Callable[..., Watched]) -> None:
    watched = watched_of(n_batch=8)
    stream = watched.scheduler.events([watched.request(ids_of(150), 2)])
    next(stream)
    (request,) = watched.scheduler._requests
    request.events.extend([PromptProgress(0, 0)] * AHEAD)  # as many passes that nobody asked about
    assert watched.tokens(watched.request([*ids_of(140), 1], 3))


def test_progress_is_told_before_the_first_pass_and_after_each(
    watched_of: Callable[..., Watched],
) -> None:
    watched = watched_of(n_batch=16)
    told = []
    for _, event in watched.scheduler.events([watched.request(ids_of(40), 1)]):
        if isinstance(event, PromptProgress):
            told.append((event.n_done, len(watched.passes)))
    assert told == [(0, 0), (16, 1), (32, 2), (40, 3)]


def test_many_take_turns(watched_of: Callable[..., Watched]) -> None:
    watched = watched_of(n_slots=20)
    generations = [watched.request(ids_of(3, i), 100) for i in range(20)]
    watched.scheduler.submit(generations)

    def steps(n: int) -> list[int]:
        """How many tokens each has after so many more."""
        for _ in range(n):
            watched.scheduler.step()
            for generation in generations:
                generation.events.clear()
        return [generation.stats.n_generated for generation in generations]

    while not all(before := steps(1)):
        pass
    n = [after - n for after, n in zip(steps(50), before, strict=True)]
    assert sum(n) == 50 * MOST_FEW_ROWS
    assert max(n) - min(n) <= 1


def test_who_waits_costs_nothing_while_all_slots_are_in_use(
    watched_of: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No prefix is looked for at every token."""
    watched, n_looks = watched_of(n_slots=2), 0
    reusable = CachedSequence.reusable

    def count(sequence: CachedSequence, ids: Sequence[int]) -> int:
        nonlocal n_looks
        n_looks += 1
        return reusable(sequence, ids)

    monkeypatch.setattr(CachedSequence, "reusable", count)
    generations = [watched.request(ids_of(30, i), 50) for i in range(4)]
    watched.scheduler.submit(generations)
    while sum(generation.stats.n_generated > 9 for generation in generations) < 2:
        watched.scheduler.step()
        for generation in generations:
            generation.events.clear()
    before = n_looks
    for _ in range(20):
        watched.scheduler.step()
        for generation in generations:
            generation.events.clear()
    assert n_looks == before
    while not all(generation.over for generation in generations):
        watched.scheduler.step()
        for generation in generations:
            generation.events.clear()
    assert n_looks > before


def test_native_code_is_there_before_a_pass_needs_it(
    watched_of: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, amid, lowered = watched_of(), False, []
    lower, step = Program.lower, Scheduler.step

    def note(*arguments: Any, **options: Any) -> Any:
        lowered.append(amid)
        return lower(*arguments, **options)

    def stepping(scheduler: Scheduler, **options: Any) -> bool:
        nonlocal amid
        amid = True
        try:
            return step(scheduler, **options)
        finally:
            amid = False

    monkeypatch.setattr(Program, "lower", note)
    monkeypatch.setattr(Scheduler, "step", stepping)
    stream = watched.scheduler.events([watched.request(ids_of(9), 100)])
    next(stream)
    assert lowered == [False] * 2
    watched.tokens(*(watched.request(ids_of(3, i), 9) for i in range(12)))
    assert lowered == [False] * 2 * MOST_FEW_ROWS


def test_what_could_never_fit_is_refused_when_it_comes(watched_of: Callable[..., Watched]) -> None:
    watched = watched_of(kv_tokens=100)
    prompt = ids_of(60)
    message = r"prompt and max_tokens come to 101 tokens; kv_tokens has room for 100"
    with pytest.raises(ValueError, match=message):
        watched.tokens(watched.request(ids_of(9)), watched.request(prompt, 42))
    assert not watched.scheduler.step()
    assert len(watched.tokens(watched.request(prompt, 41))[0]) == 42


# ---- out of turn ---------------------------------------------------------------------------------


def test_who_leaves_costs_nothing_and_nobody_waits_for_who_does_not_read(
    watched_of: Callable[..., Watched],
) -> None:
    watched = watched_of(n_slots=3)
    read, unread = (watched.request(ids_of(5, i), 100) for i in (1, 2))
    streams = [watched.scheduler.events([each]) for each in (read, unread)]
    for stream in streams:
        next(stream)
    (tokens,) = watched.tokens(watched.request(ids_of(9), 60))
    assert len(tokens) == 61
    assert len(unread.events) == AHEAD
    streams[0].close()  # type: ignore[attr-defined]
    n = unread.stats.n_generated
    watched.passes.clear()
    watched.tokens(watched.request(ids_of(9), 60))
    assert all(parts == [1] for few, parts in watched.passes if few)
    assert unread.stats.n_generated == n
    for _ in range(AHEAD + 1):
        next(streams[1])
    assert unread.stats.n_generated > n


def test_a_stop_ends_all_that_were_submitted_and_no_other(
    watched_of: Callable[..., Watched],
) -> None:
    watched = watched_of(n_slots=2)
    generations = [watched.request(ids_of(5, i), 50) for i in range(4)]
    stream = watched.scheduler.events(generations)
    for _ in range(9):
        next(stream)
    late = watched.scheduler.events([watched.request(ids_of(9), 9)])
    watched.scheduler.stop()
    errors = [(index, event) for index, event in stream if isinstance(event, Exception)]
    assert sorted(index for index, _ in errors) == [0, 1, 2, 3]
    assert all(isinstance(error, Interrupted) for _, error in errors)
    assert sum(isinstance(event, Chunk) for _, event in late) == 10


def test_a_pass_that_nobody_wants_any_more_ends(
    watched_of: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watched_of()
    scheduler, team = watched.scheduler, watched.scheduler.session.runner.team
    run, stop, stopped = team.run, team.stop, threading.Event()

    def endless(program: Any) -> None:
        """A pass that somebody has to stop."""
        assert stopped.wait(60)
        run(program)

    def note() -> None:
        stop()
        stopped.set()

    generations = [watched.request(ids_of(9, i), 9) for i in range(2)]
    errors: list[Exception] = []

    def read() -> None:
        errors.extend(e for _, e in scheduler.events(generations) if isinstance(e, Exception))

    with monkeypatch.context() as patch:
        patch.setattr(team, "run", endless)
        patch.setattr(team, "stop", note)
        reader = threading.Thread(target=read)
        reader.start()
        while not scheduler._in_pass:
            pass
        scheduler.cancel(generations[0])
        assert not stopped.is_set()
        scheduler.cancel(generations[1])
        reader.join(60)
        assert not reader.is_alive()
    assert [type(error) for error in errors] == [Interrupted] * 2
    assert len(watched.tokens(watched.request(ids_of(9), 5))[0]) == 6


@pytest.mark.usefixtures("signals_anywhere")
@needs_timers
def test_ctrl_c_at_any_moment_leaves_other_threads_as_they_are(
    watched_of: Callable[..., Watched],
) -> None:
    watched = watched_of()
    ours, theirs = (lambda i=i: watched.request(ids_of(20, i), 30) for i in (1, 2))
    expected = watched.alone([ours, theirs])
    rng, n_interrupted, armed, over = random.Random(0), 0, False, threading.Event()
    wrong: list[Any] = []

    def interrupt(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    def work() -> None:
        while not over.is_set():
            try:
                (found,) = watched.tokens(theirs())
            except Interrupted:  # Ctrl-C came while its token was drawn
                continue
            wrong.extend([found] if found != expected[1] else [])

    other = threading.Thread(target=work)
    before = signal.signal(signal.SIGALRM, interrupt)
    other.start()
    for _ in range(60):
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 1e-2))
            while armed:
                watched.tokens(ours())
        except KeyboardInterrupt:
            n_interrupted += 1
        assert watched.tokens(ours()) == expected[:1]
    over.set()
    other.join(60)
    signal.signal(signal.SIGALRM, before)
    assert not other.is_alive()
    assert (n_interrupted, wrong) == (60, [])
    assert not watched.scheduler._lead.callers


def test_an_error_in_a_pass_reaches_who_led_it_and_others_go_on(
    watched_of: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watched_of()
    request = lambda: watched.request(ids_of(9), 30)  # noqa: E731
    expected = watched.alone([request])
    stream = watched.scheduler.events([request()])
    begun = [event for _, event in itertools.islice(stream, 9)]
    with monkeypatch.context() as patch:
        patch.setattr(watched.scheduler.session.runner, "run", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            watched.tokens(watched.request(ids_of(4), 5))
    events = [*begun, *(event for _, event in stream)]
    assert [[event.token_id for event in events if isinstance(event, Chunk)]] == expected
    assert watched.tokens(request()) == expected


def test_ctrl_c_as_a_step_ends_leaves_nobody_behind(
    watched_of: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python may raise it on entering any function, those that tidy up among them."""
    watched = watched_of()
    with monkeypatch.context() as patched:
        patched.setattr(Lead, "wake", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            watched.tokens(watched.request(ids_of(9), 2))
    assert watched.tokens(watched.request(ids_of(9), 2))
