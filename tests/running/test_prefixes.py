"""Which slot a request takes, what it finds there, and what others lose by it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from support.model_runner import INT8
from support.tiny_architectures import N_VOCAB, TINY

from linnet.engine.running.prefixes import WORTH_COPYING, Prefixes
from linnet.engine.running.runner import Runner
from linnet.engine.running.session import Session
from linnet.kernels.compiler.jit import Library
from linnet.models import load_model

N_CTX, N_SLOTS = 200, 3


def ids_of(n: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(N_VOCAB), k=n)


def session_of(name: str, library: Library, **options: int) -> Session:
    model = load_model(TINY[name].metadata(), TINY[name].tensors())
    sizes = {"n_slots": N_SLOTS, "kv_tokens": N_SLOTS * N_CTX, "n_batch": 64} | options
    return Session(
        Runner(model, library, n_threads=1, n_ctx=N_CTX, numerics=INT8, **sizes)  # type: ignore[arg-type]
    )


@pytest.fixture
def session(best_library: Library) -> Iterator[Session]:
    session = session_of("llama", best_library)
    yield session
    session.close()


def took(prefixes: Prefixes, session: Session, ids: list[int], **used: int) -> tuple[int, int]:
    """The slot that a request of `ids` takes, and how many of them it finds there; it runs."""
    slot = prefixes.take(ids, len(ids), {int(name[1:]): n for name, n in used.items()})
    assert slot is not None
    n_found = len(session.sequences[slot].ids)
    assert session.sequences[slot].ids == ids[:n_found]
    session.prompt(ids, slot=slot)
    prefixes.touch(slot)
    return slot, n_found


def test_conversations_that_go_on_do_not_push_each_other_out(session: Session) -> None:
    prefixes = Prefixes(session)
    talks = [ids_of(30, seed=i) for i in range(N_SLOTS)]
    slots = [took(prefixes, session, ids)[0] for ids in talks]
    assert sorted(slots) == list(range(N_SLOTS))
    for turn in range(3):
        for i in (1, 2, 0):
            n_before = len(talks[i])
            talks[i] += ids_of(10, seed=100 + 10 * turn + i)
            assert took(prefixes, session, talks[i]) == (slots[i], n_before)
    assert took(prefixes, session, talks[1]) == (slots[1], len(talks[1]) - 1)  # once more


def test_a_new_one_takes_the_slot_unused_for_longest(session: Session) -> None:
    prefixes = Prefixes(session)
    slots = [took(prefixes, session, ids_of(20, seed=i))[0] for i in range(N_SLOTS)]
    took(prefixes, session, [*ids_of(20, seed=0), 1])
    assert took(prefixes, session, ids_of(20, seed=9)) == (slots[1], 0)


def test_what_another_conversation_shares_is_copied(session: Session) -> None:
    prefixes = Prefixes(session)
    system = ids_of(WORTH_COPYING, seed=5)
    first = [*system, *ids_of(20, seed=1)]
    slot, _ = took(prefixes, session, first)
    other, n_found = took(prefixes, session, [*system, *ids_of(20, seed=2)])
    assert (other != slot, n_found) == (True, WORTH_COPYING)
    assert took(prefixes, session, first) == (slot, len(first) - 1)
    third, n_found = took(prefixes, session, [*system[:-1], *ids_of(20, seed=3)])
    assert (third not in (slot, other), n_found) == (True, 0)  # so few are computed again


def test_a_request_under_way_gives_copies_and_keeps_its_slot(session: Session) -> None:
    prefixes, ids = Prefixes(session), ids_of(40)
    slot, _ = took(prefixes, session, ids)
    other, n_found = took(prefixes, session, [*ids, 5], **{f"s{slot}": 50})
    assert (other != slot, n_found) == (True, 40)
    assert session.sequences[slot].ids == ids
    used = dict.fromkeys(range(N_SLOTS), 50)
    assert prefixes.take([1, 2], 2, used) is None


@pytest.mark.parametrize("name", ["gemma3", "qwen35", "lfm2"])
def test_rings_and_states_go_with_a_copy_or_nothing_does(name: str, best_library: Library) -> None:
    session, alone = (session_of(name, best_library) for _ in range(2))
    prefixes, ids = Prefixes(session), ids_of(50)
    slot, _ = took(prefixes, session, ids)
    longer, shorter = [*ids, *ids_of(9, seed=2)], [*ids[:30], *ids_of(9, seed=3)]
    other, n_found = took(prefixes, session, longer, **{f"s{slot}": 50})
    assert (other != slot, n_found) == (True, 50)
    found = session.extend(7, slot=other).tobytes()
    alone.prompt(longer)
    assert alone.extend(7).tobytes() == found
    _, n_found = took(prefixes, session, shorter, **{f"s{slot}": 50, f"s{other}": 60})
    assert n_found == (30 if name == "gemma3" else 0)  # a state is that of all its tokens
    for each in (session, alone):
        each.close()


def test_what_does_not_fit_the_budget_waits_or_makes_others_go(best_library: Library) -> None:
    session = session_of("llama", best_library, kv_tokens=150)
    prefixes = Prefixes(session)
    one = took(prefixes, session, ids_of(60, seed=1))[0]
    two = took(prefixes, session, ids_of(60, seed=2))[0]
    assert prefixes.take(ids_of(9), 100, {two: 60}) is None
    three = took(prefixes, session, ids_of(80, seed=3), **{f"s{two}": 60})[0]
    assert {one, two, three} == set(range(N_SLOTS))
    assert (session.sequences[one].ids, session.sequences[one].n_touched) == ([], 0)
    assert session.sequences[two].ids == ids_of(60, seed=2)
    assert session.sequences[three].ids == ids_of(80, seed=3)
    session.close()


@pytest.mark.parametrize("kv_tokens", [64 * N_CTX, 900])
def test_64_conversations_by_turns(best_library: Library, kv_tokens: int) -> None:
    """All of them stay, or those used last that the budget has room for, and it is kept to."""
    session = session_of("llama", best_library, n_slots=64, kv_tokens=kv_tokens)
    prefixes, rng, system = Prefixes(session), random.Random(0), ids_of(20, seed=99)
    graph, most = session.runner.graph, session.runner.kv_bytes
    assert session.n_slots == (64 if kv_tokens > 900 else 18)
    talks = [[*system, *ids_of(5, seed=i)] for i in range(64)]
    for turn in range(3):
        order = rng.sample(range(64), 64)
        for i in order:
            _, n_found = took(prefixes, session, talks[i])
            if session.n_slots == 64 and turn:
                assert n_found == len(talks[i]) - 5
            assert n_found >= (20 if i != order[0] or turn else 0)
            held = [graph.sequence_bytes(sequence.n_touched) for sequence in session.sequences]
            assert sum(held) <= most
            talks[i] += ids_of(5, seed=1000 + 64 * turn + i)
        last = order[-1]
        _, n_found = took(prefixes, session, talks[last])
        assert n_found == len(talks[last]) - 5
        talks[last] += ids_of(5, seed=2000 + turn)
    session.close()


def test_a_slot_that_held_more_gives_it_back(best_library: Library) -> None:
    """Where it is taken for a request that goes on from a part of it."""
    session = session_of("llama", best_library, n_slots=1)
    prefixes, ids = Prefixes(session), ids_of(150)
    took(prefixes, session, ids)
    assert took(prefixes, session, [*ids[:40], 1, 2]) == (0, 40)
    assert session.sequences[0].n_touched == 42
    session.close()
    session = session_of("gemma3", best_library, n_slots=1)  # whose windows stay: 71, in runs of 64
    session.prompt(ids)
    session.release(0, 40)
    assert session.sequences[0].n_touched == 128
    session.release(0)
    assert session.sequences[0].n_touched == 0
    session.close()
