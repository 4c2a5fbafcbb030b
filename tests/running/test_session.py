"""Sessions: the same bits whatever the threads and the history, and what happens out of turn."""

from __future__ import annotations

import _thread
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.kernel_harness import nmse
from support.model_runner import BOTH, F32
from support.systems import needs_fork, needs_timers
from support.tiny_llama import N_VOCAB, TinyLlama

from linnet.engine.gguf.reader import GGUFFile
from linnet.engine.running.batch import Part
from linnet.engine.running.runner import PROMPT_TOKENS, Runner
from linnet.engine.running.sequence import ContextOverflow
from linnet.engine.running.session import Session
from linnet.kernels.compiler.host import choose_isa
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.base import MOST_FEW_ROWS
from linnet.kernels.runtime.program import Persistent
from linnet.kernels.runtime.team import Interrupted, Team
from linnet.models import Model, load_model
from linnet.models.parts.numerics import Numerics

TYPES = ["F32", "F16", "Q8_0", "Q5_1", "Q4_K", "Q6_K"]
N_CTX = 96


def ids_of(n: int, seed: int = 0) -> list[int]:
    """Random tokens."""
    return random.Random(seed).choices(range(N_VOCAB), k=n)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """A small model whose matrices are of a type."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def load(type: str) -> Model:
        file = GGUFFile(TinyLlama(type=type).write(folder / f"{type}.gguf"))
        return load_model(file.metadata, file.tensors)

    return load


@dataclass(slots=True)
class Sessions:
    """Opens sessions, and closes them all at the end of a test."""

    model_of: Callable[[str], Model]
    library: Library
    opened: list[Session]

    def __call__(
        self, type: str = "Q4_K", *, threads: int = 1, n_ctx: int = N_CTX, **options: Any
    ) -> Session:
        options = {"kv_tokens": options.get("n_slots", 1) * n_ctx} | options
        session = Session(
            Runner(self.model_of(type), self.library, n_threads=threads, n_ctx=n_ctx, **options)
        )
        self.opened.append(session)
        return session


@pytest.fixture
def open_session(model_of: Callable[[str], Model], best_library: Library) -> Iterator[Sessions]:
    sessions = Sessions(model_of, best_library, [])
    yield sessions
    for session in sessions.opened:
        session.close()


def continued(session: Session, ids: Sequence[int], n: int = 4) -> list[bytes]:
    """The bits of the logits of a prompt, and of `n` tokens after it."""
    rows = [session.prompt(ids).tobytes()]
    return rows + [session.extend(token_id).tobytes() for token_id in ids_of(n, seed=1)]


# ---- the same bits -------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("type", ["F16", "Q5_1", "Q4_K"])
def test_logits_do_not_depend_on_the_number_of_threads(
    open_session: Sessions, type: str, numerics: Numerics
) -> None:
    ids, n_ctx = ids_of(PROMPT_TOKENS + 40), PROMPT_TOKENS + 80  # more than one pass
    found = [
        continued(open_session(type, threads=threads, n_ctx=n_ctx, numerics=numerics), ids)
        for threads in (1, 2, 3, 7)
    ]
    assert found[1:] == found[:1] * 3


def wander(session: Session, ids: Sequence[int], rng: random.Random) -> None:
    """Do this and that with a session, much of it with beginnings of `ids`."""
    for _ in range(rng.randrange(1, 5)):
        part = [*ids[: rng.randrange(1, len(ids) - 9)], *ids_of(rng.randrange(3), rng.randrange(9))]
        rng.choice([session.prompt, session.prompt, session.all_logits])(part)
        if rng.random() < 0.3:
            session.reset()
        for _ in range(rng.randrange(9)):  # as an answer does that then is part of a prompt
            session.extend(ids[len(session.ids)])
        if rng.random() < 0.5:
            session.extend(rng.randrange(N_VOCAB))


@BOTH
@pytest.mark.parametrize("type", ["F32", "Q4_K", "Q8_0"])
def test_what_a_session_did_before_changes_no_bit(
    open_session: Sessions, type: str, numerics: Numerics
) -> None:
    ids = ids_of(N_CTX - 10)
    used = open_session(type, numerics=numerics)
    expected = continued(open_session(type, numerics=numerics), ids)
    for seed in range(20):
        wander(used, ids, random.Random(seed))
        assert continued(used, ids) == expected, f"after history {seed}"


@pytest.mark.parametrize("n", [PROMPT_TOKENS - 1, PROMPT_TOKENS, 2 * PROMPT_TOKENS + 1])
def test_a_prompt_that_comes_in_parts_gives_the_same_bits(open_session: Sessions, n: int) -> None:
    ids, n_ctx = ids_of(n), 2 * PROMPT_TOKENS + 8
    whole, parts = (open_session(n_ctx=n_ctx) for _ in range(2))
    for end in (1, 7, 300, PROMPT_TOKENS, n):
        parts.prompt(ids[:end])
    assert continued(parts, ids) == continued(whole, ids)


def test_only_what_a_prompt_adds_is_computed(open_session: Sessions) -> None:
    session, ids = open_session(), ids_of(40)

    def n_computed() -> int:
        return int(session.runner.program.state[0])  # in the last pass

    session.prompt(ids[:30])
    assert n_computed() == 30
    session.prompt(ids)
    assert n_computed() == 10
    session.prompt(ids)
    assert n_computed() == 1  # to have logits
    session.prompt([*ids[:20], *ids_of(5, seed=2)])
    assert n_computed() == 5
    session.extend(3)
    session.prompt([*session.ids, 4])
    assert n_computed() == 2  # what was generated is a prompt's part now
    session.all_logits(ids)
    assert n_computed() == 40 - 32  # all anew, in passes of 32
    session.reset()
    session.prompt(ids)
    assert n_computed() == 40


@pytest.mark.parametrize("n_batch", [1, 7, 32, 100])
def test_the_size_of_a_pass_changes_no_bit(open_session: Sessions, n_batch: int) -> None:
    ids = ids_of(70)
    session = open_session(n_batch=n_batch)
    expected = open_session()
    assert continued(session, ids) == continued(expected, ids)
    assert session.all_logits(ids).tobytes() == expected.all_logits(ids).tobytes()


def test_tables_are_filled_as_positions_are_reached(
    open_session: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = ids_of(90)
    whole = open_session(n_batch=16)
    expected = continued(whole, ids)
    monkeypatch.setattr("linnet.models.parts.positions.POSITIONS", 7)
    session = open_session(n_batch=16)
    assert continued(session, ids) == expected
    (table,), (filled,) = (s.runner.graph._tables.values() for s in (session, whole))
    assert filled.array.data.any(axis=(1, 2)).all()
    assert table.array.data[:94].tobytes() == filled.array.data[:94].tobytes()
    open_session(n_ctx=1 << 20)  # takes no longer for all that it could hold


def test_not_a_number_is_forgotten_with_its_token(tmp_path: Path, best_library: Library) -> None:
    tiny = TinyLlama(type="Q4_K", n_layers=2)
    tensors = tiny.tensors()
    tensors["token_embd.weight"].blocks["d"][7] = np.nan  # a block a row: token 7
    file = GGUFFile(tiny.write(tmp_path / "poisoned.gguf", tensors))
    model = load_model(file.metadata, file.tensors)
    fresh, session = (Session(Runner(model, best_library, n_threads=1, n_ctx=64)) for _ in range(2))
    expected = continued(fresh, [3, 5, 9])
    for ids in ([3, 7, 9], [3] * 20 + [7] * 40, [3, 5, 9, 7], [3, 5, 9, *[7] * 29]):
        session.reset()  # so that they are all in one pass
        assert np.isnan(session.prompt(ids)).all()
        assert continued(session, [3, 5, 9]) == expected
    assert np.isnan(session.extend(7)).all()
    assert continued(session, [3, 5, 9]) == expected


# ---- several sequences ---------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("type", ["F16", "Q5_1", "Q4_K", "Q6_K"])
def test_a_sequence_does_not_depend_on_others_beside_it(
    open_session: Sessions, type: str, numerics: Numerics
) -> None:
    """Prompts of odd lengths, in any slots, extended by any of them at a time."""
    alone = open_session(type, numerics=numerics)
    together = open_session(type, threads=2, numerics=numerics, n_slots=MOST_FEW_ROWS)
    rng = random.Random(0)
    for n in range(1, MOST_FEW_ROWS + 1):
        slots = rng.sample(range(MOST_FEW_ROWS), n)
        prompts = {slot: ids_of(rng.randrange(1, 60), seed=100 * n + slot) for slot in slots}
        after = {slot: ids_of(6, seed=1000 * n + slot) for slot in slots}
        found = {slot: [together.prompt(prompts[slot], slot=slot).tobytes()] for slot in slots}
        while left := [slot for slot in slots if len(found[slot]) <= 6]:
            some = rng.sample(left, rng.randrange(1, len(left) + 1))
            rows = together.extend_each({s: [after[s][len(found[s]) - 1]] for s in some})
            assert rows.shape == (len(some), N_VOCAB)
            for slot, row in zip(some, rows, strict=True):
                found[slot].append(row.tobytes())
        for slot in slots:
            expected = [alone.prompt(prompts[slot]).tobytes()]
            expected += [alone.extend(token_id).tobytes() for token_id in after[slot]]
            assert found[slot] == expected, f"slot {slot} of {slots}"
            assert together.sequences[slot].ids == prompts[slot] + after[slot]


def test_several_tokens_are_one_pass(
    open_session: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, run, n_passes = open_session(n_slots=5), Team.run, 0

    def count(team: Team, program: Any) -> None:
        nonlocal n_passes
        n_passes += 1
        run(team, program)

    monkeypatch.setattr(Team, "run", count)
    for slot in range(5):
        session.prompt([1, 2, slot], slot=slot)
    session.extend_each({slot: [3] for slot in range(5)})
    assert n_passes == 5 + 1


def test_each_slot_reuses_its_own(open_session: Sessions) -> None:
    session, ids = open_session(n_slots=3), ids_of(40)
    session.prompt(ids, slot=2)
    for slot, n_computed in ((1, 40), (2, 1), (0, 40), (1, 1)):
        session.prompt(ids, slot=slot)
        assert session.runner.program.state[0] == n_computed
    session.reset()
    assert [sequence.ids for sequence in session.sequences] == [[]] * 3


@BOTH
@pytest.mark.parametrize("type", ["F16", "Q4_K", "Q6_K"])
def test_several_tokens_of_a_sequence_in_a_pass_are_those_one_by_one(
    open_session: Sessions, type: str, numerics: Numerics
) -> None:
    """As drafts come; those that were wrong are taken back."""
    alone, drafting = (open_session(type, numerics=numerics, n_slots=2) for _ in range(2))
    prompts, after = [ids_of(9, seed=slot) for slot in (0, 1)], ids_of(30, seed=2)
    for session in (alone, drafting):
        for slot, ids in enumerate(prompts):
            session.prompt(ids, slot=slot)
    expected = [alone.extend(token_id, slot=1).tobytes() for token_id in after]
    rng, n = random.Random(0), 0
    while n < len(after):
        right = after[n : n + rng.randrange(1, 5)]
        drafts = [*right, *ids_of(rng.randrange(3), seed=n)]
        rows = drafting.extend_each({0: [5], 1: drafts})
        assert rows.shape == (1 + len(drafts), N_VOCAB)
        found = [row.tobytes() for row in rows[1 : 1 + len(right)]]
        assert found == expected[n : n + len(right)]
        n += len(right)
        drafting.truncate(1, len(prompts[1]) + n)
        drafting.truncate(0, len(prompts[0]))
    assert drafting.sequences[1].ids == prompts[1] + after
    with pytest.raises(ValueError, match="slot 1 cannot go back to 40 of its 39 tokens"):
        drafting.truncate(1, 40)


def test_prompts_share_a_pass(open_session: Sessions) -> None:
    session, alone = open_session(n_slots=3), open_session()
    prompts = [ids_of(n, seed=n) for n in (20, 7, 13)]
    session.prompt(prompts[0][:6])
    parts = [Part(slot, ids[6:] if slot == 0 else ids) for slot, ids in enumerate(prompts)]
    rows = session.run(parts, few=False)
    for slot, ids in enumerate(prompts):
        alone.reset()
        assert alone.prompt(ids).tobytes() == rows[slot].values.tobytes()
        assert session.sequences[slot].ids == ids
        assert session.sequences[slot].n_from_prompts == len(ids)


@BOTH
def test_a_prefix_is_copied_to_another_slot(open_session: Sessions, numerics: Numerics) -> None:
    session, ids = open_session(n_slots=3, numerics=numerics), ids_of(60)
    other = [*ids[:37], *ids_of(20, seed=5)]
    alone = open_session(numerics=numerics)
    expected = continued(alone, other)
    first = continued(session, ids)
    session.copy(0, 2, 37)
    rows = [session.prompt(other, slot=2).tobytes()]
    assert session.runner.program.state[0] == 20  # what was copied is not computed
    rows += [session.extend(token_id, slot=2).tobytes() for token_id in ids_of(4, seed=1)]
    assert rows == expected
    assert session.sequences[0].ids == ids + ids_of(4, seed=1)
    assert continued(session, ids) == first
    with pytest.raises(ValueError, match="slot 1 cannot give 1 of its 0 tokens"):
        session.copy(1, 0, 1)


def test_what_is_released_is_computed_again(open_session: Sessions) -> None:
    session, ids = open_session(n_slots=2), ids_of(60)
    expected = continued(session, ids)
    session.prompt(ids, slot=1)
    session.release(0)
    assert (session.ids, session.sequences[0].n_touched) == ([], 0)
    assert session.sequences[1].reusable(ids) == 59
    assert continued(session, ids) == expected


def test_more_slots_than_numbers_in_a_prompt_pass(open_session: Sessions) -> None:
    """A context, or a pass, shorter than there are sequences."""
    for options in ({"n_ctx": 2}, {"n_batch": 2}):
        session = open_session(n_slots=8, **options)
        for slot in range(8):
            session.prompt([slot], slot=slot)
        rows = session.extend_each({slot: [20 + slot] for slot in range(8)})
        for slot in range(8):
            alone = open_session()
            alone.prompt([slot])
            assert alone.extend(20 + slot).tobytes() == rows[slot].tobytes()


def test_what_cannot_be_extended_leaves_all_as_they_were(open_session: Sessions) -> None:
    session = open_session(n_slots=3, n_ctx=40)
    session.prompt(ids_of(40), slot=1)
    session.prompt([1, 2], slot=2)
    for tokens, error, message in (
        ({2: [3], 1: [4]}, ContextOverflow, "41 tokens do not fit the context of 40"),
        ({2: [3], 3: [4]}, ValueError, "slot is 3; it must be a whole number from 0 to 2"),
        ({-1: [3]}, ValueError, "slot is -1;"),
        ({2: [3], 0: [N_VOCAB]}, ValueError, f"token id is {N_VOCAB};"),
        ({2: [3], 0: []}, ValueError, "at least one"),
        ({}, ValueError, "at least one"),
        ({2: [3] * 5, 0: [1] * 4}, ValueError, "9 tokens; a pass takes .* at most 8"),
    ):
        with pytest.raises(error, match=message):
            session.extend_each(tokens)
        assert [len(sequence.ids) for sequence in session.sequences] == [0, 40, 2]
    with pytest.raises(ValueError, match="slot is 3;"):
        session.prompt([1], slot=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[({"n_slots": n}, f"n_slots is {n!r};.* 1 to 512") for n in (0, 513, 1.0)],
        *[({"n_batch": n}, f"n_batch is {n!r};.* 1 to 16384") for n in (0, 16385, True)],
    ],
)
def test_sizes_out_of_range_are_named(
    open_session: Sessions, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        open_session(**options)


def test_memory_is_asked_for_what_caches_may_come_to(
    open_session: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All slots full, or so many tokens; or half of what is available, and one context at least."""
    graph = open_session().runner.graph
    one = graph.slot_bytes
    assert one == sum(cache.keys.n_bytes + cache.values.n_bytes for cache in graph.caches)
    assert open_session(n_slots=3).runner.n_bytes - open_session().runner.n_bytes == 2 * one
    available = open_session(n_slots=4).runner.n_bytes
    monkeypatch.setattr("linnet.engine.running.runner.available_memory", lambda: available)
    open_session(n_slots=3)
    open_session(n_slots=64, kv_tokens=3 * N_CTX)
    for options, n in (({}, 5), ({"n_slots": 3, "numerics": F32}, 3)):
        with pytest.raises(MemoryError, match=f"a cache of {n * N_CTX} tokens with passes of"):
            open_session(n_slots=options.pop("n_slots", n), **options)
    monkeypatch.setattr("linnet.engine.running.runner.available_memory", lambda: 50 * one)
    for n_slots, n in ((64, 25), (8, 8)):
        assert open_session(n_slots=n_slots, kv_tokens=None).runner.kv_bytes == n * one


# ---- progress, and the end of it -----------------------------------------------------------------


def test_progress_is_told_before_the_first_pass_and_after_each(open_session: Sessions) -> None:
    session, ids, told = open_session(n_batch=16), ids_of(50), []
    session.prompt(ids[:7])
    session.prompt(ids, progress=lambda *figures: told.append(figures))
    assert told == [(7, 50), (23, 50), (39, 50), (50, 50)]


def test_a_prompt_ends_between_passes_where_progress_says_so(open_session: Sessions) -> None:
    session, ids = open_session(n_batch=16), ids_of(50)
    expected = continued(session, ids)

    def stop(n_done: int, n_tokens: int) -> None:
        if n_done == 32:
            session.stop()

    def fail(n_done: int, n_tokens: int) -> None:
        if n_done == 16:
            raise ZeroDivisionError

    for progress, error, n_kept in ((stop, Interrupted, 32), (fail, ZeroDivisionError, 16)):
        session.reset()
        with pytest.raises(error):
            session.prompt(ids, progress=progress)
        assert session.ids == ids[:n_kept]
        assert session.sequences[0].n_from_prompts == n_kept
        assert continued(session, ids) == expected
    session.stop()  # nothing is under way
    assert continued(session, ids) == expected


def test_a_session_amid_a_call_takes_no_other(open_session: Sessions) -> None:
    """What `progress` asks for, or the reader of `each_logits`, is refused and changes nothing."""
    session, ids = open_session(n_batch=16), ids_of(50)
    other = ids_of(16, seed=1)  # as long as what is done when it comes
    expected, rows = session.prompt(ids).copy(), session.all_logits(ids)
    calls = (
        lambda: session.prompt(other), lambda: session.extend(1), lambda: session.all_logits(other),
        session.reset,
    )  # fmt: skip

    def refuse_all(*_: object) -> None:
        for call in calls:
            with pytest.raises(RuntimeError, match="amid a call"):
                call()

    session.reset()
    assert np.array_equal(session.prompt(ids, progress=refuse_all), expected)
    parts = []
    for part in session.each_logits(ids):
        parts.append(part.copy())
        refuse_all()
    assert np.array_equal(np.concatenate(parts), rows)
    assert session.ids == ids
    with pytest.raises(RuntimeError, match="amid a call"):
        session.prompt(other, progress=lambda *_: session.prompt(ids))
    assert np.array_equal(session.prompt(ids), expected)


def test_ids_are_computed_as_they_were_checked(open_session: Sessions) -> None:
    """Whatever becomes of the caller's list meanwhile, and whatever its numbers say they are."""

    class Sly(int):
        """In range when compared, and not."""

        def __ge__(self, _: object) -> bool:
            return True

        __lt__ = __le__ = __ge__

    session, ids = open_session(n_batch=16), ids_of(50)
    expected, rows = session.prompt(ids).copy(), session.all_logits(ids)
    for change in ([-(2**31)] * 50, [], [1] * 5000):
        given = list(ids)

        def spoil(*_: object, given: list[int] = given, change: list[int] = change) -> None:
            given[:] = change

        session.reset()
        assert np.array_equal(session.prompt(given, progress=spoil), expected)
        given[:] = ids
        parts = []
        for part in session.each_logits(given):
            parts.append(part.copy())
            spoil()
        assert np.array_equal(np.concatenate(parts), rows)
    for call in (session.prompt, session.all_logits, lambda ids: session.extend(ids[0])):
        with pytest.raises(ValueError, match=f"token id is {N_VOCAB}"):
            call([Sly(N_VOCAB)])
    session.prompt([1])
    assert all(type(token_id) is int for token_id in session.ids)


class EndlessPass:
    """From the second pass on, a pass is repeated until it is stopped."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Event()
        self.n_passes = 0
        run, deadline = session.runner.team.run, time.monotonic() + 60

        def run_on(program: Any) -> None:
            run(program)
            self.n_passes += 1
            while self.n_passes > 1:
                self.entered.set()
                assert time.monotonic() < deadline, "nobody stopped it"
                run(program)

        monkeypatch.setattr(session.runner.team, "run", run_on)


def stop(session: Session) -> None:
    session.stop()


def interrupt(session: Session) -> None:
    _thread.interrupt_main()


@pytest.mark.parametrize(
    ("end", "error"), [(stop, Interrupted), (interrupt, KeyboardInterrupt)], ids=["stop", "ctrl-c"]
)
@pytest.mark.parametrize("method", ["prompt", "all_logits"])
def test_a_prompt_ends_amid_a_pass(
    open_session: Sessions, monkeypatch: pytest.MonkeyPatch,
    method: str, end: Callable[[Session], None], error: type[BaseException],
) -> None:  # fmt: skip
    session, ids = open_session(n_batch=16, threads=2), ids_of(50)
    expected = continued(session, ids)
    session.reset()
    with monkeypatch.context() as patch:
        endless = EndlessPass(session, patch)
        join = in_thread(lambda: endless.entered.wait(60) and end(session))
        with pytest.raises(error):
            getattr(session, method)(ids)
        join()
    assert session.ids == ids[:16]  # the pass that was finished
    assert session.sequences[0].n_from_prompts == 16
    session.prompt(ids)
    assert (
        session.runner.program.state[0] == 50 - 16 - 2 * 16
    )  # the last of those that were missing
    assert continued(session, ids) == expected


def test_ctrl_c_leaves_other_sequences_alone(
    open_session: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, ids = open_session(n_batch=16, n_slots=2), ids_of(50)
    expected = continued(session, ids)
    session.prompt(ids)
    with monkeypatch.context() as patch:
        endless = EndlessPass(session, patch)
        join = in_thread(lambda: endless.entered.wait(60) and interrupt(session))
        with pytest.raises(KeyboardInterrupt):
            session.prompt(ids_of(50, seed=3), slot=1)
        join()
    assert [session.extend(token_id).tobytes() for token_id in ids_of(4, seed=1)] == expected[1:]


# ---- prompts and single tokens -------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("type", TYPES)
def test_prompts_and_single_tokens_give_the_same_logits(
    open_session: Sessions, type: str, numerics: Numerics
) -> None:
    """Up to the order of sums; which, rarely, moves an activation to its neighbouring int8. With
    matrix registers, logits of many tokens are products in bf16, and of one in int8."""
    ids = ids_of(50)
    session = open_session(type, numerics=numerics)
    together = session.all_logits(ids)
    assert together.shape == (50, N_VOCAB)
    assert together.dtype == np.float32
    in_tiles = numerics != F32 and choose_isa(None).tiles is not None
    assert nmse(session.prompt(ids), together[-1]) <= (3e-4 if in_tiles else 1e-12)
    session.reset()
    one_by_one = np.array([session.extend(token_id).copy() for token_id in ids])
    rounding = 1e-8 if type in ("F32", "F16") else 3e-4  # of the cache to f16, or of all to int8
    if in_tiles and rounding == 3e-4:  # of some to int8, of others to bf16
        rounding = 6e-4
    assert nmse(one_by_one, together) <= (1e-10 if numerics == F32 else rounding)


# ---- out of range --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["prompt", "all_logits"])
@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "at least one"),
        ([1, -1], "token id is -1; it must be a whole number from 0 to 426"),
        ([N_VOCAB], f"token id is {N_VOCAB};"),
        ([2**70], f"token id is {2**70};"),
        ([1.0], r"token id is 1\.0;"),
        ([True], "token id is True;"),
        (np.ones((2, 2), int), r"token id is array\(\[1, 1\]\);"),
        (range(N_CTX + 1), f"{N_CTX + 1} tokens do not fit the context of {N_CTX}.*n_ctx"),
    ],
)
def test_wrong_ids_are_refused_before_anything_is_done(
    open_session: Sessions, method: str, ids: Any, message: str
) -> None:
    session = open_session()
    expected = session.prompt([1, 2]).tobytes()
    with pytest.raises(ValueError, match=message):
        getattr(session, method)(ids)
    assert session.ids == [1, 2]
    assert session.prompt([1, 2]).tobytes() == expected


def test_a_full_context_takes_no_more(open_session: Sessions) -> None:
    session = open_session(n_ctx=40)
    session.prompt(ids_of(38))
    session.extend(5)
    session.extend(6)
    with pytest.raises(ContextOverflow) as caught:
        session.extend(7)
    assert (caught.value.n_tokens, caught.value.n_ctx) == (41, 40)
    assert session.ids == [*ids_of(38), 5, 6]
    assert continued(session, [1, 2]) == continued(open_session(n_ctx=40), [1, 2])


def test_ids_may_be_an_array(open_session: Sessions) -> None:
    session = open_session()
    expected = session.prompt([3, 5]).tobytes()
    assert session.prompt(np.array([3, 5])).tobytes() == expected  # type: ignore[arg-type]


# ---- out of turn ---------------------------------------------------------------------------------


class Gate:
    """Holds passes of a session's team until they may go on."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        run = session.runner.team.run

        def held(program: Any) -> None:
            self.entered.set()
            assert self.open.wait(60)
            run(program)

        monkeypatch.setattr(session.runner.team, "run", held)


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start it in a thread; returns what gives its result, or raises what it raised."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def join() -> Any:
        thread.join(60)
        assert results, "the thread did not end"
        if isinstance(results[0], BaseException):
            raise results[0]
        return results[0]

    return join


def test_a_second_thread_is_turned_away(
    open_session: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session()
    expected = continued(session, [1, 2, 3])
    gate = Gate(session, monkeypatch)
    join = in_thread(lambda: continued(session, [1, 2, 3]))
    assert gate.entered.wait(60)
    for call in (
        lambda: session.prompt([4]), lambda: session.extend(4),
        lambda: session.all_logits([4]), session.reset,
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="in use by another thread"):
            call()
    gate.open.set()
    assert join() == expected
    assert continued(session, [1, 2, 3]) == expected


def test_sessions_at_once_do_not_disturb_each_other(open_session: Sessions) -> None:
    """Of one library, whose kernels they ask for at the same time."""
    prompts = [ids_of(20 + i, seed=i) for i in range(4)]
    expected = [continued(open_session(), ids, n=20) for ids in prompts]
    sessions = [open_session(threads=2) for _ in prompts]
    for _ in range(2):
        joins = [
            in_thread(lambda session=session, ids=ids: continued(session, ids, n=20))
            for session, ids in zip(sessions, prompts, strict=True)
        ]
        assert [join() for join in joins] == expected
        for session in sessions:
            session.reset()


def test_sessions_of_one_model_share_its_weights(tmp_path: Path, best_library: Library) -> None:
    """The same memory, which is the file's; their caches are their own."""
    file = GGUFFile(TinyLlama(type="Q4_K").write(tmp_path / "model.gguf"))
    model = load_model(file.metadata, file.tensors)
    sessions = [Session(Runner(model, best_library, n_threads=n, n_ctx=N_CTX)) for n in (1, 2)]

    def places(name: str) -> list[list[int]]:
        arguments = [
            [step.arguments[name] for step in s.runner.program.steps if name in step.arguments]
            for s in sessions
        ]
        arrays = [[a.data if isinstance(a, Persistent) else a for a in of] for of in arguments]
        return [[array.ctypes.data for array in of] for of in arrays]

    one, other = places("weights")
    assert one == other
    assert len(one) > 7
    packed = [tensor.data for tensor in file.tensors.values()]
    within = [(data.ctypes.data, data.ctypes.data + data.nbytes) for data in packed]
    assert all(any(start <= at < end for start, end in within) for at in one)
    assert not set(places("cache")[0]) & set(places("cache")[1])
    for session in sessions:
        session.close()


def test_an_error_in_a_pass_leaves_the_session_usable(
    open_session: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, ids = open_session(threads=2), ids_of(20)
    expected = continued(session, ids)
    session.prompt(ids)
    run = session.runner.team.run

    def run_and_fail(program: Any) -> None:
        run(program)
        raise KeyboardInterrupt  # as a signal does, once native code is left

    for call in (lambda: session.extend(4), lambda: session.prompt(ids_of(9))):
        n_before = len(session.ids)
        monkeypatch.setattr(session.runner.team, "run", run_and_fail)
        with pytest.raises(KeyboardInterrupt):
            call()
        assert len(session.ids) <= n_before  # of a pass that failed, nothing is kept
        monkeypatch.setattr(session.runner.team, "run", run)
        assert continued(session, ids) == expected


def test_a_stopped_pass_leaves_the_session_usable(open_session: Sessions) -> None:
    session, ids = open_session(threads=2, n_ctx=600), ids_of(600)
    expected = session.prompt(ids).tobytes()
    n_stopped, over = 0, threading.Event()

    def stop_now_and_then() -> None:
        while not over.wait(0.001):
            session.runner.team.stop()

    join = in_thread(stop_now_and_then)
    for _ in range(200):
        session.reset()
        try:
            assert session.prompt(ids).tobytes() == expected
        except Interrupted:
            n_stopped += 1
        if n_stopped == 3:
            break
    over.set()
    join()
    assert n_stopped
    assert session.prompt(ids).tobytes() == expected


# ---- the end -------------------------------------------------------------------------------------


def team_threads() -> int:
    return sum(thread.name.startswith("linnet-") for thread in threading.enumerate())


def test_a_closed_session_says_so(open_session: Sessions) -> None:
    n_before = team_threads()
    session = open_session(threads=3)
    session.prompt([1, 2])
    assert team_threads() == n_before + 2
    session.close()
    session.close()
    assert team_threads() == n_before
    for call in (session.reset, lambda: session.extend(1), lambda: session.prompt([1])):
        with pytest.raises(RuntimeError, match="closed"):
            in_thread(call)()  # where it would wait for ever if it tried


def test_closing_waits_for_the_pass_under_way(
    open_session: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(threads=2)
    expected = session.prompt([1, 2]).tobytes()
    gate = Gate(session, monkeypatch)
    prompt = in_thread(lambda: session.prompt([1, 2]).tobytes())
    assert gate.entered.wait(60)
    closed = threading.Event()
    close = in_thread(lambda: (session.close(), closed.set()))
    assert not closed.wait(0.2)
    gate.open.set()
    assert prompt() == expected
    close()


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a process with threads forks: indeed
def test_a_forked_process_is_told_to_open_its_own(open_session: Sessions) -> None:
    session = open_session(threads=2)
    expected = session.prompt([1, 2]).tobytes()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            session.prompt([1, 2])
        except RuntimeError as error:
            os._exit(7 if "forked" in str(error) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert session.prompt([1, 2]).tobytes() == expected


@pytest.mark.usefixtures("signals_anywhere")
@needs_timers
def test_ctrl_c_at_any_moment_leaves_the_session_usable(open_session: Sessions) -> None:
    session, ids = open_session(threads=2), ids_of(20)
    expected = continued(session, ids)
    rng, n_interrupted, armed = random.Random(0), 0, False

    def interrupt(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    for _ in range(100):
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 3e-3))
            while armed:
                continued(session, ids)
        except KeyboardInterrupt:
            n_interrupted += 1
        assert continued(session, ids) == expected
    signal.signal(signal.SIGALRM, before)
    assert n_interrupted == 100
    session.close()
