"""What comes before all samplers: functions of programs, and ends that may not be yet."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support.sampler_cases import Floats, logits_of
from support.tiny_architectures import N_VOCAB
from support.watched_scheduler import NoText, Watched, ids_of, watching
from support.whole_vocabulary import logits_with_blocks

from linnet import SamplingParams
from linnet.engine.running.generation import Chunk, Generation
from linnet.engine.sampling.candidates import NonFiniteLogits
from linnet.engine.sampling.chain import Sampler
from linnet.kernels.compiler.jit import Library

GREEDY: dict[str, Any] = {"temperature": 0}


def only(*ids: int) -> Any:
    """A processor that leaves these tokens alone."""

    def process(_: list[int], logits: Floats) -> Floats:
        others = np.ones(len(logits), bool)
        others[list(ids)] = False
        logits[others] = -np.inf
        return logits

    return process


# ---- logits processors ---------------------------------------------------------------------------


@pytest.mark.parametrize("from_pass", [True, False])
def test_processors_see_all_tokens_and_logits_and_change_a_copy(from_pass: bool) -> None:
    values, seen = logits_of(300), []

    def note(ids: list[int], logits: Floats) -> Floats:
        seen.append((list(ids), logits.copy()))
        ids.clear()
        logits[:] = 0
        logits[7] = 1
        return logits

    def negate(_: list[int], logits: Floats) -> Floats:
        return -logits

    params = SamplingParams(**GREEDY, logits_processors=[note])
    sampler = Sampler(params, 300, prompt=[3, 4])
    before = values.copy()
    logits: Any = logits_with_blocks(values) if from_pass else values
    assert sampler.sample(logits) == 7
    sampler.accept(7)
    assert sampler.sample(logits) == 7
    assert [ids for ids, _ in seen] == [[3, 4], [3, 4, 7]]
    assert all(np.array_equal(each, before) for _, each in seen)
    assert np.array_equal(values, before)
    assert sampler.history.ids == [3, 4, 7]
    both = SamplingParams(**GREEDY, logits_processors=(note, negate, only(9, 7)))
    assert Sampler(both, 300).sample(logits) == 9


def test_samplers_go_on_from_what_processors_leave() -> None:
    params = SamplingParams(seed=1, logit_bias={5: -math.inf}, logits_processors=[only(2, 5, 9)])
    sampler = Sampler(params, 100)
    assert {sampler.sample(np.zeros(100, np.float32)) for _ in range(40)} == {2, 9}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, "None"),
        ([0.0] * 9, "[0.0, 0.0,"),
        (np.zeros(9), "float64 (9,)"),
        (np.zeros((9, 1), np.float32), "float32 (9, 1)"),
        (np.zeros(8, np.float32), "float32 (8,)"),
    ],
)
def test_what_a_processor_returns_is_checked(given: object, found: str) -> None:
    processors: Any = [only(1), lambda ids, logits: given]
    sampler = Sampler(SamplingParams(logits_processors=processors), 9)
    message = re.escape(f"logits_processors[1] returned {found}") + ".*must be an array of float32"
    with pytest.raises(ValueError, match=message + r" \(9,\)$"):
        sampler.sample(logits_of(9))


def test_a_processor_that_leaves_nothing_is_an_error() -> None:
    for value in (np.nan, -np.inf):
        processors: Any = [lambda ids, logits, value=value: np.full_like(logits, value)]
        with pytest.raises(NonFiniteLogits):
            Sampler(SamplingParams(logits_processors=processors), 9).sample(logits_of(9))


@pytest.mark.parametrize("value", [only(1), "abc", {1}, None])
def test_processors_are_a_list_of_callables(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^logits_processors is .*; it must be a list of"):
        SamplingParams(logits_processors=value)
    with pytest.raises(ValueError, match=r"^logits_processors\[1\] is 3; it must be callable"):
        SamplingParams(logits_processors=[only(1), 3])  # type: ignore[list-item]


def test_an_error_of_a_processor_ends_its_request_alone(best_library: Library) -> None:
    def fail(ids: list[int], logits: Floats) -> Floats:
        if len(ids) > 12:
            raise KeyError("mine")
        return logits

    with watching(best_library) as make:
        watched: Watched = make()
        (expected,) = watched.tokens(watched.request(ids_of(9)))
        bad = watched.request(ids_of(10), logits_processors=[fail])
        good = watched.request(ids_of(9))
        events = list(watched.scheduler.events([bad, good]))
        errors = [(index, event) for index, event in events if isinstance(event, Exception)]
        assert [(index, repr(error)) for index, error in errors] == [(0, "KeyError('mine')")]
        assert bad.stats.n_generated == 3
        tokens = [event.token_id for i, event in events if i and isinstance(event, Chunk)]
        assert tokens == expected


# ---- min_tokens ----------------------------------------------------------------------------------


class Ends(NoText):
    """A tokenizer of which some tokens end a text."""

    def __init__(self, *ids: int) -> None:
        self.eog_ids = frozenset(ids)


@pytest.mark.parametrize("n", [0, 1, 3, 5])
@pytest.mark.parametrize("from_pass", [True, False])
def test_ends_are_ruled_out_until_there_are_enough_tokens(n: int, from_pass: bool) -> None:
    values = np.zeros(400, np.float32)
    values[[7, 300, 2]] = 9, 8, 1  # the ends, and what follows them
    logits: Any = logits_with_blocks(values) if from_pass else values
    params = SamplingParams(**GREEDY, min_tokens=n, stop_token_ids=[300], logit_bias={7: 50.0})
    sampler = Sampler(params, 400, prompt=[1, 2, 3], eog_ids={7})
    drawn = []
    for _ in range(6):
        drawn.append(sampler.sample(logits))
        sampler.accept(drawn[-1])
    assert drawn == [2] * n + [7] * (6 - n)


@pytest.mark.parametrize(("stop", "eog"), [([7], []), ([], [7]), ([7], [8]), ([], [])])
def test_a_generation_ends_no_sooner(
    best_library: Library, stop: Sequence[int], eog: Sequence[int]
) -> None:
    """Where an end is as good as certain, it comes once it may."""
    with watching(best_library) as make:
        watched: Watched = make()
        for n in (0, 1, 4):
            params = SamplingParams(
                seed=1, max_tokens=9, min_tokens=n, stop_token_ids=stop, logit_bias={7: 900.0}
            )
            tokenizer: Any = Ends(*eog)
            generation = Generation(ids_of(5), params, tokenizer, n_ctx=99, n_vocab=N_VOCAB)
            (tokens,) = watched.tokens(generation)
            assert len(tokens) - 1 == (n if stop or eog else 9)
            assert (7 in tokens) == (not (stop or eog))


def test_it_is_at_most_max_tokens() -> None:
    with pytest.raises(ValueError, match="min_tokens is 5; it must be at most max_tokens, which i"):
        SamplingParams(min_tokens=5, max_tokens=4)
    assert SamplingParams(min_tokens=5, max_tokens=5).min_tokens == 5
    with pytest.raises(NonFiniteLogits, match="all are -inf"):
        Sampler(SamplingParams(min_tokens=1), 2, eog_ids={0, 1}).sample(logits_of(2))
