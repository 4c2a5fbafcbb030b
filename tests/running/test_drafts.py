"""Drafts: the same bits with and without, who guesses what, and how much is tried."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.known_drafts import Known, at_fixed_costs, known_drafts
from support.tiny_architectures import N_VOCAB, TINY
from support.tiny_llama import TinyLlama
from support.watched_scheduler import N_CTX, Watched, ids_of, interrupting, watching

from linnet import LLM, Output, SamplingParams
from linnet.engine.open_model import DEMO_MODEL
from linnet.engine.running.draft_model import DraftModel
from linnet.engine.running.drafts import MEMORY, MOST_DRAFTS, Drafts, Guess, Lengths, Rate
from linnet.engine.running.generation import Chunk, Generation
from linnet.engine.running.prompt_lookup import FIRST_RATES, LENGTHS, NGrams, PromptLookup
from linnet.kernels.compiler.jit import Library
from linnet.kernels.ops.base import MOST_FEW_ROWS

STATELESS = pytest.mark.parametrize("name", ["llama", "gemma3", "gpt-oss", "deepseek2"])


@pytest.fixture
def watched_of(
    best_library: Library, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Watched]]:
    at_fixed_costs(monkeypatch)
    with watching(best_library) as make:
        yield make


@pytest.fixture(scope="module")
def plain() -> Iterator[LLM]:
    with LLM(n_ctx=96, spec_type="none", n_threads=2) as llm:
        yield llm


@pytest.fixture(scope="module")
def drafting() -> Iterator[LLM]:
    """Of which tests say who drafts."""
    with LLM(n_ctx=96, n_threads=1) as llm:
        yield llm


# ---- the same bits -------------------------------------------------------------------------------


@STATELESS
@pytest.mark.parametrize("n_slots", [1, 3, 12])
def test_requests_get_what_they_get_without_drafts(
    watched_of: Callable[..., Watched], name: str, n_slots: int
) -> None:
    """Alone, together, and where more wait than have a slot or a row; windows come around."""
    watched = watched_of(name, n_slots=n_slots)
    prompts = [ids_of(3 + 9 * i, seed=i) for i in range(9)]
    requests = [lambda ids=ids: watched.request(ids, 40) for ids in prompts]
    expected = watched.alone(requests)
    texts = [[*ids, *answer[:-1]] for ids, answer in zip(prompts, expected, strict=True)]
    watched.scheduler.drafts = known_drafts(texts, N_VOCAB)
    watched.passes.clear()
    generations = [request() for request in requests]
    assert watched.tokens(*generations) == expected
    assert all(sum(n) <= MOST_FEW_ROWS for few, n in watched.passes if few)
    stats = [generation.stats for generation in generations]
    assert sum(each.n_accepted for each in stats) > 10
    assert any(0 < each.n_accepted < each.n_drafted for each in stats)
    held = [sequence.ids for sequence in watched.scheduler.session.sequences if sequence.ids]
    assert held
    assert all(ids in [text[:-1] for text in texts] for ids in held)  # no draft that was wrong


def test_a_pass_that_is_full_has_no_drafts(watched_of: Callable[..., Watched]) -> None:
    drafter = Known([], N_VOCAB)
    watched = watched_of(n_slots=8, drafts=Drafts([drafter]))
    generations = [watched.request(ids_of(4, i), 6) for i in range(8)]
    watched.tokens(*generations)
    assert not any(generation.stats.n_drafts for generation in generations)


@STATELESS
def test_a_request_that_lost_its_slot_goes_on_with_drafts(
    watched_of: Callable[..., Watched], name: str
) -> None:
    watched = watched_of(name, n_slots=2)
    prompts = [ids_of(20 + i, seed=i) for i in range(4)]
    requests = [lambda ids=ids: watched.request(ids, 40) for ids in prompts]
    expected = watched.alone(requests)
    texts = [[*ids, *answer[:-1]] for ids, answer in zip(prompts, expected, strict=True)]
    watched.scheduler.drafts = known_drafts(texts, N_VOCAB)
    streams = [watched.scheduler.events([request()]) for request in requests]
    found: list[list[int | None]] = [[] for _ in streams]
    rng = random.Random(0)
    while left := [i for i in range(4) if len(found[i]) < 41]:
        i = rng.choice(left)
        n = rng.randrange(1, 12)
        for _, event in streams[i]:
            if isinstance(event, Chunk):
                found[i].append(event.token_id)
                n -= 1
            if not n:
                break
    assert found == expected
    assert watched.scheduler.n_preempted


def test_drafts_whose_logits_were_lost_are_taken_back(
    watched_of: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come when a pass is over, and before its tokens are drawn."""
    watched = watched_of()
    prompts = [ids_of(9 + i, i) for i in range(3)]
    expected = watched.alone([lambda ids=ids: watched.request(ids) for ids in prompts])
    texts = [[*ids, *answer[:-1]] for ids, answer in zip(prompts, expected, strict=True)]
    watched.scheduler.drafts = known_drafts(texts, N_VOCAB)
    interrupt = interrupting(watched.scheduler.session, monkeypatch)

    def steps(generations: Sequence[Generation]) -> None:
        while not all(generation.over for generation in generations):
            watched.scheduler.step()
            for generation in generations:  # or they would rest
                generation.events.clear()

    for n in range(1, 5):
        interrupt(n)
        generations = [watched.request(ids) for ids in prompts]
        watched.scheduler.submit(generations)
        with pytest.raises(KeyboardInterrupt):
            steps(generations)
        steps(generations)
        ids = [g.ids[len(ids) :] for g, ids in zip(generations, prompts, strict=True)]
        assert [[*tokens, None] for tokens in ids] == expected


def test_a_neighbour_that_is_cancelled_or_fails_changes_nothing(
    watched_of: Callable[..., Watched],
) -> None:
    watched = watched_of()
    prompts = [ids_of(9 + i, i) for i in range(3)]
    expected = watched.alone([lambda ids=ids: watched.request(ids, 40) for ids in prompts])
    texts = [[*ids, *answer[:-1]] for ids, answer in zip(prompts, expected, strict=True)]
    watched.scheduler.drafts = known_drafts(texts, N_VOCAB)

    def fail(ids: list[int], logits: Any) -> Any:
        if len(ids) > 9 + 1 + 17:
            raise ZeroDivisionError
        return logits

    kept = watched.request(prompts[0], 40)
    cancelled = watched.request(prompts[2], 40)
    failing = watched.request(prompts[1], 40, logits_processors=(fail,))
    found: dict[int, list[Any]] = {0: [], 1: [], 2: []}
    for index, event in watched.scheduler.events([kept, failing, cancelled]):
        if isinstance(event, Chunk):
            found[index].append(event.token_id)
            if index == 2 and len(found[2]) == 9:
                watched.scheduler.cancel(cancelled)
        elif isinstance(event, Exception):
            found[index].append(type(event).__name__)
    assert found[0] == expected[0]
    assert found[1] == [*expected[1][:18], "ZeroDivisionError"]
    assert found[2] == [*expected[2][: len(found[2]) - 1], "Interrupted"]


def shift(ids: list[int], logits: Any) -> Any:
    """A logits processor that depends on all tokens so far."""
    return np.roll(logits, sum(ids) % 7)


HOWS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0, 0.3, 1, 2]),
        "seed": st.integers(0, 99),
        "max_tokens": st.sampled_from([None, 12, 30, 31]),
    },
    optional={
        "logprobs": st.integers(0, 3),
        "repeat_penalty": st.just(1.3),
        "frequency_penalty": st.just(0.7),
        "repeat_last_n": st.sampled_from([-1, 5, 64]),
        "dry_multiplier": st.just(0.8),
        "mirostat": st.just(2),
        "xtc_probability": st.just(0.5),
        "dynatemp_range": st.just(0.2),
        "typ_p": st.just(0.9),
        "min_tokens": st.integers(1, 12),
        "ignore_eos": st.booleans(),
        "stop": st.sampled_from(["e", ["\n\n", "in"], ["return"]]),
        "stop_token_ids": st.just([300, 301, 302]),
        "logits_processors": st.just((shift,)),
        "logit_bias": st.just({2: 4.0}),  # the end is near
    },
)
PROMPTS = ("def fibonacci(n):", "import os\n\n\nclass A", "", "x = 1\n" * 12, "a b c d e f g" * 9)


@settings(max_examples=12)
@given(
    cases=st.lists(st.tuples(st.sampled_from(PROMPTS), HOWS), min_size=1, max_size=3),
    most=st.integers(1, MOST_DRAFTS),
)
def test_outputs_are_those_without_drafts(
    plain: LLM, drafting: LLM, cases: list[tuple[str, dict[str, Any]]], most: int
) -> None:
    """Text, log-probabilities and reason to end, with any samplers, together or alone; by what is
    drafted, mostly right or mostly wrong, and by prompt lookup."""
    prompts = [plain.tokenizer.encode(prompt) for prompt, _ in cases]
    params = [plain.sampling_params(**how) for _, how in cases]
    expected = [plain.generate(ids, how) for ids, how in zip(prompts, params, strict=True)]
    texts = [[*ids, *each.token_ids] for ids, each in zip(prompts, expected, strict=True)]
    drafters = [Known(texts, 2048, share=0.9), Known(texts, 2048, share=0.3), PromptLookup()]
    with pytest.MonkeyPatch.context() as monkeypatch:
        at_fixed_costs(monkeypatch)
        for drafter in drafters:
            drafting.scheduler.drafts = Drafts([drafter], most)
            found = drafting.generate(prompts, params)
            assert [_told(each) for each in found] == [_told(each) for each in expected]


def _told(output: Output) -> tuple[Any, ...]:
    return output.text, output.token_ids, output.finish_reason, output.logprobs


@pytest.mark.parametrize("name", ["stories260K-F32", "BabyLlama-tok105-0.94M-F32"])
def test_real_models_say_the_same_with_prompt_lookup(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    at_fixed_costs(monkeypatch)
    path, how = fixtures / f"models/{name}.gguf", {"max_tokens": 100, "logprobs": 1, "seed": 3}
    prompt = "Lily had a big red ball. Lily had a big red"
    with LLM(path, spec_type="none") as without, LLM(path) as llm:
        for temperature in (0, 0.8):
            expected = without.generate([prompt] * 2, temperature=temperature, **how)
            found = llm.generate([prompt] * 2, temperature=temperature, **how)
            assert [_told(each) for each in found] == [_told(each) for each in expected]
            assert all(each.stats.n_accepted for each in found)


# ---- a draft model -------------------------------------------------------------------------------


def test_a_model_that_drafts_for_itself_is_always_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a temperature of 0; above, some are wrong. Nothing else changes, and conversations, in
    other slots, go on."""
    at_fixed_costs(monkeypatch)
    ticks = itertools.count()
    monkeypatch.setattr(DraftModel, "_clock", lambda self: next(ticks) * 1e-9)
    prompts = ["def fibonacci(n):", "import os\n" * 20, "class A:\n    def"]
    with (
        LLM(n_ctx=256, spec_type="none") as plain,
        LLM(n_ctx=256, n_batch=32, draft_model=DEMO_MODEL, n_parallel=2) as llm,
    ):
        for temperature, seed in ((0, 0), (0.8, 1), (1.5, 2)):
            how = {"temperature": temperature, "seed": seed, "max_tokens": 60, "ignore_eos": True}
            expected = plain.generate(prompts, logprobs=1, **how)
            found = llm.generate(prompts, logprobs=1, **how)
            assert [_told(each) for each in found] == [_told(each) for each in expected]
            n_drafted = sum(each.stats.n_drafted for each in found)
            n_accepted = sum(each.stats.n_accepted for each in found)
            assert 0 < n_accepted <= n_drafted
            assert temperature or n_accepted >= n_drafted - MOST_DRAFTS
            prompts = [prompt + each.text for prompt, each in zip(prompts, found, strict=True)][:3]


def test_a_draft_model_must_have_the_same_vocabulary(tmp_path: Path) -> None:
    path = TinyLlama(type="Q4_K").write(tmp_path / "tiny.gguf")
    with pytest.raises(ValueError, match=r"tiny\.gguf.*vocabulary has .* tokens, and 'demo.*2048"):
        LLM(draft_model=path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draft_max": 8}, "draft_max is 8; it must be a whole number from 1 to 7"),
        ({"draft_max": 0}, "draft_max is 0; it must be a whole number from 1 to 7"),
        ({"spec_type": "medusa"}, "spec_type is 'medusa'; it must be one of .*'ngram'"),
        ({"spec_type": "draft"}, "spec_type is 'draft', and draft_model None"),
        ({"spec_type": "ngram", "draft_model": "a.gguf"}, "'ngram', and draft_model 'a.gguf'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LLM(**options)


@pytest.mark.parametrize("name", [name for name in TINY if name in {"qwen35", "lfm2"}])
def test_models_with_a_state_have_no_drafts(tmp_path: Path, name: str) -> None:
    path = TINY[name].write(tmp_path / f"{name}.gguf")
    with LLM(path) as llm:
        assert llm.scheduler.drafts is None
    for options in ({"spec_type": "ngram"}, {"draft_model": path}):
        with pytest.raises(ValueError, match=r"carry a state.*use spec_type 'none'"):
            LLM(path, **options)


# ---- guesses -------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), max_size=80), st.lists(st.integers(1, 9), max_size=9))
def test_n_grams_are_found_where_they_came_last(ids: list[int], steps: list[int]) -> None:
    n_grams = NGrams()
    ends = [*itertools.accumulate(steps), len(ids)]
    for end in sorted(min(end, len(ids)) for end in ends):
        known = ids[:end]
        place = next(
            (
                place
                for n in LENGTHS
                for place in range(end - 1, n - 1, -1)
                if known[place - n : place] == known[-n:] and n <= end
            ),
            None,
        )
        found = n_grams.find(known)
        assert (found and found[1]) == place
        if found and place:
            n = found[0]
            assert known[place - n : place] == known[-n:]
            is_longest = n in (LENGTHS[0], place) or known[place - n - 1] != known[-n - 1]
            assert is_longest


def test_a_text_that_repeats_itself_is_drafted_to_the_end() -> None:
    request = _request([9, 1, 2, 1, 2])
    lookup = PromptLookup()
    assert lookup.rates([request]) == [FIRST_RATES[2]]
    assert lookup.draft({request: 5}) == {request: [1, 2, 1, 2, 1]}


def test_guesses_that_nobody_tries_tell_of_the_next() -> None:
    lookup, request = PromptLookup(), _request([1, 2, 3] * 2)
    rates = []
    for token_id in [1, 2, 3] * 4:
        rates += lookup.rates([request])
        request.ids.append(token_id)
    assert rates[0] == FIRST_RATES[2] < FIRST_RATES[4] < rates[-1]
    del request
    assert not len(lookup._texts)


def _request(ids: list[int]) -> Generation:
    class NoText:
        eog_ids: frozenset[int] = frozenset()

        def detokenizer(self, **_: object) -> Any:
            return None

    return Generation(ids, SamplingParams(), NoText(), n_ctx=N_CTX, n_vocab=N_VOCAB)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("came", "right", "wrong"),
    [([], 0, 0), ([5], 1, 0), ([5, 6, 7, 8], 3, 0), ([5, 9, 7], 1, 1), ([4], 0, 1)],
)
def test_a_guess_is_held_against_what_came(came: list[int], right: int, wrong: int) -> None:
    rate, expected = Rate(0.5), Rate(0.5)
    Guess(2, [5, 6, 7], rate).check([1, 2, *came])
    expected.saw(right, wrong)
    assert rate.value == expected.value


# ---- how many pay --------------------------------------------------------------------------------


def test_as_many_drafts_are_tried_as_pay() -> None:
    """A row more costs a quarter of a pass at first: r ** i > 0.25 * tokens / passes."""

    def lengths(
        rates: list[float], most: int = 7, n_rows: int = 0, seconds: float = 0
    ) -> list[int]:
        limits = [most] * len(rates)
        return Lengths().of(rates, limits, n_rows=n_rows or len(rates), draft_seconds=seconds)

    assert lengths([0.0]) == lengths([0.25]) == [0]
    assert lengths([0.3]) == [1]
    assert lengths([1.0]) == [7]
    assert lengths([1.0], most=3) == [3]
    assert lengths([1.0], most=-1) == [0]
    assert lengths([1.0], n_rows=6) == [2]
    assert lengths([1.0], n_rows=8) == [0]
    assert lengths([0.9, 0.0]) == [5, 0]
    n_first, n_second = lengths([0.95, 0.8])
    assert n_first > n_second > 0
    assert n_first + n_second <= MOST_FEW_ROWS - 2


def test_what_passes_take_is_learned() -> None:
    lengths = Lengths()
    lengths.ran(1, 1.0)
    for _ in range(5 * MEMORY):
        lengths.ran(5, 1.1)  # reading weights is all that counts

    def of(rate: float, seconds: float = 0.0) -> int:
        return lengths.of([rate], [7], n_rows=1, draft_seconds=seconds)[0]

    assert (of(0.1), of(0.9)) == (1, 7)
    assert (of(0.4, seconds=0.5), of(0.6, seconds=0.5)) == (0, 1)
    for _ in range(5 * MEMORY):
        lengths.ran(5, 5.5)  # as much as one by one
    assert of(0.9) == 0
    for _ in range(1000):
        lengths.ran(1, 1.0)
    assert of(0.9) > 0  # and tried again, some time
