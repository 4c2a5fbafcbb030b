"""`linnet chat` behind a pipe, and `generate --chat`: turns, templates, what a file suggests."""

from __future__ import annotations

import io
import json
import math
import re
import sys
import warnings
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.gguf_builder import FLOAT32, INT32, STRING
from support.tiny_llama import TinyLlama
from test_cli import Result, Run, check_refused, run

from linnet import LLM, SamplingParams
from linnet.engine.cli.conversation import Conversation
from linnet.engine.cli.main import main
from linnet.engine.cli.repl.commands import COMMANDS
from linnet.engine.sampling.params import DEFAULT_ORDER

__all__ = ["run"]  # a fixture
KEY = "tokenizer.chat_template"
TEMPLATE = """
{{- bos_token }}{{ who }}
{%- for m in messages %}
    {%- if m.role == 'system' and m.content == 'no' %}{{ raise_exception('not so') }}{% endif %}
    {{- m.role + ': ' + m.content + '</s>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}
{%- if enable_thinking is defined %}{{ 'think' if enable_thinking else 'not' }}{% endif %}"""
GREEDY = "--temp", "0", "-n", "9"
PARAMS = SamplingParams(temperature=0, max_tokens=9)


def tiny(path: Path, *metadata: tuple[str, int, Any], **sizes: Any) -> str:
    """A model with a chat template, written to `path`."""
    keys = ((KEY, STRING, TEMPLATE), *metadata)
    return str(TinyLlama(type="Q4_K", metadata=keys, **sizes).write(path))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny(tmp_path_factory.mktemp("model") / "chat.gguf")


@pytest.fixture
def chat(run: Run, path: str) -> Run:
    """Runs `linnet chat` greedily, for 9 tokens an answer, with `stdin` in a pipe."""
    return lambda *argv, stdin=b"": run("chat", "-m", path, *GREEDY, *argv, stdin=stdin)


def answers(path: str, *questions: str, system: str | None = None, **variables: Any) -> list[Any]:
    """The messages of a conversation, by the API alone."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    with LLM(path) as llm:
        for question in questions:
            messages.append({"role": "user", "content": question})
            output = llm.chat(messages, PARAMS, chat_template_kwargs=variables)
            messages.append({"role": "assistant", "content": output.text})
    return messages


def texts(messages: list[Any]) -> str:
    """What of it goes to stdout."""
    said = [m["content"] for m in messages if m["role"] == "assistant"]
    return "".join(text if text.endswith("\n") else text + "\n" for text in said)


# ---- generate --chat -----------------------------------------------------------------------------


def test_an_answer_is_printed_alone(run: Run, path: str) -> None:
    plain = answers(path, "hello")
    result = run("generate", "-m", path, *GREEDY, "--chat", "hello")
    assert (result.status, result.out) == (0, plain[-1]["content"] + "\n")
    assert result.err.startswith("prompt ")
    with_system = answers(path, "hello", system="be a bee")
    for flag in ("--system", "-sys", "--system-prompt"):
        result = run("generate", "-q", "-m", path, *GREEDY, flag, "be a bee", "hello")
        assert result == Result(0, with_system[-1]["content"] + "\n", "")
    assert plain[-1] != with_system[-1]
    assert answers(path, "hello", system="")[-1] != plain[-1]  # an empty one is one


def test_json_has_the_messages(run: Run, path: str) -> None:
    result = run("generate", "-m", path, *GREEDY, "-o", "json", "--system", "s", "hello</s>")
    fields = json.loads(result.out)
    assert fields["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "hello</s>"},
    ]
    assert "prompt" not in fields
    with LLM(path) as llm:
        assert fields["stats"]["n_prompt"] == len(llm.chat_template.encode(fields["messages"]))
        assert fields["text"] == llm.chat(fields["messages"], PARAMS).text


@pytest.mark.parametrize(
    ("flags", "variables"),
    [
        (["--reasoning", "on"], {"enable_thinking": True}),
        (["-rea", "off"], {"enable_thinking": False}),
        (["--chat-template-kwargs", '{"who": "bob"}'], {"who": "bob"}),
        (
            ["-rea", "off", "--chat-template-kwargs", '{"who": "al", "enable_thinking": true}'],
            {"who": "al", "enable_thinking": False},
        ),
    ],
)
def test_flags_reach_the_template(
    run: Run, chat: Run, path: str, flags: list[str], variables: dict[str, Any]
) -> None:
    expected = answers(path, "hello", **variables)
    assert texts(expected) != texts(answers(path, "hello"))
    assert chat(*flags, stdin=b"hello") == Result(0, texts(expected), "")
    result = run("generate", "-q", "-m", path, *GREEDY, *flags, "hello")
    assert result == Result(0, expected[-1]["content"] + "\n", "")


def test_a_template_of_a_file(run: Run, tmp_path: Path) -> None:
    bare = str(TinyLlama(type="Q4_K").write(tmp_path / "bare.gguf"))
    for command in (["chat"], ["generate", "--chat", "x"]):
        check_refused(run(*command, "-m", bare), f"{KEY} is missing", "--chat-template-file")
    template = tmp_path / "template.jinja"
    template.write_text(TEMPLATE)
    flags = "-m", bare, *GREEDY, "--chat-template-file", template
    expected = texts(answers(tiny(tmp_path / "with.gguf"), "hello"))
    assert run("chat", *flags, stdin=b"hello\n") == Result(0, expected, "")
    assert run("generate", "-q", *flags, "hello") == Result(0, expected, "")
    template.write_text("{% if %}")
    check_refused(run("chat", *flags), "--chat-template-file is malformed")
    template.unlink()
    check_refused(run("chat", *flags), "No such file", repr(str(template)))


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["chat"], ["-m", "-hf"]),
        (["chat", "-m", "MODEL", "hello", "you"], ["goes in quotes"]),
        (["chat", "-m", "MODEL", "--temp=-1"], ["--temp is -1"]),
        (["chat", "-m", "MODEL", "hello", "-p", "hello"], ["give one first message"]),
        (["chat", "-m", "MODEL", "--load", "x", "--system", "s"], ["leave --system out"]),
        (["chat", "-m", "MODEL", "--system", "no"], ["refuses the messages: not so"]),
        (["generate", "-m", "MODEL", "--system", "no", "x"], ["refuses the messages: not so"]),
        (["chat", "-m", "MODEL", "-rea", "maybe"], ["'maybe'"]),
        (["chat", "-m", "MODEL", "--chat-template-kwargs", "{"], ["'{' is not JSON"]),
        (["chat", "-m", "MODEL", "--chat-template-kwargs", "[" * 99999], ["is not JSON"]),
        (["chat", "-m", "MODEL", "--chat-template-kwargs", "[1]"], ["not a JSON object"]),
        (["chat", "-m", "MODEL", "--chat-template-kwargs", '{"messages": 1}'], ["'messages'"]),
    ],
)
def test_wrong_arguments_are_refused(
    run: Run, path: str, argv: list[str], parts: list[str]
) -> None:
    check_refused(run(*[path if word == "MODEL" else word for word in argv]), *parts)


# ---- lines from a pipe ---------------------------------------------------------------------------


def test_lines_are_turns(chat: Run, path: str) -> None:
    expected = Result(0, texts(answers(path, "hello", " and you?", "bye")), "")
    assert chat(stdin=b"hello\n and you?\nbye\n") == expected
    assert chat(stdin=b"hello\r\n\n  \n and you?\r\nbye") == expected  # the end may be amid a line
    assert chat("-c", "200", stdin=b"") == Result(0, "", "")
    system = answers(path, "hello", "bye", system="be a bee")
    assert chat("--system", "be a bee", stdin=b"hello\nbye") == Result(0, texts(system), "")


def test_a_message_of_several_lines(chat: Run, path: str) -> None:
    expected = Result(0, texts(answers(path, "one\n two\n\nthree", "four")), "")
    assert chat(stdin=b"one\\\n two\\\n\\\nthree\nfour") == expected
    assert chat(stdin=b"one\\") == Result(0, texts(answers(path, "one\n")), "")


def test_commands_are_not_sent(chat: Run, path: str) -> None:
    first, second = answers(path, "hello", system="s"), answers(path, "hello", "bye", system="s t")
    stdin = b"hello\n/reset\nhello\n/clear\nhello\n/system s t \nhello\nbye\n/exit\nhello\n"
    assert chat("--system", "s", stdin=stdin) == Result(0, texts(first * 3 + second), "")
    assert chat(stdin=b"/bye\nhello") == Result(0, "", "")
    shown = chat(stdin=b"/system\n/system s t\n/system\n/help")
    assert (shown.status, shown.out) == (0, "")
    assert shown.err.startswith("there is no system prompt\ns t\n/regen ")
    assert all(f"\n{command.names[0]} " in f"\n{shown.err}" for command in COMMANDS)


def test_what_begins_with_a_slash(chat: Run, path: str) -> None:
    result = chat(stdin=b"hello\n/usr/bin is what\nbye\n")
    assert (result.status, result.out) == (2, texts(answers(path, "hello")))
    assert "there is no command '/usr/bin' (/help lists them)" in result.err
    expected = texts(answers(path, "/usr/bin is what"))
    assert chat(stdin=b" /usr/bin is what") == Result(0, expected, "")


def test_saving_never_replaces(chat: Run, path: str, tmp_path: Path) -> None:
    file, messages = tmp_path / "a b.json", answers(path, "héllo", system="s")
    save = f"héllo\n/save {file}\n".encode()
    result = chat("--system", "s", stdin=save)
    assert result == Result(0, texts(messages), f"{str(file)!r}: 3 messages\n")
    assert json.loads(file.read_text()) == messages
    assert "héllo" in file.read_text()
    before = file.read_bytes()
    result = chat(stdin=save)
    assert (result.status, result.err) == (2, f"linnet: {str(file)!r}: File exists\n")
    assert file.read_bytes() == before
    check_refused(chat(stdin=b"/save x"), "nothing to save")
    check_refused(chat("--system", "s", stdin=b"/save"), "/save FILE")
    missing = tmp_path / "missing" / "x"
    check_refused(chat("--system", "s", stdin=f"/save {missing}".encode()), "No such file")


def test_a_save_that_fails_leaves_no_file(path: str, tmp_path: Path) -> None:
    with LLM(path) as llm:
        conversation = Conversation(llm, PARAMS, system="s")
        file = tmp_path / "x.json"
        opened = Path.open

        class Full(io.BytesIO):
            def flush(self) -> None:
                raise OSError(28, "No space left on device")

        def open_full(path: Path, mode: str) -> Any:
            opened(path, mode).close()
            return Full()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "open", open_full)
            with pytest.raises(OSError, match="No space left"):
                conversation.save(file)
        assert not file.exists()


def test_lines_that_are_no_text(chat: Run, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = chat(stdin=b"hello\n\xff\n")
    assert (result.status, result.out) == (2, texts(answers(path, "hello")))
    assert result.err.startswith("linnet: line 2 of stdin is not text in UTF-8")
    monkeypatch.setattr("linnet.engine.cli.repl.turns.MOST_BYTES", 1 << 20)
    check_refused(chat(stdin=b"a" * (1 << 20) + b"\n"), "line 1 of stdin has more than 1 MiB")
    check_refused(chat(stdin=b"a" * (1 << 20)), "tokens do not fit the context of 256", "-c")


def test_a_stdin_that_is_closed_has_no_lines(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["chat", "-m", path]) == 0


def test_a_full_context_is_said_and_refuses_the_next(run: Run, path: str) -> None:
    argv = "chat", "-m", path, "-c", "40", "--ignore-eos", "--temp", "0"
    result = run(*argv, stdin=b"hello\nhello\n")
    assert result.status == 2
    full, refused = result.err.splitlines()
    assert full == "(the context of 40 tokens is full: give a larger one (-c), or /reset)"
    assert re.fullmatch(r"linnet: \d\d tokens do not fit the context of 40: .*\(-c\)", refused)
    again = run(*argv, stdin=b"hello\n/reset\nhello\n")
    assert (again.status, again.out) == (0, result.out * 2)


def test_an_interrupt_ends_a_pipe(chat: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LLM, "stream_chat", interrupt)
    assert chat(stdin=b"hello\nhello").status == 130


# ---- the conversation ----------------------------------------------------------------------------


def test_a_turn_computes_what_is_new(path: str) -> None:
    """The cache has the last prompt; an answer is computed anew, as part of the next one."""
    with LLM(path) as llm, LLM(path) as other:
        conversation = Conversation(llm, PARAMS)
        before: list[int] = []
        for question in ("hello", "and you", "and then?"):
            ids = llm.chat_template.encode(conversation.asked(question))
            *_, last = conversation.ask(question)
            assert last.stats is not None
            assert last.stats.n_prompt == len(ids)
            same = list(takewhile(lambda pair: pair[0] == pair[1], zip(before, ids, strict=False)))
            assert last.stats.n_cached == len(same)
            assert len(before) - 2 <= len(same)  # "assistant: " may merge with the answer
            before = ids
            *messages, answer = conversation.messages
            assert other.chat(messages, PARAMS).text == answer["content"]
        conversation.begin("s")
        *_, last = conversation.ask("hello")
        assert last.stats is not None
        assert last.stats.n_cached == 0  # so little in common is computed again


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(path: str) -> None:
    with LLM(path) as llm:
        conversation = Conversation(llm, SamplingParams(temperature=0, ignore_eos=True))
        chunks = conversation.ask("hello")
        text = next(chunks).text + next(chunks).text + next(chunks).text
        chunks.close()
        assert conversation.messages == [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": text},
        ]
        before = conversation.messages
        with pytest.raises(ValueError, match="do not fit"):
            next(conversation.ask("hello" * 99))
        assert conversation.messages is before
        stopped = conversation.ask("more", progress=lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(stopped)
        assert conversation.messages is before
        with pytest.raises(ValueError, match="not so"):
            conversation.begin("no")
        assert conversation.messages is before


def test_an_answer_without_a_character_is_one(tmp_path: Path) -> None:
    tensors = TinyLlama(type="F32").tensors()
    tensors["output.weight"].blocks["w"].reshape(-1, 256)[:] = 0.0
    model = TinyLlama(type="F32", eos_id=0, metadata=((KEY, STRING, TEMPLATE),))
    with LLM(model.write(tmp_path / "mute.gguf", tensors)) as llm:  # of equal logits, id 0 is taken
        conversation = Conversation(llm, PARAMS)
        (last,) = conversation.ask("hello")
        assert (last.text, last.finish_reason) == ("", "stop")
        assert conversation.messages[-1] == {"role": "assistant", "content": ""}


# ---- what a file suggests ------------------------------------------------------------------------

SUGGESTED = (
    ("general.sampling.temp", FLOAT32, 0.5),
    ("general.sampling.top_k", INT32, 17),
    ("general.sampling.top_p", FLOAT32, 0.75),
    ("general.sampling.min_p", FLOAT32, 0.25),
    ("general.sampling.penalty_repeat", FLOAT32, 1.5),
    ("general.sampling.penalty_last_n", INT32, -1),
    ("general.sampling.xtc_probability", FLOAT32, 0.5),
    ("general.sampling.xtc_threshold", FLOAT32, 0.25),
    ("general.sampling.mirostat", INT32, 2),
    ("general.sampling.mirostat_tau", FLOAT32, 4.5),
    ("general.sampling.mirostat_eta", FLOAT32, 0.25),
    ("general.sampling.sequence", STRING, "top_k;temp"),
)
IN_OUR_WORDS = {
    "temperature": 0.5, "top_k": 17, "top_p": 0.75, "min_p": 0.25, "repeat_penalty": 1.5,
    "repeat_last_n": -1, "xtc_probability": 0.5, "xtc_threshold": 0.25, "mirostat": 2,
    "mirostat_tau": 4.5, "mirostat_eta": 0.25, "samplers": ("top_k", "temperature"),
}  # fmt: skip


def test_a_file_suggests_parameters(
    run: Run, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suggests = tiny(tmp_path / "suggests.gguf", *SUGGESTED)
    with LLM(suggests) as llm:
        assert llm.sampling_params() == SamplingParams(**IN_OUR_WORDS)
        given = llm.sampling_params(top_k=0, seed=3)
        assert given == SamplingParams(**{**IN_OUR_WORDS, "top_k": 0, "seed": 3})
        with pytest.raises(TypeError, match="topk"):
            llm.sampling_params(topk=3)
    with LLM(path) as llm:
        assert llm.sampling_params() == SamplingParams()

    seen: list[SamplingParams] = []
    sampler = "linnet.engine.running.generation.Sampler"
    made = sys.modules["linnet.engine.running.generation"].Sampler  # type: ignore[attr-defined]

    def watched(params: SamplingParams, *args: Any, **options: Any) -> Any:
        seen.append(params)
        return made(params, *args, **options)

    monkeypatch.setattr(sampler, watched)
    plain, warm = SamplingParams(max_tokens=1), SamplingParams(**IN_OUR_WORDS, max_tokens=1)
    with LLM(suggests, n_ctx=20) as llm:
        llm.generate("a")
        llm.generate(["a", "b"], [plain, plain])
        next(llm.stream("a"))
        next(llm.stream_chat([{"role": "user", "content": "a"}]))
    suggestion = SamplingParams(**IN_OUR_WORDS)
    assert seen == [suggestion, plain, plain, suggestion, suggestion]
    seen.clear()
    run("generate", "-m", suggests, "-n", 1, "a")
    run("generate", "-m", suggests, "-n", 1, "--chat", "--top-k", 40, "a")
    run("chat", "-m", suggests, "-n", 1, "--temp", 0.8, stdin=b"a\n")
    assert seen == [
        warm,
        SamplingParams(**{**IN_OUR_WORDS, "top_k": 40, "max_tokens": 1}),
        SamplingParams(**{**IN_OUR_WORDS, "temperature": 0.8, "max_tokens": 1}),
    ]


OFF = {
    "temp": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "xtc_probability": 0.0,
    "xtc_threshold": 1.0, "penalty_repeat": 1.0, "mirostat": 0,
}  # fmt: skip
FIELDS = {"temp": "temperature", "penalty_repeat": "repeat_penalty", "sequence": "samplers"}


@pytest.mark.parametrize("key", OFF)
@pytest.mark.parametrize("kind", [int, float])
def test_a_suggestion_of_minus_1_is_off(key: str, kind: type, recwarn: Any) -> None:
    params = SamplingParams.from_metadata({f"general.sampling.{key}": kind(-1)})
    assert getattr(params, FIELDS.get(key, key)) == OFF[key]
    assert not recwarn


@pytest.mark.parametrize(
    ("key", "value", "taken", "message"),
    [
        ("penalty_repeat", 0.0, 1.0, r"penalty_repeat is 0\.0; it must be .*; 1 is taken"),
        ("top_p", 2, 1.0, "top_p is 2; it must be a number from 0 to 1; 1 is taken, which is off"),
        ("min_p", -0.5, 0.0, "min_p is -0.5; .*; 0 is taken"),
        ("mirostat", 1, 0, "mirostat is 1; it must be 0, .*; 0 is taken"),
        ("temp", math.nan, 0.8, "left out: .*temp is nan; it must be a number"),
        ("temp", "hot" * 99, 0.8, "left out: .*temp is 'hot.*; it must be a number"),
        ("top_k", True, 40, "left out: .*top_k is True"),
        ("top_k", np.array([1, 2]), 40, "left out: .*top_k is .*; it must be an integer"),
        ("penalty_last_n", -2, 64, "left out: .*penalty_last_n is -2; it must be an integer from"),
        (
            "sequence",
            "top_k;top_x",
            DEFAULT_ORDER,
            r"left out: .*sequence\[1\] is 'top_x'; it must",
        ),
        ("sequence", 7, DEFAULT_ORDER, "left out: .*sequence is 7; it must be at most 100 names"),
    ],
)
def test_a_bad_suggestion_is_a_warning_unless_overruled(
    key: str, value: Any, taken: Any, message: str
) -> None:
    metadata = {f"general.sampling.{key}": value}
    field = {"penalty_last_n": "repeat_last_n", **FIELDS}.get(key, key)
    with pytest.warns(UserWarning, match=message) as caught:
        assert getattr(SamplingParams.from_metadata(metadata), field) == taken
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SamplingParams.from_metadata(metadata, **{field: taken})


def test_a_bad_suggestion_does_not_end_generate(run: Run, tmp_path: Path) -> None:
    path = tiny(tmp_path / "odd.gguf", ("general.sampling.sequence", STRING, "top_k;top_x"))
    with pytest.warns(UserWarning, match=r"general\.sampling\.sequence\[1\] is 'top_x'"):
        assert run("generate", "-m", path, "-n", 1, "a").status == 0
