"""Which word of a command line is the model, which the text, and whether that is a message."""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
from pathlib import Path

import pytest
from test_chat_cli import GREEDY, path, tiny
from test_cli import Result, Run, check_refused, run

from linnet import LLM
from linnet.engine.cli.main import COMMANDS, _parsed
from linnet.engine.sampling.params import SamplingParams

__all__ = ["path", "run"]  # fixtures
SEVERAL = {"bench", "pull"}
OF_FILES = {"quantize", "batch"}  # whose words are others, too


def takes_model(command: str) -> bool:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"linnet.engine.cli.{command}").configure(parser)
    return "--model" in parser._option_string_actions


WITH_MODEL = [command for command in COMMANDS if takes_model(command)]


def parsed(command: str, *argv: str) -> argparse.Namespace:
    return _parsed([command, *argv])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").touch()
    (tmp_path / "plain").touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("argv", "model", "prompt"),
    [
        (["model.gguf", "a"], "model.gguf", "a"),
        (["plain", "a"], "plain", "a"),
        (["user/model", "model.gguf"], "user/model", "model.gguf"),
        (["-m", "model.gguf", "a"], "model.gguf", "a"),
        (["-m", "user/model", "model.gguf"], "user/model", "model.gguf"),
        (["model.gguf", r"a\n"], "model.gguf", "a\n"),
        (["model.gguf"], "model.gguf", None),
        (["user/model:Q8_0"], "user/model:Q8_0", None),
        (["hf.co/user/model"], "hf.co/user/model", None),
        (["user/model"], None, "user/model"),
        (["plain"], None, "plain"),
        (["plain", "-p", "a"], "plain", None),
        (["plain", "-f", "a"], "plain", None),
        ([r"a\n"], None, "a\n"),
        (["-hf", "user/model", "a"], "hf://user/model", "a"),
        (["-hf", "hf.co/user/model", "a"], "hf.co/user/model", "a"),
        (["-mu", "https://a.b/c.gguf", "a"], "https://a.b/c.gguf", "a"),
        ([], None, None),
    ],
)
def test_which_word_is_the_model(argv: list[str], model: str | None, prompt: str | None) -> None:
    found = parsed("generate", *argv)
    assert (found.model, found.prompt) == (model, prompt)
    if found.model is not None and not found.prompt_text and not found.file:
        for command in ("chat", "tokenize", "logits"):
            found = parsed(command, *argv)
            assert (found.model, found.prompt) == (model, prompt)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("command", [name for name in WITH_MODEL if name not in OF_FILES])
def test_every_command_takes_a_model_with_and_without_a_flag(command: str) -> None:
    for argv in (["model.gguf"], ["-m", "model.gguf"], ["--model=model.gguf"]):
        found = parsed(command, *argv)
        if command in SEVERAL:
            assert [*found.words, *found.model] == ["model.gguf"]
        else:
            assert found.model == "model.gguf"
    found = parsed(command, "-hf", "user/model", "-hff", "a", "-hft", "b", "--offline")
    assert found.model in ("hf://user/model", ["hf://user/model"])
    assert (found.hf_file, found.hf_token, found.offline) == ("a", "b", True)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ("generate hello world", "'hello' is no model, which is a GGUF file"),
        ("generate -m model.gguf hello world", "the model is given, and two texts"),
        ("generate mdel.gguf", "'mdel.gguf': No such file; did you mean 'model.gguf'?"),
        ("chat mdel.gguf", "'mdel.gguf': No such file; did you mean 'model.gguf'?"),
        ("chat", "a model is wanted: MODEL"),
        ("inspect -m model.gguf plain", "two models are given"),
        ("serve -m model.gguf -hf user/model", "not allowed with argument"),
        ("serve -hf model", "'model' is no name on the hub"),
        ("serve -mu user/model", "'user/model' is no URL"),
        ("logits model.gguf --ids 1 text", "unrecognized arguments"),
        ("logits model.gguf text --ids 1", "--ids are in place of a text"),
        ("logits model.gguf", "give one prompt"),
        ("generate -hff x a", "-hff is for a model on the hub"),
        ("quantize -m model.gguf a b Q4_K", "type 'b' is unknown; it must be one of F32, F16"),
        ("quantize mdel.gguf Q4_K", "'mdel.gguf': No such file; did you mean 'model.gguf'?"),
    ],
)
def test_what_is_no_such_line_is_refused(run: Run, argv: str, said: str) -> None:
    if "unrecognized" in said:
        argv = argv.replace("text", "text text")
    check_refused(run(*argv.split()), said)


# ---- a message or a text -------------------------------------------------------------------------


def test_a_prompt_is_a_message_where_there_is_a_template(
    run: Run, path: str, tmp_path: Path
) -> None:
    common = "-o", "json", *GREEDY

    def given(*argv: str) -> str:
        """What a prompt becomes: "messages" or "prompt"."""
        fields = json.loads(run("generate", *argv, *common).out)
        (kind,) = {"messages", "prompt"} & fields.keys()
        return kind

    for argv in ([path, "hello"], ["-m", path, "hello"], [path, "-p", "hello"]):
        assert given(*argv) == given(*argv, "--chat") == "messages"
        for flag in ("--raw", "-no-cnv", "--no-conversation", "--parse-special"):
            assert given(*argv, flag) == "prompt"
    assert given("hello") == "prompt"  # the demo model
    answer = run("generate", path, "hello", "-q", *GREEDY)
    with LLM(path) as llm:
        message = {"role": "user", "content": "hello"}
        assert answer.out == llm.chat([message], temperature=0, max_tokens=9).text + "\n"
    check_refused(run("generate", path, "x", "--raw", "--system", "y"), "--raw is for a text")
    check_refused(run("generate", path, "x", "--raw", "--chat"), "not allowed with")
    check_refused(run("generate", path, " "), "the prompt is empty")
    copy = tmp_path / "copy.gguf"
    shutil.copy(path, copy)
    assert run("generate", copy, "-q", *GREEDY, stdin=b"hello\n") == Result(0, answer.out, "")


def test_a_first_message_may_be_given(run: Run, path: str) -> None:
    plain = run("chat", path, *GREEDY, stdin=b"hello\nagain\n")
    assert plain.status == 0
    for argv in ([path, "hello"], ["-m", path, "hello"], [path, "-p", "hello"]):
        assert run("chat", *argv, *GREEDY, stdin=b"again\n") == plain


def test_the_demo_model_says_that_it_speaks(run: Run, path: str) -> None:
    assert "7M parameters" in run("generate", "x", "-n", 1).err
    for argv in (["x", "-q"], [path, "x"]):
        assert "7M parameters" not in run("generate", *argv, "-n", 1).err


def test_the_default_limit_is_said_where_it_ends_a_text(run: Run, tmp_path: Path) -> None:
    limit = SamplingParams().max_tokens
    command = "generate", tiny(tmp_path / "m.gguf", n_ctx=600), "x", "--temp", 0, "--ignore-eos"
    ends = f"the text ends at {limit} tokens: -n takes another limit, -n -1 none"
    for flags in ([], ["--raw"]):
        assert ends in run(*command, *flags).err.splitlines()
    assert f"({ends})\n" in run("chat", *command[1:]).err
    assert run("chat", *command[1:], "-n", limit).err == ""
    fields = json.loads(run(*command, "-o", "json").out)
    assert (fields["stats"]["n_generated"], fields["finish_reason"]) == (limit, "length")
    for flags in (["-n", limit], ["-q"], ["-n", -1]):
        result = run(*command, *flags)
        assert (result.status, ends in result.err) == (0, False)
    fields = json.loads(run(*command, "-o", "json", "-n", -1).out)
    assert fields["stats"]["n_generated"] + fields["stats"]["n_prompt"] > 600
