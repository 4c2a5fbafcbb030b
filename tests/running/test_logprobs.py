"""Log-probabilities of generated tokens and of prompts, and that nothing else changes with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from support.watched_scheduler import Watched, ids_of, interrupting, watching

from linnet import LLM, SamplingParams, TokenLogprob
from linnet.engine.running.generation import Chunk, Generation
from linnet.engine.sampling.candidates import NonFiniteLogits
from linnet.engine.sampling.logits import Floats, Logits
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.base import MOST_FEW_ROWS

SEVERAL = pytest.mark.parametrize("name", ["llama", "gemma3", "qwen35", "lfm2"])
Chunks = list[Chunk]


@pytest.fixture
def watched_of(best_library: Library) -> Iterator[Callable[..., Watched]]:
    with watching(best_library) as make:
        yield make


def chunks_of(watched: Watched, *generations: Generation) -> list[Chunks]:
    found: list[Chunks] = [[] for _ in generations]
    for index, event in watched.scheduler.events(generations):
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Chunk):
            found[index].append(event)
    return found


def tokens_of(chunks: Chunks) -> list[int]:
    return [chunk.token_id for chunk in chunks if chunk.token_id is not None]


def is_right(found: TokenLogprob | None, row: Floats, token_id: int, n_top: int) -> bool:
    """By the log-softmax of a row in float64."""
    logits = row.astype(np.float64)
    logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    likeliest = np.argsort(-row, kind="stable")[:n_top].tolist()
    assert found is not None
    assert found.token_id == token_id
    assert found.logprob == pytest.approx(logprobs[token_id], abs=2e-6)
    assert [each for each, _ in found.top] == likeliest
    assert [logprob for _, logprob in found.top] == pytest.approx(logprobs[likeliest], abs=2e-6)
    return True


# ---- of what is generated ------------------------------------------------------------------------


@SEVERAL
def test_they_are_those_of_the_models_own_logits(
    watched_of: Callable[..., Watched], name: str
) -> None:
    """Whatever samplers made of these before the token was drawn."""
    watched, ids = watched_of(name), ids_of(9)
    session = watched.scheduler.session
    how: dict[str, Any] = {"temperature": 3.0, "logit_bias": {5: 4.0}, "repeat_penalty": 1.5}
    (plain,) = chunks_of(watched, watched.request(ids, **how))
    for n_top in (0, 1, 20):
        (chunks,) = chunks_of(watched, watched.request(ids, **how, logprobs=n_top))
        assert tokens_of(chunks) == tokens_of(plain)
        session.reset()
        row = session.prompt(ids)
        for chunk in chunks[:-1]:
            assert chunk.token_id is not None
            assert is_right(chunk.logprobs, row, chunk.token_id, n_top)
            row = session.extend(chunk.token_id)
        assert chunks[-1].logprobs is None
    assert all(chunk.logprobs is None for chunk in plain)


def test_neighbours_and_threads_change_no_bit(watched_of: Callable[..., Watched]) -> None:
    watched, prompts = watched_of(), [ids_of(5 + 7 * i, seed=i) for i in range(6)]
    make = [lambda ids=ids: watched.request(ids, logprobs=5, prompt_logprobs=3) for ids in prompts]
    alone = [chunks_of(watched, each())[0] for each in make]
    together = chunks_of(watched, *(each() for each in make))
    assert [[c.logprobs for c in chunks] for chunks in together] == [
        [c.logprobs for c in chunks] for chunks in alone
    ]
    assert [c[-1].prompt_logprobs for c in together] == [c[-1].prompt_logprobs for c in alone]


def test_an_output_has_one_for_each_token() -> None:
    with LLM() as one, LLM(n_threads=2) as two:
        params = SamplingParams(max_tokens=6, seed=1, logprobs=2, prompt_logprobs=2)
        out = one.generate("def f(x):", params)
        assert [each.token_id for each in out.logprobs or []] == out.token_ids
        prompt = one.tokenizer.encode("def f(x):")
        first, *others = out.prompt_logprobs or []
        assert first is None
        assert [each.token_id for each in others if each] == prompt[1:]
        rows = one.logits(prompt)
        for i, found in enumerate(others):
            assert is_right(found, rows[i], prompt[i + 1], 2)
        again = two.generate("def f(x):", params)
        assert (again.logprobs, again.prompt_logprobs) == (out.logprobs, out.prompt_logprobs)
        plain = one.generate("def f(x):", SamplingParams(max_tokens=6, seed=1))
        assert plain.token_ids == out.token_ids
        assert (plain.logprobs, plain.prompt_logprobs) == (None, None)
        none = one.generate("def f(x):", SamplingParams(max_tokens=0, prompt_logprobs=2))
        assert (none.token_ids, none.prompt_logprobs) == ([], out.prompt_logprobs)
        message = one.generate([prompt[:1]], SamplingParams(max_tokens=1, prompt_logprobs=0))
        assert [output.prompt_logprobs for output in message] == [[None]]


def test_what_samplers_rule_out_has_the_probability_that_the_model_gave_it() -> None:
    with LLM() as llm:
        free = llm.generate("import", SamplingParams(max_tokens=1, temperature=0, logprobs=1))
        likeliest = free.token_ids[0]
        params = SamplingParams(
            max_tokens=1, temperature=0, logprobs=1, logit_bias={likeliest: -np.inf}
        )
        (other,) = llm.generate("import", params).logprobs or []
        assert other.token_id != likeliest
        assert other.top == (free.logprobs or [])[0].top
        assert other.logprob < other.top[0][1]


# ---- of prompts ----------------------------------------------------------------------------------


class Rows:
    """The logits that prompts are scored by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[tuple[int, ...], list[bytes]] = {}
        score = Generation.score

        def note(generation: Generation, rows: Sequence[Logits]) -> None:
            ids = tuple(generation.ids[: generation.stats.n_prompt])
            self.rows.setdefault(ids, []).extend(row.values.tobytes() for row in rows)
            score(generation, rows)

        monkeypatch.setattr(Generation, "score", note)


@SEVERAL
@pytest.mark.parametrize("n_batch", [8, 64])
def test_a_prompt_is_scored_by_the_bits_of_all_logits(
    watched_of: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch, name: str, n_batch: int
) -> None:
    """And its own tokens are those without; also where it is cached, and amid other requests."""
    watched, noted = watched_of(name, n_batch=n_batch), Rows(monkeypatch)
    prompts = [ids_of(n, seed=n) for n in (2, 33, 34, 70)]
    session = watched.scheduler.session
    expected = {}
    for ids in prompts:
        expected[tuple(ids)] = [row.tobytes() for row in session.all_logits(ids)[:-1]]
    plain = [chunks_of(watched, watched.request(ids, logprobs=1))[0] for ids in prompts]
    requests = [watched.request(ids, logprobs=1, prompt_logprobs=2) for ids in prompts]
    others = [watched.request(ids_of(40 + i, seed=i)) for i in range(3)]
    mixed = [each for pair in itertools.zip_longest(requests, others) for each in pair if each]
    found = dict(zip(map(id, mixed), chunks_of(watched, *mixed), strict=True))
    scored = [found[id(request)] for request in requests]
    assert noted.rows == expected
    assert [[c.logprobs for c in each] for each in scored] == [
        [c.logprobs for c in each] for each in plain
    ]
    for request, chunks, ids in zip(requests, scored, prompts, strict=True):
        assert request.stats.n_cached == 0
        logprobs = chunks[-1].prompt_logprobs or []
        assert [each and each.token_id for each in logprobs] == [None, *ids[1:]]
    assert max(sum(n) for few, n in watched.passes if few) <= MOST_FEW_ROWS


def test_a_prompt_that_is_scored_takes_no_slot_that_others_go_on_in(
    watched_of: Callable[..., Watched],
) -> None:
    watched, ids = watched_of(n_slots=2), ids_of(60)
    slots = []
    for n_cached, scores in ((0, None), (0, 0), (59, None)):
        request = watched.request(ids, prompt_logprobs=scores)
        watched.tokens(request)
        assert request.stats.n_cached == n_cached
        assert request.sequence is not None
        slots.append(request.sequence.slot)
    assert slots[0] != slots[1]


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen35"])
def test_a_prompt_whose_pass_or_slot_was_lost_is_scored_once(
    watched_of: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    watched, ids = watched_of(name, n_batch=16), ids_of(75)
    scheduler, session = watched.scheduler, watched.scheduler.session
    ((*_, expected),) = chunks_of(watched, watched.request(ids, prompt_logprobs=1))
    interrupt = interrupting(session, monkeypatch)

    def steps(generation: Generation) -> list[Any]:
        events = []
        while not generation.over:
            scheduler.step()
            events += generation.events
            generation.events.clear()  # or it would rest
        return events

    for nth, loses_slot in itertools.product(range(1, 8), (False, True)):
        interrupt(nth)
        generation = watched.request(ids, prompt_logprobs=1)
        scheduler.submit([generation])
        with pytest.raises(KeyboardInterrupt):
            steps(generation)
        if loses_slot:
            generation.sequence = None
            session.reset()
        last = steps(generation)[-1]
        assert last.prompt_logprobs == expected.prompt_logprobs


def test_a_prompt_with_logits_that_are_not_finite_ends_alone(
    watched_of: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = watched_of()
    scored, other = watched.request(ids_of(9), prompt_logprobs=0), watched.request(ids_of(7))
    session = watched.scheduler.session
    run = session.run

    def spoiled(parts: Any, **how: Any) -> Any:
        rows = run(parts, **how)
        if not how.get("few_outputs", True):
            values = np.full_like(rows[2].values, np.nan)
            rows[2] = Logits(values, type(rows[2].blocks)(values[:1], np.nan, np.nan, np.nan))
        return rows

    monkeypatch.setattr(session, "run", spoiled)
    events = list(watched.scheduler.events([scored, other]))
    errors = [(index, event) for index, event in events if isinstance(event, Exception)]
    assert [(index, type(error)) for index, error in errors] == [(0, NonFiniteLogits)]
    assert other.stats.n_generated == 12
