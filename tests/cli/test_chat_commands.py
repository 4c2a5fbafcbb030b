"""The commands of `linnet chat`, which work behind a pipe as they do at a terminal."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.gguf_builder import STRING
from test_chat_cli import GREEDY, PARAMS, answers, texts, tiny
from test_cli import Result, Run, check_refused, run

from linnet import LLM, SamplingParams
from linnet.engine.cli.conversation import Conversation
from linnet.engine.cli.options import add_sampling, sampling_fields
from linnet.engine.cli.parser import Parser
from linnet.engine.cli.reading import add_escape
from linnet.engine.cli.repl.chat import Chat
from linnet.engine.cli.repl.commands import BY_NAME, COMMANDS
from linnet.engine.cli.repl.greeting import greeting
from linnet.engine.cli.repl.painter import Painter
from linnet.engine.cli.repl.settings import FIELDS, NAMES, WITHOUT, field_named, shown, value_of

__all__ = ["run"]  # a fixture


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny(tmp_path_factory.mktemp("model") / "chat.gguf")


@pytest.fixture
def chat(run: Run, path: str) -> Run:
    """Runs `linnet chat` greedily, for 9 tokens an answer, with lines in a pipe."""
    return lambda *lines, argv=(): run(
        "chat", "-m", path, *GREEDY, *argv, stdin="\n".join(map(str, lines)).encode()
    )


# ---- turns ---------------------------------------------------------------------------------------


def test_a_first_message(chat: Run, run: Run, path: str) -> None:
    expected = Result(0, texts(answers(path, "hello\nyou", "bye")), "")
    for first in (["hello\\nyou"], ["-p", "hello\\nyou"]):
        assert chat("bye", argv=first) == expected


def test_another_answer(chat: Run, path: str) -> None:
    one, two, three = (texts([message]) for message in answers(path, "one", "two", "three")[1::2])
    assert chat("one", "two", "/regen", "three") == Result(0, one + two + two + three, "")
    with LLM(path) as llm:
        conversation = Conversation(llm, SamplingParams(temperature=2.0, max_tokens=20))
        for _ in conversation.ask("hello"):
            pass
        found = []
        for _ in range(3):
            for _ in conversation.ask_again():
                pass
            question, answer = conversation.messages
            assert question == {"role": "user", "content": "hello"}
            found.append(answer["content"])
        assert len(set(found)) == 3  # without a seed, it is another one


def test_the_last_message_is_changed_or_forgotten(chat: Run, path: str) -> None:
    one, other = texts(answers(path, "one")), answers(path, "one", "other")
    changed = texts(answers(path, "one", "two")) + texts(other[3:])
    assert chat("one", "two", "/edit other") == Result(0, changed, "")
    undone = "(forgotten: the last message and its answer)\n"
    assert chat("one", "/undo", "one", "/undo") == Result(0, one * 2, undone * 2)
    for command in ("/undo", "/regen", "/edit x"):
        check_refused(chat(command), "nothing was said yet")
    assert "/edit TEXT" in chat("one", "/edit").err


def test_until_another_answer_comes_the_old_one_stays(path: str) -> None:
    with LLM(path) as llm:
        conversation = Conversation(llm, PARAMS)
        for _ in conversation.ask("hello"):
            pass
        before = conversation.messages
        for again in (
            conversation.ask_again(progress=lambda *_: 1 / 0),
            conversation.ask_again("other", progress=lambda *_: 1 / 0),
        ):
            with pytest.raises(ZeroDivisionError):
                next(again)
            assert conversation.messages is before


def test_files_go_before_the_next_message(chat: Run, path: str, tmp_path: Path) -> None:
    one, two, empty = tmp_path / "a b", tmp_path / "two", tmp_path / "empty"
    one.write_text("/one\n\nlines\n\n")
    two.write_text("twö")
    empty.touch()
    expected = texts(answers(path, "/one\n\nlines\n\n\ntwö\n\nhello", "bye"))
    result = chat(f"/read {one}", f"/read  {two} ", "", "hello", "bye")
    assert (result.status, result.out) == (0, expected)
    assert result.err == (
        f"{str(one)!r}: 12 characters, which go before your next message\n"
        f"{str(two)!r}: 3 characters, which go before your next message\n"
    )
    for forget in ("/undo", "/reset"):
        assert chat(f"/read {one}", forget, "hello").out == texts(answers(path, "hello"))
    check_refused(chat(f"/read {empty}"), "is empty")
    check_refused(chat(f"/read {tmp_path}"), "Is a directory")
    check_refused(chat("/read"), "/read FILE")
    one.write_bytes(b"\xff")
    check_refused(chat(f"/read {one}"), "not text in UTF-8")


def test_what_was_read_is_asked_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with LLM(path) as llm:
        chat = Chat(Conversation(llm, PARAMS), {}, LLM)
        chat.read("a file")
        with pytest.raises(ValueError, match="do not fit"):
            chat.ask("hello" * 99)
        monkeypatch.setattr(Painter, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            chat.ask("hello")
        assert chat.conversation.question == "a file\n\nhello"
        assert chat.undo() == "the last message and its answer"
        assert chat.conversation.messages == []


# ---- saved conversations -------------------------------------------------------------------------


def test_what_was_saved_goes_on(chat: Run, run: Run, path: str, tmp_path: Path) -> None:
    file, other = tmp_path / "a b.json", tmp_path / "other.json"
    assert chat("one", "two", f"/save {file}", argv=("--system", "s")).status == 0
    expected = answers(path, "one", "two", "three", system="s")
    three, said = texts(expected[-1:]), f"{str(file)!r}: 5 messages\n"
    assert chat("four", f"/load {file}", "three").out.endswith(three)
    assert chat(f"/load {file}", "three") == Result(0, three, said)
    result = chat("three", f"/save {other}", argv=("--load", file))
    assert (result.status, result.out) == (0, three)
    assert json.loads(other.read_text()) == expected
    assert chat(f"/load {file}", "/regen").out == texts(expected[4:5])
    file.write_text(json.dumps(expected[:2]))  # the last one was not answered
    assert chat(f"/load {file}", "/regen").out == texts(expected[2:3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[" * 99999, "is not JSON"),
        ("\udcff", "not text in UTF-8"),
        ("{}", "not a list of messages"),
        ("[]", "not a list of messages"),
        ('[{"content": "x"}]', "not a list of messages"),
        ('[{"role": "user"}]', "not a list of messages"),
        ('[{"role": 1, "content": "x"}]', "not a list of messages"),
        ('[{"role": "system", "content": "no"}]', "not so"),
    ],
)
def test_what_cannot_be_loaded_changes_nothing(
    chat: Run, path: str, tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content.encode(errors="surrogateescape"))
    check_refused(chat(f"/load {file}"), message)
    check_refused(chat(argv=("--load", file)), message)
    with LLM(path) as llm:
        conversation = Conversation(llm, PARAMS, system="s")
        with pytest.raises(ValueError, match=message):
            conversation.load(file)
        assert conversation.messages == [{"role": "system", "content": "s"}]


# ---- settings ------------------------------------------------------------------------------------

SET = {  # a value other than the default, as one would write it, by the field; else 0.5
    "max_tokens": "7", "samplers": "top_k;temperature", "top_k": "3", "top_n_sigma": "-1",
    "repeat_penalty": "1.5", "repeat_last_n": "-1", "dry_base": "2", "dry_allowed_length": "3",
    "dry_penalty_last_n": "-1", "dry_sequence_breakers": "\\n", "mirostat": "2", "seed": "7",
    "stop": "a b", "min_tokens": "2", "json_schema": '{"type": "null"}', "regex": "a+",
    "choice": "yes or no", "logit_bias": "5+1.5", "grammar": 'root ::= "a"',
}  # fmt: skip


@pytest.mark.parametrize("field", NAMES)
def test_a_parameter_is_what_its_flag_makes_of_it(field: str) -> None:
    parser = Parser()
    add_escape(parser)
    add_sampling(parser, without=WITHOUT)
    name, is_switch = NAMES[field], value_kind(parser, NAMES[field]) == 0
    text = "on" if is_switch else SET.get(field, "0.5")
    by_flag = sampling_fields(parser.parse([f"--{name}", *([] if is_switch else [text])]))
    params = SamplingParams(**{field: value_of(field, text)})
    assert params == SamplingParams(**by_flag)
    again = value_of(field, shown(params, field)) if field != "json_schema" else params.json_schema
    if field not in ("dry_sequence_breakers", "stop", "choice"):
        assert SamplingParams(**{field: again}) == params
    assert {field_named(flag) for flag, found in FIELDS.items() if found == field} == {field}
    assert field_named(field) == field_named(f"--{name}") == field


def value_kind(parser: argparse.ArgumentParser, name: str) -> Any:
    """How many values a flag takes: None for one."""
    return next(a.nargs for a in parser._actions if f"--{name}" in a.option_strings)


def test_a_parameter_is_set(chat: Run, path: str) -> None:
    with LLM(path) as llm:
        messages = [{"role": "user", "content": "hello"}]
        short = llm.chat(messages, PARAMS, max_tokens=3).text + "\n"
        drawn = llm.chat(messages, PARAMS, temperature=1.5, seed=3).text + "\n"
    result = chat("/set predict 3", "hello", "/reset", "/set -n-predict 9", "/set --temp 1.5",
                  "/set seed 3", "hello", "/set temperature")  # fmt: skip
    assert (result.status, result.out) == (0, short + drawn)
    assert result.err == (
        "n-predict 3\nn-predict 9\ntemp 1.5\nseed 3\n"
        "temp 1.5 (by default the model's, or 0.8; 0 is greedy)\n"
    )
    shows = chat("/set stop a b", "/set ignore-eos on", "/set special off", "/params").err
    assert shows.startswith("stop 'a b'\nignore-eos on\nspecial off\nn-predict 9, samplers pen")
    assert ", stop 'a b', min-tokens 0, ignore-eos on, special off, " in shows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/set", "/set NAME [VALUE]"),
        ("/set tmep 1", "there is no parameter 'tmep' (close: temp)"),
        ("/set temp hot", "temperature is 'hot'; it must be a number from 0 to 100"),
        ("/set temp -1", "temperature is -1.0; it must be"),
        ("/set ignore-eos yes", "ignore-eos is 'yes'; it must be on or off"),
        ("/set json-schema {", "json_schema is no JSON"),
        ("/set logprobs 1", "there is no parameter 'logprobs'"),
        ("/stats maybe", "on or off"),
        ("/stats", "no answer yet"),
        ("/hlep", "there is no command '/hlep' (close: /help"),
        ("/model /no/such.gguf", "'/no/such.gguf': No such file"),
    ],
)
def test_wrong_commands_are_refused(chat: Run, text: str, message: str) -> None:
    check_refused(chat(text), message)


def test_figures_of_an_answer(chat: Run) -> None:
    shown = chat("hello", "/STATS", "/stats on", "hello", "/stats off", "hello").err
    assert re.fullmatch(
        r"prompt \d+ tokens, 0 of them cached, [\d.]+ tok/s, [\d.]+ s\n"
        r"answer 9 tokens, [\d.]+ tok/s[^\n]*\n"
        r"context \d+ of 256 tokens, compiling took [\d.]+ s in all\n"
        r"\[ 9 tokens, [\d.]+ tok/s \]\n",
        shown,
    )


def test_commands_have_several_names() -> None:
    assert len(BY_NAME) == sum(len(command.names) for command in COMMANDS)
    assert {"/quit", "/bye", "/?", "/clear"} < BY_NAME.keys()


# ---- models --------------------------------------------------------------------------------------


def test_another_model_goes_on(chat: Run, path: str, tmp_path: Path) -> None:
    """With the conversation and what was set, and what it suggests itself for the rest."""
    suggests = ("general.sampling.sequence", STRING, "temperature"), ("general.name", STRING, "B")
    other = tiny(tmp_path / "a b.gguf", *suggests, seed=1)
    first, one = answers(path, "hello")
    with LLM(other) as llm:
        asked = [first, one, {"role": "user", "content": "bye"}]
        two = llm.chat(asked, llm.sampling_params(temperature=0, max_tokens=9)).text
    result = chat("hello", f"/model {other}", "bye", "/set samplers", "/model")
    assert (result.status, result.out) == (0, texts([one]) + texts([{**one, "content": two}]))
    lines = result.err.splitlines()
    assert re.fullmatch(r"B: llama [\d.]+M Q4_K, a context of 256 tokens", lines[0])
    assert lines[1].startswith("samplers temperature (")
    assert lines[2] == lines[0]


def test_a_model_that_takes_no_part_changes_nothing(chat: Run, path: str, tmp_path: Path) -> None:
    (tmp_path / "none.gguf").write_bytes(b"GGUF")
    refuses = tiny(tmp_path / "refuses.gguf")
    check_refused(chat(f"/model {tmp_path / 'none.gguf'}"), "none.gguf")
    check_refused(chat(f"/model {tmp_path}"), "a folder; in it")
    with LLM(path, chat_template="{{ messages }}") as llm, LLM(refuses) as other:
        conversation = Conversation(llm, PARAMS, system="no")
        with pytest.raises(ValueError, match="not so"):
            conversation.move(other, PARAMS)
        assert conversation.llm is llm


@pytest.mark.parametrize(
    ("name", "shown_as"),
    [("A Model", "A Model"), (" ", "x.gguf"), ("e\x1b[31m\nvil" * 99, r"e\x1b[31m vile")],
)
def test_a_greeting(tmp_path: Path, name: str, shown_as: str) -> None:
    with LLM(tiny(tmp_path / "x.gguf", ("general.name", STRING, name))) as llm:
        conversation = Conversation(llm, llm.sampling_params(top_k=7, seed=3))
        first, second, _ = greeting(conversation, template="the model's").split("\n")
    assert first.startswith(shown_as)
    assert len(first) < 110
    assert second == ("template: the model's; temp 0.8, top-k 7, top-p 0.95, min-p 0.05, seed 3")
