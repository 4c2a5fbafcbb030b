"""The Python API: texts that are known, what ends a generation, and arguments out of range."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_llama import BOS, EOS, N_VOCAB, TinyLlama, TinyTensor

from linnet import (
    LLM,
    ContextOverflow,
    ISAError,
    NonFiniteLogits,
    Output,
    SamplingParams,
    Tokenizer,
    TokenizerError,
)
from linnet.engine.running.policy import PromptPasses
from linnet.engine.running.runner import PROMPT_TOKENS
from linnet.engine.running.scheduler import Scheduler
from linnet.engine.sampling.chain import Sampler
from linnet.engine.sampling.logits import all_ids
from linnet.kernels.compiler.host import available_isas, choose_isa
from linnet.kernels.runtime.team import Team

TINY = TinyLlama(type="Q4_K")
PROMPT = "once upon a time"


def greedy(**changes: Any) -> SamplingParams:
    """Always the likeliest token, 24 at most."""
    return SamplingParams(**{"temperature": 0, "max_tokens": 24, "ignore_eos": True} | changes)


def seeded(seed: int = 7, **changes: Any) -> SamplingParams:
    return greedy(temperature=1, top_k=0, seed=seed, **changes)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def shared(path: Path) -> Iterator[LLM]:
    """One LLM for all tests that leave it open: what each does must not matter to the others."""
    with LLM(path) as llm:
        yield llm


# ---- known texts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "story"),
    [
        (
            "stories260K-F32",
            "Once upon a time, there was a little girl named Lily. She loved to play outside in "
            "the park. One day, she saw a big, red ball.",
        ),
        (
            "BabyLlama-tok105-0.94M-F32",
            "Once upon a time, there was a little girl named Lily. She loved to play outside in "
            "the sunshine. One day, she went to the park with her ",
        ),
    ],
)
@pytest.mark.parametrize("activations", ["int8", "f32"])
def test_a_real_model_tells_its_story(
    fixtures: Path, model: str, story: str, activations: str
) -> None:
    with LLM(fixtures / f"models/{model}.gguf", activations=activations) as llm:
        output = llm.generate("Once upon a time", greedy(max_tokens=120))
    assert ("Once upon a time" + output.text).startswith(story)


# ---- the same tokens -----------------------------------------------------------------------------


def test_tokens_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    path = TinyLlama(type="Q5_K", n_ctx=1024).write(tmp_path / "tiny.gguf")
    long = "to be or not " * (PROMPT_TOKENS // 8)
    found = []
    for threads in (1, 2, 3, 7):
        with LLM(path, n_threads=threads, n_ctx=1024) as llm:
            assert llm.n_threads == threads
            assert len(llm.tokenizer.encode(long)) > PROMPT_TOKENS
            how = [greedy(max_tokens=12), seeded(max_tokens=12)]
            outputs = [llm.generate([PROMPT, long, PROMPT], params) for params in how]
            found.append([[output.token_ids for output in row] for row in outputs])
    assert found[1:] == found[:1] * 3
    (first, _, again), (drawn, _, drawn_again) = found[0]
    assert again == first  # whatever was generated before
    assert drawn_again == drawn != first


def test_a_seed_decides_what_is_drawn(shared: LLM) -> None:
    drawn = [shared.generate(PROMPT, seeded(seed)).token_ids for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]
    free = [shared.generate(PROMPT, seeded(None)).token_ids for _ in range(2)]  # type: ignore[arg-type]
    assert free[0] != free[1]


@pytest.mark.parametrize("isa", [isa.name for isa in available_isas()])
def test_every_instruction_set_gives_nearly_the_same_logits(path: Path, isa: str) -> None:
    ids = list(range(BOS, N_VOCAB, 17))
    with LLM(path, isa=isa, activations="f32") as llm, LLM(path, activations="f32") as best:
        assert (llm.isa, best.isa) == (isa, choose_isa().name)
        np.testing.assert_allclose(llm.logits(ids), best.logits(ids), atol=1e-4)


def test_the_environment_may_name_an_instruction_set(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINNET_ISA", "generic")
    with LLM(path) as llm:
        assert llm.isa == "generic"
    best = available_isas()[0].name
    with LLM(path, isa=best) as llm:
        assert llm.isa == best


def test_a_file_read_into_memory_gives_the_same(path: Path, shared: LLM) -> None:
    with LLM(path, mmap=False) as llm:
        assert (
            llm.generate(PROMPT, greedy()).token_ids == shared.generate(PROMPT, greedy()).token_ids
        )


# ---- prompts and outputs -------------------------------------------------------------------------


def test_a_text_gives_an_output(shared: LLM) -> None:
    output = shared.generate(PROMPT, greedy())
    assert isinstance(output, Output)
    assert len(output.token_ids) == output.stats.n_generated == 24
    assert output.stats.n_prompt == len(shared.tokenizer.encode(PROMPT))
    assert output.stats.prompt_rate > 0
    assert output.stats.generate_rate > 0
    assert output.finish_reason == "length"
    assert output.text == shared.tokenizer.decode(output.token_ids, continues=True)


def test_a_list_or_tuple_gives_a_list(shared: LLM) -> None:
    prompts = [PROMPT, "the land", PROMPT]
    expected = [shared.generate(prompt, greedy()).token_ids for prompt in prompts]
    for several in (prompts, tuple(prompts), tuple(map(shared.tokenizer.encode, prompts))):
        outputs = shared.generate(several, greedy())
        assert [output.token_ids for output in outputs] == expected
    for none in ([], ()):
        assert shared.generate(none, greedy()) == []


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_token_ids_are_a_prompt(shared: LLM, kind: Callable[[list[int]], Any]) -> None:
    ids = shared.tokenizer.encode(PROMPT)
    assert ids[0] == BOS
    expected = shared.generate(PROMPT, greedy()).token_ids
    assert shared.generate(kind(ids), greedy()).token_ids == expected
    outputs = shared.generate([kind(ids), kind(ids[:3])], greedy())
    assert [len(outputs), outputs[0].token_ids] == [2, expected]
    assert outputs[1].stats.n_prompt == 3


def test_control_tokens_in_a_prompt_are_text_unless_they_are_asked_for(shared: LLM) -> None:
    text = "to be</s>the land"
    spelled, ids = shared.tokenizer.encode(text), shared.tokenizer.encode(text, parse_special=True)
    assert EOS in ids
    assert EOS not in spelled
    for options, as_ids in (({}, spelled), ({"parse_special": True}, ids)):
        expected = shared.generate(as_ids, greedy()).token_ids
        assert shared.generate(text, greedy(), **options).token_ids == expected
        assert shared.generate([text], greedy(), **options)[0].token_ids == expected
        chunks = shared.stream(text, greedy(), **options)
        assert [chunk.token_id for chunk in chunks] == [*expected, None]
        np.testing.assert_array_equal(shared.embed([text], **options), shared.embed([as_ids]))


@pytest.mark.parametrize("how", [greedy(), seeded(), seeded(max_tokens=1), greedy(max_tokens=0)])
def test_chunks_add_up_to_the_output(shared: LLM, how: SamplingParams) -> None:
    output = shared.generate(PROMPT, how)
    *chunks, last = shared.stream(PROMPT, how)
    assert "".join(chunk.text for chunk in [*chunks, last]) == output.text
    assert [chunk.token_id for chunk in chunks] == output.token_ids
    assert all(chunk.finish_reason is chunk.stats is None for chunk in chunks)
    assert last.token_id is None
    assert last.finish_reason == output.finish_reason
    assert last.stats
    assert last.stats.n_generated == len(output.token_ids)


def say(llm: LLM, monkeypatch: pytest.MonkeyPatch, text: str | list[int]) -> list[int]:
    """Have the tokens of a text be drawn, whatever the logits; returns them."""
    ids = llm.tokenizer.encode(text, add_special=False) if isinstance(text, str) else text
    tokens = iter(ids)
    monkeypatch.setattr(Sampler, "sample", lambda self, logits: next(tokens))
    return ids


def test_a_character_comes_when_it_is_whole(shared: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of "€" are a token each; of what is cut off at the end comes U+FFFD."""
    ids = [shared.tokenizer.vocabulary.ids[f"<0x{byte:02X}>"] for byte in "€".encode()]
    for n, texts in ((3, ["", "", "€", ""]), (2, ["", "", "\ufffd"])):
        say(shared, monkeypatch, ids[:n])
        chunks = shared.stream(PROMPT, greedy(max_tokens=n))
        assert [chunk.text for chunk in chunks] == texts


# ---- lists of prompts ----------------------------------------------------------------------------


def requests(n: int, seed: int = 0) -> tuple[list[list[int]], list[SamplingParams]]:
    """Prompts of odd lengths, some of which begin alike, and how to go on from each."""
    rng = random.Random(seed)
    prompts = [rng.choices(range(BOS, N_VOCAB), k=rng.randrange(1, 60)) for _ in range(n)]
    for i in range(2, n, 3):
        prompts[i] = prompts[i - 2][:20] + prompts[i][:30]
    how = [
        SamplingParams(
            seed=rng.randrange(9), temperature=rng.choice([0, 1, 1.5]), top_k=0,
            max_tokens=rng.choice([0, 1, 2, 7, 30]), repeat_penalty=rng.choice([1, 1.3]),
            ignore_eos=rng.random() < 0.5, stop=rng.choice([(), ("e",), ("an", "zz", "o")]),
        )
        for _ in range(n)
    ]  # fmt: skip
    return prompts, how


def facts(output: Output) -> tuple[Any, ...]:
    """All but the times."""
    stats = output.stats
    return (
        output.text, output.token_ids, output.finish_reason, stats.n_prompt, stats.n_generated
    )  # fmt: skip


@pytest.mark.parametrize("activations", ["int8", "f32"])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_prompt_in_a_list_gives_what_it_gives_alone(
    path: Path, n_threads: int, activations: str
) -> None:
    options = {"activations": activations, "n_threads": n_threads}
    with LLM(path, **options) as alone, LLM(path, **options) as together:  # type: ignore[arg-type]
        reasons = set()
        for n in (*range(1, 10), 25):
            prompts, how = requests(n, seed=n)
            expected = [facts(alone.generate(*pair)) for pair in zip(prompts, how, strict=True)]
            assert [facts(output) for output in together.generate(prompts, how)] == expected
            reasons |= {reason for _, _, reason, _, _ in expected}
        assert reasons == {"length", "stop"}


def test_a_list_is_decoded_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are read once for a token of each; who waits begins when the first ends."""
    passes: list[tuple[int, int]] = []
    run = Team.run

    def count(team: Team, program: Any) -> None:
        n_tokens, n_outputs = llm._session.runner.program.state[:2]
        passes.append((int(n_tokens), int(n_outputs)))
        run(team, program)

    monkeypatch.setattr(PromptPasses, "due", True)  # whatever a pass takes
    with LLM(path) as llm:
        monkeypatch.setattr(Team, "run", count)
        prompts = [[BOS, 300 + i] for i in range(10)]
        how = [greedy(max_tokens=n) for n in (9, 9, 5, 9, 9, 9, 9, 9, 4, 3)]
        outputs = llm.generate(prompts, how)
        assert [len(output.token_ids) for output in outputs] == [p.max_tokens for p in how]
        # Eight begin, in one pass. The ninth follows the third; then the tenth.
        eight, prompt = (8, 8), (2, 1)
        expected = [(16, 8), *[eight] * 4, prompt, *[eight] * 3, prompt, eight, (1, 1)]
        assert passes == expected
        assert all(output.stats.prompt_seconds > 0 for output in outputs)


def test_with_little_memory_fewer_go_on_together(
    path: Path, monkeypatch: pytest.MonkeyPatch, shared: LLM
) -> None:
    prompts, how = requests(9)
    expected = [facts(output) for output in shared.generate(prompts, how)]
    sums: set[int] = set()  # of what those under way may come to hold
    step = Scheduler.step

    def count(scheduler: Scheduler, **options: Any) -> bool:
        running = [g for g in scheduler._requests if g.sequence and not g.over]
        sums.add(sum(g.n_positions for g in running))
        return step(scheduler, **options)

    monkeypatch.setattr(Scheduler, "step", count)
    for kv_tokens in (TINY.n_ctx, 2 * TINY.n_ctx):
        sums.clear()
        with LLM(path, n_batch=16, kv_tokens=kv_tokens) as llm:
            assert [facts(output) for output in llm.generate(prompts, how)] == expected
        assert kv_tokens / 2 < max(sums) <= kv_tokens
    with pytest.raises(ValueError, match=f"kv_tokens is 5; .* from {TINY.n_ctx}"):
        LLM(path, kv_tokens=5)


@pytest.mark.parametrize("n_parallel", [1, 3, 12])
def test_as_many_go_on_together_as_is_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch, shared: LLM, n_parallel: int
) -> None:
    """And four times as many sequences stay, up to 64, or as the budget has room for."""
    prompts, how = requests(14)
    expected = [facts(output) for output in shared.generate(prompts, how)]
    most, step = 0, Scheduler.step

    def count(scheduler: Scheduler, **options: Any) -> bool:
        nonlocal most
        most = max(most, len(scheduler.running()))
        return step(scheduler, **options)

    monkeypatch.setattr(Scheduler, "step", count)
    with LLM(path, n_batch=16, n_parallel=n_parallel) as llm:
        assert [facts(output) for output in llm.generate(prompts, how)] == expected
        assert llm._session.n_slots == 4 * n_parallel
    assert most == n_parallel
    with LLM(path, n_parallel=n_parallel, kv_tokens=40 * TINY.n_ctx) as llm:
        assert llm._session.n_slots == 64
    for n in (0, 65, True):
        with pytest.raises(ValueError, match=f"n_parallel is {n}; it must be .* from 1 to 64"):
            LLM(path, n_parallel=n)


def test_outputs_of_a_list_come_as_they_end_and_progress_is_told(shared: LLM) -> None:
    how = [greedy(max_tokens=n) for n in (9, 3, 6)]
    prompts = [PROMPT, "the land", "to be"]
    expected = [shared.generate(*pair).token_ids for pair in zip(prompts, how, strict=True)]
    found = list(shared.generate_each(prompts, how))
    assert [index for index, _ in found] == [1, 2, 0]
    for index, output in found:
        assert isinstance(output, Output)
        assert output.token_ids == expected[index]
    told: list[tuple[int, int]] = []
    shared.generate(prompts, how, progress=lambda *figures: told.append(figures))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_wrong_prompt_does_not_sink_the_others(
    shared: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[Any] = [PROMPT, [], "the land", [N_VOCAB], [BOS] * (shared.n_ctx + 1), 7, "to be"]
    good = {i: shared.generate(prompts[i], greedy()) for i in (0, 2, 6)}
    found = dict(shared.generate_each(prompts, greedy()))
    assert {i: facts(o) for i, o in found.items() if isinstance(o, Output)} == {
        i: facts(output) for i, output in good.items()
    }
    wrong = {i: str(e) for i, e in found.items() if isinstance(e, ValueError)}
    assert wrong.keys() == {1, 3, 4, 5}
    assert "do not fit the context" in wrong[4]
    sample = Sampler.sample

    def fail(self: Sampler, logits: Any) -> int:
        if self._params.seed == 5:
            raise ZeroDivisionError
        return sample(self, logits)

    monkeypatch.setattr(Sampler, "sample", fail)
    how = [greedy(seed=i) for i in (4, 5, 6)]
    found = dict(shared.generate_each([prompts[0], prompts[2], prompts[6]], how))
    assert isinstance(found[1], ZeroDivisionError)
    assert [facts(found[i]) for i in (0, 2)] == [facts(good[i]) for i in (0, 6)]  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError) as caught:
        shared.generate([prompts[0], prompts[2], prompts[6]], how)
    assert caught.value.__notes__ == ["prompts[1] of 3"]


def test_a_full_context_ends_one_of_a_list(path: Path) -> None:
    ids = list(range(BOS, 33))
    with LLM(path, n_ctx=40) as llm:
        prompts = [ids, ids[:5], [*ids, *range(300, 308)]]
        outputs = llm.generate(prompts, greedy(max_tokens=None))
        assert [len(output.token_ids) for output in outputs] == [9, 36, 1]
        assert {output.finish_reason for output in outputs} == {"length"}


def test_one_wrong_prompt_in_a_list_stops_it_before_anything_is_computed(idle: LLM) -> None:
    for wrong, message in (
        ([BOS] * (idle.n_ctx + 1), f"do not fit the context of {idle.n_ctx}"),
        ([N_VOCAB], f"token id is {N_VOCAB};"),
        ([], "at least one"),
    ):
        for prompts in ([[BOS], wrong], [wrong, [BOS]]):
            with pytest.raises(ValueError, match=message) as caught:
                idle.generate(prompts)
            assert caught.value.__notes__ == [f"prompts[{prompts.index(wrong)}] of 2"]
    with pytest.raises(ValueError, match=r"params has 1 items; it must have 2, one each"):
        idle.generate([[BOS], [BOS]], [greedy()])
    with pytest.raises(ValueError, match="logit_bias"):
        idle.generate([[BOS], [BOS]], [greedy(), greedy(logit_bias={N_VOCAB: 1.0})])


def test_thousands_of_samplers_share_one_array_of_ids() -> None:
    """As many arrays of the vocabulary's size would not fit."""
    assert all_ids(100_000) is all_ids(100_000)
    held = vars(Sampler(greedy(), 100_000)).values()
    assert sum(each.nbytes for each in held if isinstance(each, np.ndarray)) < 1000


def test_an_interrupted_list_is_no_trouble(shared: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, how = requests(10)
    expected = [facts(output) for output in shared.generate(prompts, how)]
    run = Team.run
    for n in range(1, 30, 3):
        left = n

        def run_some(team: Team, program: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt
            run(team, program)

        with monkeypatch.context() as patch:
            patch.setattr(Team, "run", run_some)
            with pytest.raises(KeyboardInterrupt):
                shared.generate(prompts, how)
        assert [facts(output) for output in shared.generate(prompts, how)] == expected


# ---- progress ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_batch", "n_passes"), [(1, 13), (5, 3), (13, 1), (512, 1)])
def test_a_stream_tells_how_far_its_prompt_is(path: Path, n_batch: int, n_passes: int) -> None:
    told: list[tuple[int, int]] = []
    with LLM(path, n_batch=n_batch) as llm:
        n = len(llm.tokenizer.encode(PROMPT))
        stream = llm.stream(PROMPT, greedy(), progress=lambda *figures: told.append(figures))
        assert told == []
        ids = [chunk.token_id for chunk in stream]
        assert told == [(min(i * n_batch, n), n) for i in range(n_passes + 1)]
        llm._session.reset()
        assert [*llm.generate(PROMPT, greedy()).token_ids, None] == ids


def test_progress_may_end_a_stream(path: Path, shared: LLM) -> None:
    expected = shared.generate(PROMPT, greedy()).token_ids

    def fail(n_done: int, n_tokens: int) -> None:
        if n_done == 8:
            raise ZeroDivisionError

    with LLM(path, n_batch=4) as llm:
        with pytest.raises(ZeroDivisionError):
            next(llm.stream(PROMPT, greedy(), progress=fail))
        assert len(llm._session.ids) == 8
        assert llm.generate(PROMPT, greedy()).token_ids == expected


# ---- the end -------------------------------------------------------------------------------------


def test_max_tokens_ends_it(shared: LLM) -> None:
    expected = shared.generate(PROMPT, greedy())
    for n in (0, 1, 5):
        output = shared.generate(PROMPT, greedy(max_tokens=n))
        assert output.token_ids == expected.token_ids[:n]
        assert output.finish_reason == "length"


def test_a_full_context_ends_it(path: Path, shared: LLM) -> None:
    ids = shared.tokenizer.encode(PROMPT)
    expected = shared.generate(ids, greedy(max_tokens=50)).token_ids
    with LLM(path, n_ctx=len(ids) + 9) as llm:
        for n in (len(ids), len(ids) + 9):  # the last token takes no place
            output = llm.generate((ids + expected)[:n], greedy(max_tokens=None))
            assert output.token_ids == expected[n - len(ids) : 10]
            assert output.finish_reason == "length"
        assert llm.generate(ids, greedy(max_tokens=10)).token_ids == expected[:10]


def test_an_end_token_ends_it(tmp_path: Path, shared: LLM) -> None:
    expected = shared.generate(PROMPT, greedy()).token_ids
    n = next(n for n in range(4, 24) if expected[n] not in expected[:n])
    end = expected[n]
    path = TinyLlama(type="Q4_K", eos_id=end).write(tmp_path / "ends.gguf")
    with LLM(path) as llm:
        output = llm.generate(PROMPT, greedy(ignore_eos=False))
        assert output.token_ids == expected[:n]
        assert output.finish_reason == "stop"
        assert output.text == shared.tokenizer.decode(expected[:n], continues=True)
        output = llm.generate(PROMPT, greedy())
        assert len(output.token_ids) == 24
        assert not {end, EOS} & set(output.token_ids)


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_every_token_that_ends_a_turn_is_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ignore_eos: bool
) -> None:
    """Not only the one that the file names: "</s>", too, by its text."""
    path = TinyLlama(eos_id=400, n_layers=1).write(tmp_path / "two_ends.gguf")
    with LLM(path) as llm:
        for end in (400, EOS):
            ids = say(llm, monkeypatch, [300, 301, end, 302])
            output = llm.generate(PROMPT, greedy(max_tokens=4, ignore_eos=ignore_eos))
            assert output.token_ids == (ids if ignore_eos else ids[:2])
            assert output.finish_reason == ("length" if ignore_eos else "stop")


def test_a_stop_string_ends_it_wherever_tokens_are_cut(
    shared: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = say(shared, monkeypatch, "to the land and on.")
    pieces = [shared.tokenizer.token_bytes(token_id).decode() for token_id in ids]
    text = "".join(pieces)
    for start in range(len(text)):
        for end in (start + 1, start + 4, len(text)):
            stop = text[start:end]
            cut = text.index(stop)
            ends = np.cumsum([len(piece) for piece in pieces])
            n_needed = int(np.searchsorted(ends, cut + len(stop))) + 1
            say(shared, monkeypatch, ids)
            output = shared.generate(PROMPT, greedy(max_tokens=len(ids), stop=["never", stop]))
            assert output.text == text[:cut]
            assert output.token_ids == ids[:n_needed]
            assert output.finish_reason == "stop"


def test_what_only_begins_a_stop_string_comes_at_the_end(
    shared: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = say(shared, monkeypatch, "on and on")
    output = shared.generate(PROMPT, greedy(max_tokens=len(ids), stop=["on and one", "once"]))
    assert output.text == " on and on"
    assert output.finish_reason == "length"


def test_a_stop_string_may_come_of_bytes_cut_off_at_the_end(
    shared: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = say(shared, monkeypatch, [300, shared.tokenizer.vocabulary.ids["<0xE2>"]])
    output = shared.generate(PROMPT, greedy(max_tokens=2, stop="\ufffd"))
    assert output.text == shared.tokenizer.decode(ids[:1], continues=True)
    assert output.finish_reason == "stop"


# ---- prompts out of range ------------------------------------------------------------------------


@pytest.fixture
def idle(shared: LLM, monkeypatch: pytest.MonkeyPatch) -> LLM:
    """An LLM that must not compute anything."""

    def fail(program: Any) -> None:
        raise AssertionError("something is computed")

    monkeypatch.setattr(shared._session.runner.team, "run", fail)
    return shared


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (np.array([], int), "at least one"),
        ([BOS, N_VOCAB], f"token id is {N_VOCAB}; it must be a whole number from 0 to"),
        ([-1], "token id is -1;"),
        ([1.5], r"token id is 1\.5;"),
        ([True], "token id is True;"),
    ],
)
def test_wrong_ids_are_refused_before_anything_is_computed(
    idle: LLM, prompt: Any, message: str
) -> None:
    for call in (idle.generate, idle.stream, idle.logits):
        with pytest.raises(ValueError, match=message):
            call(prompt)


def test_a_prompt_longer_than_the_context_is_refused_before_anything_is_computed(idle: LLM) -> None:
    ids = [BOS] * (idle.n_ctx + 1)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: idle.generate(ids),
        lambda: idle.generate([[BOS] * 600]),
        lambda: idle.stream("a " * 600),
        lambda: idle.logits(ids),
    )
    for call in calls:
        with pytest.raises(ContextOverflow, match=f"do not fit the context of {idle.n_ctx}"):
            call()


def test_a_bias_for_a_token_that_is_not_there_is_refused(idle: LLM) -> None:
    with pytest.raises(ValueError, match=f"logit_bias is {N_VOCAB};"):
        idle.stream(PROMPT, greedy(logit_bias={N_VOCAB: 1.0}))


def test_half_a_surrogate_pair_in_a_prompt_is_no_trouble(shared: LLM) -> None:
    expected = shared.generate("a\ufffd", greedy()).token_ids
    assert shared.generate("a\udcff", greedy()).token_ids == expected


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *[({"n_threads": n}, f"n_threads is {n!r};.* 1 to 1024") for n in (0, -1, 1025, True, 2.0)],
        *[({"n_ctx": n}, f"n_ctx is {n!r};.* 0 to 16777216") for n in (-8, 2**24 + 1, "64")],
        *[({"n_batch": n}, f"n_batch is {n!r};.* 1 to 16384") for n in (0, -1, 16385, True, 2.5)],
        *[({"activations": a}, f"activations is {a!r};") for a in ("f16", "", None)],
    ],
)
def test_arguments_out_of_range_are_named(
    path: Path, arguments: dict[str, Any], message: str
) -> None:
    n_threads = threading.active_count()
    with pytest.raises(ValueError, match=message):
        LLM(path, **arguments)
    assert threading.active_count() == n_threads


def test_an_unknown_instruction_set_is_named(path: Path) -> None:
    with pytest.raises(ISAError, match=r"'z80': unknown; available here: .*generic"):
        LLM(path, isa="z80")


def test_what_is_not_given_follows_from_the_model(tmp_path: Path, path: Path, shared: LLM) -> None:
    assert shared.path == path
    assert shared.n_ctx == TINY.n_ctx
    assert shared.n_threads == 1  # these few bytes are not worth more
    assert shared.isa == choose_isa().name
    assert shared.activations == "int8"
    with LLM(TinyLlama(n_layers=1, n_ctx=100_000).write(tmp_path / "long.gguf")) as llm:
        assert llm.n_ctx == 8192
    with LLM(tmp_path / "long.gguf", n_ctx=0, n_batch=16) as llm:
        assert llm.n_ctx == 100_000


def test_a_context_beyond_what_the_model_was_trained_on_gives_a_warning(path: Path) -> None:
    n = TINY.n_ctx
    with pytest.warns(
        UserWarning, match=rf"n_ctx \(-c\) is {n + 1}; .* trained on {n} tokens"
    ) as w:
        LLM(path, n_ctx=n + 1).close()
    assert [warning.filename for warning in w] == [__file__]
    with warnings.catch_warnings(action="error"):
        for n_ctx in (None, n):
            LLM(path, n_ctx=n_ctx).close()


@pytest.mark.parametrize("tied", [False, True])
def test_a_token_reads_every_matrix_but_the_embedding(tmp_path: Path, tied: bool) -> None:
    tiny = TinyLlama(type="Q6_K", n_layers=1, tied=tied)
    sizes = {name: t.data.nbytes for name, t in tiny.tensors().items() if len(t.shape) == 2}
    if not tied:
        del sizes["token_embd.weight"]
    with LLM(tiny.write(tmp_path / "tiny.gguf")) as llm:
        assert llm.bytes_per_token == sum(sizes.values())
        assert llm.read_bandwidth() > 0


@pytest.mark.parametrize(
    ("name", "error"),
    [("missing", FileNotFoundError), (".", ValueError), ("garbage", ValueError)],
)
def test_a_file_that_is_no_model_is_refused(
    tmp_path: Path, name: str, error: type[Exception]
) -> None:
    (tmp_path / "garbage").write_bytes(bytes(range(256)))
    with pytest.raises(error, match=str(tmp_path)):
        LLM(tmp_path / name)


# ---- tokenizers ----------------------------------------------------------------------------------


def test_the_tokenizer_is_that_of_the_file(path: Path, shared: LLM) -> None:
    ids = shared.tokenizer.encode(PROMPT)
    assert Tokenizer.from_gguf(path).encode(PROMPT) == ids
    assert shared.tokenizer.decode(ids) == PROMPT
    assert shared.tokenizer.n_vocab == shared.config.n_vocab == N_VOCAB


def test_logits_need_no_tokenizer(tmp_path: Path, shared: LLM) -> None:
    path = TinyLlama(type="Q4_K", tokenizer="test").write(tmp_path / "mute.gguf")
    ids = [BOS, 300, 301]
    with LLM(path) as llm:
        logits = llm.logits(ids)
        assert logits.shape == (3, N_VOCAB)
        assert logits.dtype == np.float32
        assert logits.tobytes() == shared.logits(ids).tobytes()
        for prompt in (PROMPT, ids):
            with pytest.raises(TokenizerError, match="'test'"):
                llm.generate(prompt)


def test_a_vocabulary_of_another_size_is_refused(tmp_path: Path) -> None:
    tensors = TINY.tensors()
    for name in ("token_embd.weight", "output.weight"):
        data = np.concatenate([tensors[name].data, tensors[name].data[:5]])
        tensors[name] = TinyTensor(TINY.type, (N_VOCAB + 5, TINY.n_embd), data)
    with LLM(TINY.write(tmp_path / "padded.gguf", tensors)) as llm:
        assert llm.logits([N_VOCAB + 4]).shape == (1, N_VOCAB + 5)
        with pytest.raises(TokenizerError, match=f"{N_VOCAB} tokens.* {N_VOCAB + 5} rows"):
            llm.stream(PROMPT)


# ---- numbers that are none -----------------------------------------------------------------------


def poisoned(tiny: TinyLlama, name: str, value: float) -> dict[str, TinyTensor]:
    """The tensors with one number of one of them replaced; in packed blocks, one scale."""
    tensors = tiny.tensors()
    blocks = tensors[name].blocks
    field = "w" if "w" in (blocks.dtype.names or ()) else "d"
    at = BOS * len(blocks) // N_VOCAB if name == "token_embd.weight" else len(blocks) // 2
    blocks[field][at] = value
    return tensors


SMALL = [TinyLlama(type=type, n_layers=1) for type in ("F32", "Q8_0", "Q4_K", "Q6_K")]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", [name for name, _ in SMALL[0].shapes()])
@pytest.mark.parametrize("tiny", SMALL, ids=lambda tiny: tiny.type)
def test_one_number_that_is_none_is_never_silent(
    tmp_path: Path, tiny: TinyLlama, name: str, value: float
) -> None:
    path = tiny.write(tmp_path / "poisoned.gguf", poisoned(tiny, name, value))
    with LLM(path, activations="f32" if tiny.type == "Q8_0" else "int8") as llm:
        with pytest.raises(NonFiniteLogits, match="not all finite"):
            llm.logits([BOS, 300, 5])
        with pytest.raises(NonFiniteLogits, match="not all finite"):
            llm.generate([BOS, 300, 5], greedy())


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_a_token_that_is_impossible_is_not_silent_either(tmp_path: Path, value: float) -> None:
    """One of the two makes a logit of -inf, which a sampler alone would take."""
    tiny = SMALL[0]
    path = tiny.write(tmp_path / "poisoned.gguf", poisoned(tiny, "output.weight", value))
    with LLM(path) as llm, pytest.raises(NonFiniteLogits, match="not all finite"):
        llm.generate([BOS, 300, 5], greedy(max_tokens=1))


# ---- more than one at once -----------------------------------------------------------------------


def test_streams_are_read_in_turns(shared: LLM) -> None:
    prompts = [PROMPT, "the land", "to be"]
    expected = [shared.generate(prompt, seeded()).token_ids for prompt in prompts]
    streams = [shared.stream(prompt, seeded()) for prompt in prompts]
    found: list[list[int]] = [[], [], []]
    rng = random.Random(0)
    while left := [i for i, ids in enumerate(found) if len(ids) < len(expected[i])]:
        i = rng.choice(left)
        for _ in range(rng.randrange(1, 4)):
            chunk = next(streams[i], None)
            if chunk and chunk.token_id is not None:
                found[i].append(chunk.token_id)
    assert found == expected


def test_other_calls_leave_a_stream_as_it_is(shared: LLM) -> None:
    """Also one of many prompts, of which the last take the slot of a stream that nobody reads."""
    expected = shared.generate(PROMPT, seeded()).token_ids
    many = [[BOS, i] for i in range(40)]
    outputs = shared.generate(many, greedy(max_tokens=5))
    for call in (
        lambda: shared.generate("the land", greedy()),
        lambda: shared.generate(many, greedy(max_tokens=5)),
        lambda: shared.logits([BOS, 300]),
        lambda: shared.embed(["the land"]),
    ):
        stream = shared.stream(PROMPT, seeded())
        ids = [next(stream).token_id for _ in range(3)]
        result: Any = call()
        if isinstance(result, list):
            assert [facts(output) for output in result] == [facts(output) for output in outputs]
        assert [*ids, *(chunk.token_id for chunk in stream)] == [*expected, None]


def test_what_is_called_back_may_ask_for_more(shared: LLM) -> None:
    """`progress` runs between two steps; a sampler amid one, and is refused."""
    expected = [shared.generate(prompt, greedy()).token_ids for prompt in (PROMPT, "the land")]
    shared._session.reset()
    found: list[list[int]] = []

    def ask(*_: int) -> None:
        found.append(shared.generate("the land", greedy()).token_ids)

    ids = [chunk.token_id for chunk in shared.stream(PROMPT, greedy(), progress=ask)]
    assert ids == [*expected[0], None]
    assert found == [expected[1]] * 2


def test_a_sampler_cannot_ask_for_more(shared: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(_: Sampler, logits: Any) -> int:
        shared.logits([BOS, 300])  # which another session answers
        shared.generate(PROMPT)
        return int(logits.argmax())

    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "sample", sample)
        with pytest.raises(RuntimeError, match="amid a step"):
            next(shared.stream(PROMPT))
    assert shared.generate(PROMPT, greedy()).token_ids


def test_a_stream_that_is_left_is_no_trouble(shared: LLM) -> None:
    expected = shared.generate(PROMPT, seeded()).token_ids
    left = shared.stream("the land", seeded())
    next(left)
    assert shared.generate(PROMPT, seeded()).token_ids == expected
    left.close()  # type: ignore[attr-defined]
    shared.stream("never begun")
    assert shared.generate(PROMPT, seeded()).token_ids == expected


def test_an_error_of_the_one_who_reads_is_no_trouble(shared: LLM) -> None:
    expected = shared.generate(PROMPT, greedy()).token_ids

    def read() -> None:
        for chunk in shared.stream("the land", greedy()):
            raise ZeroDivisionError(chunk)

    with pytest.raises(ZeroDivisionError):
        read()
    assert shared.generate(PROMPT, greedy()).token_ids == expected


@pytest.mark.parametrize("prompts", [PROMPT, [PROMPT, "the land"]], ids=["one", "list"])
def test_an_error_of_a_sampler_reaches_the_caller(
    path: Path, monkeypatch: pytest.MonkeyPatch, prompts: str | list[str]
) -> None:
    """With its own type, and the LLM is as good as before."""

    class Odd(Exception):
        pass

    n_calls, sample = 0, Sampler.sample

    def fail(self: Sampler, logits: Any) -> int:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 4:
            raise Odd("of the sampler")
        return sample(self, logits)

    with LLM(path, n_threads=2) as llm:
        expected = llm.generate(PROMPT, greedy()).token_ids
        monkeypatch.setattr(Sampler, "sample", fail)
        with pytest.raises(Odd, match="of the sampler"):
            llm.generate(prompts, greedy())
        assert n_calls == 4
        assert llm.generate(PROMPT, greedy()).token_ids == expected


def test_threads_at_once_get_what_they_get_alone(path: Path) -> None:
    """Prompts, lists and streams of one LLM, longer than a pass, on a context that fits them."""
    with LLM(path, n_batch=16) as llm:
        lists = [requests(4, seed=seed) for seed in range(3)]
        expected = [[facts(output) for output in llm.generate(*each)] for each in lists]
        long = [BOS, *range(300, 300 + 60)]
        ids = [*llm.generate(long, greedy(max_tokens=9)).token_ids, None]
        wrong: list[Any] = []

        def generate(i: int) -> None:
            for _ in range(12):
                found = [facts(output) for output in llm.generate(*lists[i])]
                wrong.extend([found] if found != expected[i] else [])

        def stream() -> None:
            for _ in range(12):
                found = [chunk.token_id for chunk in llm.stream(long, greedy(max_tokens=9))]
                wrong.extend([found] if found != ids else [])

        threads = [threading.Thread(target=generate, args=(i,)) for i in range(3)]
        threads.append(threading.Thread(target=stream))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        assert wrong == []


def test_threads_and_tasks_share_an_llm(path: Path) -> None:
    prompts = [PROMPT, "the land", "to be", "and on", "or not", "he said"]
    with LLM(path, n_threads=2) as llm:
        expected = {prompt: facts(llm.generate(prompt, seeded())) for prompt in prompts}
        found: dict[str, list[Any]] = {prompt: [] for prompt in prompts}

        def work(prompt: str) -> None:
            for _ in range(5):
                found[prompt].append(facts(llm.generate(prompt, seeded())))

        async def tasks() -> None:
            await asyncio.gather(*(asyncio.to_thread(work, prompt) for prompt in prompts[2:]))

        threads = [threading.Thread(target=work, args=(prompt,)) for prompt in prompts[:2]]
        for thread in threads:
            thread.start()
        asyncio.run(tasks())
        for thread in threads:
            thread.join(120)
        assert found == {prompt: [expected[prompt]] * 5 for prompt in prompts}


def test_llms_at_once_do_not_disturb_each_other(path: Path, shared: LLM) -> None:
    with LLM(path, n_threads=2) as other:
        expected = [shared.generate(prompt, greedy()).token_ids for prompt in (PROMPT, "the land")]
        streams = [shared.stream(PROMPT, greedy()), other.stream("the land", greedy())]
        pairs = list(zip(*streams, strict=True))
        assert [[a.token_id for a, _ in pairs], [b.token_id for _, b in pairs]] == [
            [*ids, None] for ids in expected
        ]


# ---- closing -------------------------------------------------------------------------------------


def test_a_closed_llm_says_so(path: Path) -> None:
    with LLM(path) as llm:
        stream = llm.stream(PROMPT, greedy())
        next(stream)
    llm.close()
    calls: tuple[Callable[[], Any], ...] = (
        lambda: next(stream),
        lambda: llm.generate(PROMPT),
        lambda: llm.logits([BOS]),
        llm.read_bandwidth,
    )
    for call in calls:
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_an_llm_ends_its_threads_even_after_an_error(path: Path) -> None:
    n_threads = threading.active_count()
    with LLM(path, n_threads=3) as llm:
        assert len(llm.generate(PROMPT, greedy()).token_ids) == 24
        assert threading.active_count() == n_threads + 2
    assert threading.active_count() == n_threads
    with pytest.raises(ZeroDivisionError), LLM(path, n_threads=3):
        raise ZeroDivisionError
    assert threading.active_count() == n_threads


def test_a_forgotten_llm_ends_its_threads(path: Path) -> None:
    n_threads = threading.active_count()
    llm = LLM(path, n_threads=3)
    llm.generate(PROMPT, greedy())
    servers = [thread for thread in threading.enumerate() if thread.name.startswith("linnet-")][-2:]
    del llm
    gc.collect()
    for thread in servers:
        thread.join(60)
    assert threading.active_count() == n_threads
