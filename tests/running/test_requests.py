"""Requests that ask for what cannot be, or end early: each has its error, the next works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_llama import BOS, N_VOCAB, TinyLlama

from linnet import LLM, ContextOverflow, Interrupted, SamplingParams
from linnet.engine.chat.template import ChatTemplate
from linnet.engine.cli.main import main
from linnet.engine.running.generation import Generation
from linnet.engine.sampling.chain import Sampler

PROMPT = "once upon a time"
GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyLlama(type="Q4_K").write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def llm(path: Path) -> Iterator[LLM]:
    with LLM(path, n_threads=2, n_batch=8) as llm:
        yield llm


@pytest.fixture
def usable(llm: LLM) -> Iterator[None]:
    """Whatever the test does, the same request gives the same tokens before and after."""
    expected = llm.generate(PROMPT, GREEDY).token_ids
    n_threads = threading.active_count()
    yield
    assert llm.generate(PROMPT, GREEDY).token_ids == expected
    assert threading.active_count() == n_threads


# ---- what is asked for ---------------------------------------------------------------------------


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize("prompt", [None, 5, b"abc", bytearray(b"abc"), {"a": 1}, {1}, iter([1])])
def test_what_is_no_prompt_is_refused(llm: LLM, prompt: Any) -> None:
    message = "prompt is .*; it must be a text or a list of token ids"
    for call in (llm.generate, llm.stream, lambda p: llm.generate([PROMPT, p])):
        with pytest.raises(ValueError, match=message):
            call(prompt)


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize("ids", [[None], ["a", 5], [[1]], [2**70], [np.float32(1)], [-(2**70)]])
def test_ids_of_any_kind_are_checked(llm: LLM, ids: Any) -> None:
    with pytest.raises(ValueError, match=f"token id is .*; it must be a whole .* to {N_VOCAB - 1}"):
        llm.stream(ids)


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize("params", [{"top_k": 1}, "greedy", 0, [GREEDY, None]])
def test_what_are_no_parameters_is_refused(llm: LLM, params: Any) -> None:
    with pytest.raises(ValueError, match="params"):
        llm.generate(PROMPT, params)


def test_an_overflow_says_how_much_by(llm: LLM) -> None:
    with pytest.raises(ContextOverflow) as caught:
        llm.stream([BOS] * (llm.n_ctx + 7))
    assert (caught.value.n_tokens, caught.value.n_ctx) == (llm.n_ctx + 7, llm.n_ctx)


def test_an_empty_text_is_the_beginning_of_one(llm: LLM) -> None:
    assert llm.tokenizer.vocabulary.add_bos
    assert llm.generate("", GREEDY).token_ids == llm.generate([BOS], GREEDY).token_ids


@pytest.mark.parametrize("text", ["\0", "a\0b", "\x1b[31m", "\ud800", "\udcff\ud83d", "\U0010ffff"])
def test_any_characters_are_a_prompt(llm: LLM, text: str) -> None:
    ids = llm.tokenizer.encode(text, add_special=False)
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert llm.tokenizer.decode(ids).removeprefix(" ") == expected
    assert llm.generate(text, GREEDY).stats.n_generated == 8


@pytest.mark.usefixtures("usable")
def test_thousands_of_stop_strings_are_looked_for(llm: LLM) -> None:
    whole = llm.generate(PROMPT, GREEDY).text
    stop = [f"{i} does not come" for i in range(10_000)]
    assert llm.generate(PROMPT, SamplingParams(**GREEDY_FIELDS, stop=stop)).text == whole
    stop[5000] = whole[3:5]
    output = llm.generate(PROMPT, SamplingParams(**GREEDY_FIELDS, stop=stop))
    assert (output.text, output.finish_reason) == (whole[: whole.index(whole[3:5])], "stop")


GREEDY_FIELDS: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize("messages", [None, "hello", {"role": "user"}, 5, iter([{"role": "user"}])])
def test_messages_are_a_list(llm: LLM, messages: Any) -> None:
    template = ChatTemplate("{{ messages }}", llm.tokenizer)
    with pytest.raises(ValueError, match=r"messages is .*; it must be a list such as"):
        template.encode(messages)


def test_messages_that_hold_themselves_are_refused(llm: LLM) -> None:
    content: list[Any] = []
    content.append(content)
    with pytest.raises(ValueError, match="nested too deeply"):
        ChatTemplate("x", llm.tokenizer).render([{"role": "user", "content": content}])


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["-c", str(10**30)], "argument -c/--ctx-size: "),
        (["-n", str(10**30)], "-n is"),
        (["-s", str(2**64)], "-s is"),
        (["-b", "0"], "argument -b/-ub/--batch-size/--ubatch-size: '0' is not"),
        (["-t", "1025"], "argument -t/--threads: '1025' is not"),
        (["--top-k=-2"], "--top-k is"),
        (["--min-p", "nan"], "--min-p is"),
        (["--temp", "inf"], "--temp is"),
        (["--temp", "1e308"], "--temp is"),
        (["--repeat-penalty", "0"], "--repeat-penalty is"),
        (["--repeat-last-n=-2"], "--repeat-last-n is"),
        (["--samplers", "top_k;x"], "--samplers[1] is 'x'; it must be one of penalties, dry"),
        (["--mirostat", "1"], "--mirostat is 1; it must be 0, which is off, or 2"),
        (["--dry-sequence-breaker", "a" * 41], "--dry-sequence-breaker[0]"),
        (["--stop", "a" * 1_000_001], "--stop has 1000001 characters"),
    ],
)
def test_commands_refuse_the_same_in_a_line(
    path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], name: str
) -> None:
    assert main(["generate", "-m", str(path), *flags, "x"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"linnet: {name}")
    assert len(err) < 200
    assert err.count("\n") == 1


def test_an_argument_that_is_no_text_is_a_prompt(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes that are not UTF-8 come as halves of surrogate pairs."""
    assert main(["generate", "-m", str(path), "-q", "-n", "1", "a\udcff"]) == 0
    assert capsys.readouterr().out.startswith("a")


# ---- what goes wrong on the way ------------------------------------------------------------------


class Broken(Exception):
    """What nobody but the test catches."""


def fail(*_: object) -> Any:
    raise Broken


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize(
    ("owner", "name"),
    [(Sampler, "sample"), (Sampler, "accept"), (Generation, "draw")],
)
def test_an_error_of_a_sampler_reaches_the_caller(
    llm: LLM, monkeypatch: pytest.MonkeyPatch, owner: type, name: str
) -> None:
    prompts = [PROMPT, "to be", "the land"]
    expected = [output.token_ids for output in llm.generate(prompts, GREEDY)]
    with monkeypatch.context() as patch:
        function, n_calls = getattr(owner, name), 0

        def fail_later(*arguments: Any, **options: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            return function(*arguments, **options) if n_calls < 3 else fail()

        patch.setattr(owner, name, fail_later)
        with pytest.raises(Broken):
            llm.generate(prompts, GREEDY)
    assert [output.token_ids for output in llm.generate(prompts, GREEDY)] == expected


@pytest.mark.usefixtures("usable")
def test_an_error_of_progress_reaches_the_caller_at_any_pass(llm: LLM) -> None:
    for n in range(4):
        llm._session.reset()
        told: list[int] = []

        def progress(n_done: int, _: int, n: int = n, told: list[int] = told) -> None:
            told.append(n_done)
            if len(told) > n:
                raise Broken

        with pytest.raises(Broken):
            list(llm.stream([BOS] * 30, GREEDY, progress=progress))
        assert told == [0, 8, 16, 24][: n + 1]


# ---- stopping ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("usable")
def test_a_stop_between_two_tokens_is_heard(llm: LLM) -> None:
    stream = llm.stream(PROMPT, GREEDY)
    next(stream)
    llm.stop()
    with pytest.raises(Interrupted, match="stopped"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)


@pytest.mark.usefixtures("usable")
def test_a_stop_amid_a_prompt_is_heard_between_passes(llm: LLM) -> None:
    llm._session.reset()
    stream = llm.stream([BOS] * 30, GREEDY, progress=lambda n, _: llm.stop() if n == 16 else None)
    with pytest.raises(Interrupted):
        next(stream)
    assert 16 in [len(sequence.ids) for sequence in llm._session.sequences]


@pytest.mark.usefixtures("usable")
def test_a_stop_is_for_all_of_a_list(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here as the first token of the first is drawn, before the second prompt."""
    sample = Sampler.sample
    monkeypatch.setattr(Sampler, "sample", lambda *a: (llm.stop(), sample(*a))[1])
    with pytest.raises(Interrupted):
        llm.generate([PROMPT, "to be"], GREEDY)
    monkeypatch.undo()


def test_a_stop_while_nothing_is_under_way_stops_nothing(llm: LLM) -> None:
    expected = llm.generate(PROMPT, GREEDY).token_ids
    llm.stop()
    assert llm.generate(PROMPT, GREEDY).token_ids == expected
    stream = llm.stream(PROMPT, GREEDY)  # which has not begun
    llm.stop()
    assert len(list(stream)) == 9


def test_slow_tokens_are_led_by_a_thread_that_ctrl_c_need_not_wait_for(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = llm.generate(PROMPT, GREEDY).token_ids
    leaders: list[bool] = []
    run = llm._session.runner.team.run

    def note(program: Any) -> None:
        leaders.append(threading.current_thread() is threading.main_thread())
        run(program)

    monkeypatch.setattr(llm._session.runner.team, "run", note)
    for seconds, in_main in ((0.0, False), (60.0, True)):
        monkeypatch.setattr("linnet.engine.running.lease.SLOW", seconds)
        leaders.clear()
        assert llm.generate(PROMPT, GREEDY).token_ids == expected
        assert leaders[-6:] == [in_main] * 6


@pytest.mark.usefixtures("usable")
def test_a_thousand_streams_that_are_left_leave_nothing(llm: LLM) -> None:
    ends: list[Callable[[Any], object]] = [lambda stream: stream.close(), lambda _: llm.stop()]
    for n in range(1000):
        stream = llm.stream([BOS, 5 + n % 7], GREEDY)
        next(stream)
        ends[n % 2](stream)
