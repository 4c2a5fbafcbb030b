"""The command line: what goes to stdout, what to stderr, and how errors and signals end it."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import logging
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import ROOT
from support.gguf_builder import F32, STRING, GGUFBuilder
from support.systems import needs_devices, needs_posix, needs_signals
from support.tiny_llama import N_VOCAB, TinyLlama

import linnet
from linnet import LLM, Chunk, SamplingParams, Tokenizer
from linnet import __main__ as commands
from linnet.engine.cli import main as cli
from linnet.engine.cli.reading import read_prompt
from linnet.engine.running.runner import PROMPT_TOKENS
from linnet.kernels.runtime.team import Team

TINY = TinyLlama(type="Q4_K", n_ctx=1 << 14)
PROMPT = "once upon a time"
Q8_1 = 9  # a type without kernels: 32 weights in 40 bytes
ESCAPE = "\x1b[31mred"
CLOSING_LINE = re.compile(
    r"prompt 13 tokens, [\d.]+ tok/s \| generated 9 tokens, [\d.]+ tok/s, "
    r"[\d.]+ GB/s \(\d+% of the memory roofline\) \| "
    r"load [\d.]+ s, compile (0\.00 s|[\d.]+ s \(the rates include it\)), "
    r"first token [\d.]+ s \| peak memory \d+ MB\n"
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(TINY.write(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture(scope="module")
def expected(path: str) -> str:
    """What `generate` is to print."""
    with LLM(path) as llm:
        text: str = llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=9)).text
    return f"{PROMPT}{text}\n"


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `linnet ARGUMENTS` in this process; `stdin` is what it may read."""

    def run(*argv: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        status = cli.main([*map(str, argv)])
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture
def generate(run: Run, path: str) -> Run:
    """Runs `linnet generate` greedily, for 9 tokens."""
    greedy = "generate", "-m", path, "--temp", 0, "-n", 9
    return lambda *argv, stdin=b"": run(*greedy, *argv, stdin=stdin)


def check_refused(result: Result, *parts: str) -> None:
    """Bad input: one line on stderr, of characters that a terminal shows."""
    assert result.status == 2
    assert result.out == ""
    line = result.err.removesuffix("\n")
    assert line.startswith("linnet: ")
    assert line.isprintable(), line
    for part in parts:
        assert part in line


# ---- generate ------------------------------------------------------------------------------------


def test_text_goes_to_stdout_and_one_line_to_stderr(generate: Run, expected: str) -> None:
    result = generate(PROMPT)
    assert (result.status, result.out) == (0, expected)
    assert CLOSING_LINE.fullmatch(result.err), result.err


def test_text_comes_as_it_is_made(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written))

    def stream(*_: object, **__: object) -> Iterator[Chunk]:
        so_far = PROMPT
        for text in ("a", "", "bc"):
            assert written.getvalue().decode() == so_far
            yield Chunk(text)
            so_far += text
        assert written.getvalue().decode() == so_far

    monkeypatch.setattr(LLM, "stream", stream)
    assert cli.main(["generate", "-m", path, PROMPT]) == 0
    assert written.getvalue().decode() == PROMPT + "abc\n"


def test_a_prompt_comes_from_where_it_is_said_to(
    generate: Run, expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(PROMPT.encode())
    for source in ([PROMPT], ["-p", PROMPT], ["--file", file]):
        assert generate("-q", *source) == Result(0, expected, "")
    for source in (["-p", "-"], ["-"], ["-f", "-"], []):
        assert generate("-q", *source, stdin=PROMPT.encode()) == Result(0, expected, "")


def test_files_and_stdin_lose_one_last_line_feed(generate: Run, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    for text in (b"to\n\n", rb"to\n" + b"\r\n"):
        file.write_bytes(text)
        shown = Result(0, f"{text[:-1].decode()}\n", "")
        assert generate("-q", "-n0", "-f", file) == shown
        assert generate("-q", "-n0", stdin=text) == shown
    assert generate("-q", "-n0", "to\n") == Result(0, "to\n\n", "")


@pytest.mark.parametrize(("text", "prompt"), [("to\r\n", "to"), ("to\n", "to"), ("\r", "\r")])
def test_on_windows_a_line_ends_in_two_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, prompt: str
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(text.encode())
    monkeypatch.setattr("os.linesep", "\r\n")
    assert read_prompt(str(file)) == prompt


def test_arguments_are_unescaped_unless_told(generate: Run) -> None:
    text = r"""\\n \n\t\r\'\" \q\x4 \x41\xc3\xa9 é \\"""
    meant = "\\n \n\t\r'\" \\q\\x4 A\u00e9 é \\"
    for source in ([text], ["-p", text], ["-e", text], ["--no-escape", "--escape", text]):
        assert json.loads(generate("-o", "json", "-n0", *source).out)["prompt"] == meant
    for source in (["--no-escape", text], ["--no-escape", "-p", text]):
        assert json.loads(generate("-o", "json", "-n0", *source).out)["prompt"] == text


def test_the_prompt_is_left_out_where_it_is_not_wanted(generate: Run, expected: str) -> None:
    text = expected.removeprefix(PROMPT)
    assert generate("-q", "--no-display-prompt", PROMPT) == Result(0, text, "")


class Terminal(io.StringIO):
    """Where both stdout and stderr go, as they do when somebody watches."""

    def isatty(self) -> bool:
        return True


def watch(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Have a test write to a terminal from now on, and see every bar at once."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr("linnet.engine.cli.progress.PATIENCE", 0)
    return terminal


def test_a_prompt_in_several_passes_comes_after_a_bar(
    path: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, expected = watch(monkeypatch), expected.replace("\x0e", r"\x0e")
    common = ["generate", "-m", path, "--temp", "0", "-n", "9", PROMPT]

    def shown(*flags: str) -> str:
        watched.seek(0)
        watched.truncate()
        assert cli.main([*common, *flags]) == 0
        return watched.getvalue()

    bar = r"(\rprompt: +\d+%.* \d+/13 \[[^\r]*)+\r +\r"  # the last has spaces overwrite it
    line = CLOSING_LINE.pattern
    assert re.fullmatch(bar + re.escape(expected) + line, shown("-b", "4"))
    for flags in (["-b", "13"], []):  # one pass
        assert re.fullmatch(re.escape(expected) + line, shown(*flags))
    assert shown("-b", "4", "-q") == expected
    monkeypatch.setattr("linnet.engine.cli.progress.PATIENCE", 60)
    assert re.fullmatch(re.escape(expected) + line, shown("-b", "4"))  # it was quick


def test_an_interrupt_takes_the_bar_away(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = watch(monkeypatch)
    run, n_passes = Team.run, 0

    def interrupt(team: Team, program: Any) -> None:
        nonlocal n_passes
        n_passes += 1
        if n_passes == 2:
            raise KeyboardInterrupt
        run(team, program)

    monkeypatch.setattr(Team, "run", interrupt)
    assert cli.main(["generate", "-m", path, "-b", "4", PROMPT]) == 130
    assert re.fullmatch(r"(\rprompt: +[^\r]*)+\r +\r\n", watched.getvalue())


def test_json_is_one_object(generate: Run, expected: str) -> None:
    result = generate("-o", "json", "--stop", "never", PROMPT)
    assert (result.status, result.err) == (0, "")
    fields = json.loads(result.out)
    assert fields["prompt"] + fields["text"] + "\n" == expected
    assert fields["finish_reason"] == "length"
    assert len(fields["token_ids"]) == fields["stats"]["n_generated"] == 9
    assert fields["stats"]["n_prompt"] == 13
    rates = {"prompt_tokens_per_second", "generate_tokens_per_second", "gb_s", "roofline"}
    seconds = {"load_s", "compile_s", "first_token_s"}
    assert rates | seconds | {"peak_memory"} < fields.keys()
    assert all(fields[rate] > 0 for rate in rates)
    seconds_of_prompt = fields["stats"]["prompt_seconds"]
    assert fields["first_token_s"] == fields["load_s"] + seconds_of_prompt > fields["load_s"] > 0
    assert (fields["logprobs"], fields["prompt_logprobs"]) == (None, None)


def test_json_shows_log_probabilities(generate: Run, path: str) -> None:
    result = generate("-o", "jsonl", "--logprobs", 2, "--prompt-logprobs", 0, PROMPT)
    assert (result.status, result.err) == (0, "")
    *chunks, fields = map(json.loads, result.out.splitlines())  # a line for each token before it
    assert "".join(chunk["text"] for chunk in chunks) == fields["text"]
    assert [chunk["token_id"] for chunk in chunks] == fields["token_ids"]
    assert [chunk["logprobs"] for chunk in chunks] == fields["logprobs"]
    assert [each["id"] for each in fields["logprobs"]] == fields["token_ids"]
    for each in fields["logprobs"]:
        assert each["top"][0] == {name: each[name] for name in ("id", "text", "logprob")}
        assert [len(other) for other in each["top"]] == [3, 3]
        assert each["logprob"] >= each["top"][1]["logprob"]
    first, *others = fields["prompt_logprobs"]
    with LLM(path) as llm:
        assert [each["id"] for each in others] == llm.tokenizer.encode(PROMPT)[1:]
        for each in fields["logprobs"]:
            written = llm.tokenizer.token_bytes(each["id"])
            assert each["text"] == written.decode(errors="backslashreplace")
    assert first is None
    assert all(each["top"] == [] and each["logprob"] < 0 for each in others)
    for flag in ("--logprobs", "--prompt-logprobs"):
        check_refused(generate(flag, 2, PROMPT), f"{flag} is for -o json")
        assert generate("-q", flag, -1, PROMPT).status == 0


def test_verbose_tells_what_is_done(generate: Run, path: str, request: Any) -> None:
    listening = logging.getLogger("linnet")
    request.addfinalizer(partial(setattr, listening, "handlers", listening.handlers[:]))
    request.addfinalizer(partial(listening.setLevel, listening.level))
    plain, told = generate("-q", PROMPT), generate("-q", "-v", PROMPT)
    assert (told.status, told.out, plain.err) == (0, plain.out, "")
    lines = told.err.splitlines()
    assert all(re.match(r" *\d+ ms linnet\.[\w.]+: ", line) for line in lines)
    for what in (f"{path}: mapped", "kernels for ", " threads; ", "steps of native code"):
        assert any(what in line for line in lines)


def test_the_closing_line_says_what_there_is_to_say(
    generate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rate without a second token, and whether the rates are lower than next time."""
    for n in (0, 1):
        assert f" | generated {n} tokens | load " in generate("-n", n, PROMPT).err
    for seconds, said in (
        (0.0, "compile 0.00 s, first"), (0.0049, "compile 0.00 s, first"),
        (0.0051, "compile 0.01 s (the rates include it), first"),
    ):  # fmt: skip
        monkeypatch.setattr(LLM, "compile_seconds", seconds)
        assert said in generate(PROMPT).err


def test_a_seed_makes_it_reproducible(generate: Run) -> None:
    drawn = [generate("-q", "--temp", 1, "-s", seed, PROMPT).out for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_flags_reach_model_and_sampler(
    run: Run, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    class Recorder(LLM):
        def __init__(self, *path: Any, **options: Any) -> None:
            given.update(path=path, **options)
            super().__init__(*path, **options)

        def stream(self, prompt: Any, params: Any = None, **others: Any) -> Any:
            given.update(prompt=prompt, params=params)
            return super().stream(prompt, params, **others)

    monkeypatch.setattr("linnet.engine.cli.options.LLM", Recorder)
    flags = """-q -n 3 --temp 0.5 --top-k 7 --top-p 0.9 --min-p 0.1 --repeat-penalty 1.5
        --repeat-last-n 20 --presence-penalty 0.25 --frequency-penalty 0.75 --stop zz --stop yy
        --samplers dry;top_k;temp --dynatemp-range 0.25 --dynatemp-exp 2 --typical 0.5
        --top-nsigma 1.5 --xtc-probability 0.5 --xtc-threshold 0.25 --dry-multiplier 0.75
        --dry-base 2 --dry-allowed-length 3 --dry-penalty-last-n 99 --dry-sequence-breaker ab
        --dry-sequence-breaker \\n --mirostat 2 --mirostat-ent 4 --mirostat-lr 0.5
        -s 42 --ignore-eos -t 2 -c 64 -b 7 --isa generic --activations f32 --no-mmap
        --ignore-unknown --spec-type ngram-simple --draft-max 5"""
    assert run("generate", "-m", path, *flags.split(), PROMPT).status == 0
    params = SamplingParams(
        max_tokens=3, temperature=0.5, top_k=7, top_p=0.9, min_p=0.1, repeat_penalty=1.5,
        repeat_last_n=20, presence_penalty=0.25, frequency_penalty=0.75, stop=("zz", "yy"),
        samplers=("dry", "top_k", "temperature"), dynatemp_range=0.25, dynatemp_exponent=2,
        typ_p=0.5, top_n_sigma=1.5, xtc_probability=0.5, xtc_threshold=0.25, dry_multiplier=0.75,
        dry_base=2, dry_allowed_length=3, dry_penalty_last_n=99,
        dry_sequence_breakers=("ab", "\n"), mirostat=2, mirostat_tau=4, mirostat_eta=0.5,
        seed=42, ignore_eos=True,
    )  # fmt: skip
    options = {
        "n_threads": 2, "n_ctx": 64, "n_batch": 7, "isa": "generic", "activations": "f32",
        "mmap": False, "ignore_unknown": True, "spec_type": "ngram", "draft_model": None,
        "cache_type_k": None, "cache_type_v": None,
        "draft_max": 5,
    }  # fmt: skip
    assert given == {"path": (path,), **options, "prompt": PROMPT, "params": params}

    given.clear()
    assert run("generate", "-m", path, PROMPT).status == 0
    options = {
        "n_threads": None, "n_ctx": None, "n_batch": PROMPT_TOKENS, "isa": None,
        "activations": "int8", "mmap": True, "ignore_unknown": False, "spec_type": None,
        "cache_type_k": None, "cache_type_v": None,
        "draft_model": None, "draft_max": 7,
    }  # fmt: skip
    assert given == {"path": (path,), **options, "prompt": PROMPT, "params": SamplingParams()}


def test_ignoring_the_end_goes_on_to_the_last_token(run: Run, path: str, tmp_path: Path) -> None:
    with LLM(path) as llm:
        end = llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=9)).token_ids[2]
    file = TinyLlama(type="Q4_K", eos_id=end).write(tmp_path / "ends.gguf")
    common = "generate", "-m", file, "-o", "json", "--temp", 0, "-n", 9, PROMPT
    ended, went_on = (json.loads(run(*common, *flag).out) for flag in ([], ["--ignore-eos"]))
    assert (ended["stats"]["n_generated"], ended["finish_reason"]) == (2, "stop")
    assert (went_on["stats"]["n_generated"], went_on["finish_reason"]) == (9, "length")


def test_the_generate_command_is_linnet_generate(
    path: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["generate", "-m", path, "--temp", "0", "-n", "9", PROMPT])
    monkeypatch.setattr(commands.interrupts, "arm", lambda: None)  # this process goes on
    with pytest.raises(SystemExit) as ended:
        commands.generate()
    assert ended.value.code == 0
    assert capsys.readouterr().out == expected


# ---- errors --------------------------------------------------------------------------------------


def test_no_prompt_or_two_are_refused(
    generate: Run, path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for sources in (
        [],
        ["a", "-p", "b"],
        ["-p", "a", "-f", path],
        ["a", "-f", path],
        ["-", "-p", "-"],
    ):
        check_refused(generate(*sources), "give one prompt")
    for stdin, source, message in (
        (Terminal("a"), [], "give one prompt"), (None, [], "give one prompt"),
        (None, ["-"], "stdin is closed"), (None, ["-f", "-"], "stdin is closed"),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "stdin", stdin)
        assert cli.main(["generate", "-m", path, *source]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["sing"], ["'sing'", "generate", "inspect", "tokenize"]),
        (["server"], ["no command 'server'; close: serve "]),
        (["model.gguf"], ["'model.gguf' is a model"]),
        (["generate", "--loud", "x"], ["no flag '--loud'", "generate --help"]),
        (["generate", "--tem", "1", "x"], ["'--tem' (close: --temp"]),  # no flag is cut short
        (["generate", "a", "b"], ["b", "generate --help"]),
        (["--", "generate"], ["COMMAND"]),
        (["generate", "-n", "many", "x"], ["-n", "'many'", "generate --help"]),
        (["generate", "-o", "xml", "x"], ["'xml'", "json"]),
        (["generate", "--isa", "z80", "x"], ["'z80'", "generic"]),
        (["generate", "--spec-type", "draft", "x"], ["--spec-type draft needs", "-md FILE"]),
        (["generate", "--spec-type", "none", "-md", "y", "x"], ["-md is for --spec-type draft"]),
        (["generate", "-p"], ["-p"]),
        (["inspect"], ["MODEL"]),
        (["tokenize", "-p", "a"], ["-m"]),
        (["tokenize", "-m", "x", "-p", "a", "-f", "b"], ["give one prompt"]),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    run: Run, argv: list[str], parts: list[str]
) -> None:
    check_refused(run(*argv), *parts)


@pytest.mark.parametrize(
    ("argv", "flag", "close"),
    [
        ("-hfq x -hf a/b hi", "-hfq", "-hf"),
        ("-prompt hi", "-prompt", "--prompt"),
        ("--no-parf hi", "--no-parf", None),
        ("-no-cnv -zz hi", "-zz", None),
        ("-temp 0 hi", "-temp", "--temp"),
        ("--delays 1", "--delays", None),
        ("-help", "-help", "--help"),
        ("-q5 x", "-q5", None),  # a number, but -q takes none
        ("--ignoreeos=1 --loud hi", "--ignoreeos", "--ignore-eos"),
        ("-mn 0 --version", "-mn", None),
    ],
)
def test_a_flag_is_known_as_a_whole_or_named(
    generate: Run, argv: str, flag: str, close: str | None
) -> None:
    result = generate(*argv.split())
    check_refused(result, f"linnet: there is no flag {flag!r}", "(see linnet generate --help)")
    assert ("(close: " in result.err) == (close is not None)
    assert close is None or re.search(rf"[ ,]{re.escape(close)}[,)]", result.err)


def test_what_begins_with_a_dash(generate: Run) -> None:
    """As a value of a flag or behind -- anything may; elsewhere what cannot be a flag."""
    for prompt in ("-hello", "-nbl", "-5", "--", "- one", "-hello you", "---"):
        shown = Result(0, f"{prompt}\n", "")
        assert generate("-q", "-n0", "--", prompt) == shown
        if prompt != "--":
            assert generate("-q", "-n0", f"-p={prompt}") == shown
            assert generate("-q", "-p", prompt, "-n", "0") == shown
        if not re.fullmatch("-hello|-nbl|--", prompt):
            assert generate(prompt, "-q", "-n0") == shown
    check_refused(generate("-hello"), "goes after --")
    check_refused(generate("-p", "-n", "4"), "-p/--prompt: expected one argument")
    check_refused(generate("-p", "--", "x"), "-p/--prompt: expected one argument")
    check_refused(generate("-n", "-2", "x"), "-n is -2; it must be", "or -1")


def test_a_flag_whose_value_is_optional_takes_no_flag(run: Run) -> None:
    check_refused(run("bench", "--ops", "-hfq"), "no flag '-hfq' (close: -hf")
    check_refused(run("bench", "--ops", "nope", "-n", "1"), "nope")
    check_refused(run("bench", "--ops", "--layers"), "--ops measures kernels alone")


@pytest.mark.parametrize(
    ("flag", "value", "name"),
    [
        ("-n", "-2", "-n is -2; it must be an integer from 0 to 2147483647, or -1"),
        ("--temp", "nan", "--temp is nan"),
        ("--top-p", "1.5", "--top-p is 1.5"),
        ("--stop", "", "--stop[0] is ''"),
        ("-s", "-5", "-s is -5"),
        ("--logprobs", "21", "--logprobs is 21"),
        ("--min-tokens", "10", "--min-tokens is 10; it must be at most -n, which is 9"),
        ("-t", "0", "argument -t/--threads: '0' is not a whole number from 1 to 1024"),
        ("-c", "-1", "argument -c/--ctx-size: '-1' is not a whole number from 0 to 16777216"),
    ],
)
def test_values_out_of_range_are_named(generate: Run, flag: str, value: str, name: str) -> None:
    check_refused(generate(f"{flag}={value}" if flag[1] == "-" else f"{flag}{value}", "x"), name)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_no_flag_lets_on_what_takes_its_value(run: Run, command: str) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"linnet.engine.cli.{command}").configure(parser)
    for action in parser._actions:
        if action.option_strings and action.type:
            flag = action.option_strings[-1]
            check_refused(run(command, flag, "x"), flag, "'x'")
            for value in ("x", "9" * 5000, "1-" + "9" * 5000, "0-4+" + "9" * 5000):
                line = run(command, flag, value).err
                assert not re.search(r"\b_\w", line)
                assert set(re.findall(r"invalid (\w+) value", line)) <= {"int", "float"}


def bad_paths(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Files that are no models, and what is said of them."""
    yield tmp_path / "missing.gguf", "No such file"
    yield tmp_path, "a folder"
    yield Path("/dev/zero"), "not a regular file"
    garbage = tmp_path / f"garbage {ESCAPE}\n.gguf"
    garbage.write_bytes(bytes(range(256)))
    yield garbage, "magic"


@needs_posix
@pytest.mark.parametrize("command", ["generate", "inspect", "tokenize"])
def test_files_that_are_no_models_are_refused(run: Run, tmp_path: Path, command: str) -> None:
    for path, message in bad_paths(tmp_path):
        argv = ["inspect", path] if command == "inspect" else [command, "-p", "x", "-m", path]
        check_refused(run(*argv), message, repr(str(path)))


@needs_posix
@pytest.mark.parametrize("command", ["generate", "tokenize"])
def test_texts_that_cannot_be_read_are_refused(
    run: Run, path: str, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("linnet.engine.cli.reading.MOST_BYTES", 1 << 20)
    binary = tmp_path / f"{ESCAPE}.txt"
    binary.write_bytes(b"ab\xff")
    for file, message in (
        (binary, "not text in UTF-8"),
        (tmp_path / "missing", "No such file"),
        (tmp_path, "Is a directory"),
        (Path("/dev/zero"), "more than 1 MiB"),
    ):
        check_refused(run(command, "-m", path, "-f", file), message, repr(str(file)))
    stdin = ["-p", "-"] if command == "generate" else []
    check_refused(run(command, "-m", path, *stdin, stdin=b"\xff"), "stdin is not text in UTF-8")


def test_a_prompt_too_long_is_refused(generate: Run) -> None:
    check_refused(generate("-c", 4, PROMPT), "13 tokens do not fit the context of 4", "-c")


def test_not_a_number_is_an_error(run: Run, tmp_path: Path) -> None:
    tensors = TINY.tensors()
    tensors["output_norm.weight"].blocks["w"][0] = np.nan
    file = TINY.write(tmp_path / "nan.gguf", tensors)
    result = run("generate", "-m", file, PROMPT)
    assert result.status == 2
    assert result.err == "linnet: the model's logits are not all finite: nan is among them\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError(f"{ESCAPE}\n two\tlines\u2028"), r"\x1b[31mred two lines"),
        (OSError(28, "No space left", f"{ESCAPE}.txt"), r"'\x1b[31mred.txt': No space left"),
        (RuntimeError("half \udcff"), r"half \udcff"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_errors_are_one_line_that_a_terminal_cannot_obey(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fail(path: str) -> None:
        raise error

    monkeypatch.setattr("linnet.engine.cli.inspect.GGUFFile", fail)
    result = run("inspect", "/dev/null")
    check_refused(result)
    assert result.err == f"linnet: {line}\n"


def test_an_interrupt_ends_it_without_an_error(
    generate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LLM, "stream", interrupt)
    assert generate(PROMPT) == Result(130, "", "\n")


# ---- inspect, tokenize, and the rest -------------------------------------------------------------


def test_inspect_shows_what_is_in_a_file(run: Run, path: str) -> None:
    result = run("inspect", path)
    assert (result.status, result.err) == (0, "")
    lines = {line.split()[0]: line.split()[1:] for line in result.out.splitlines() if line}
    assert lines["llama.block_count"] == ["2"]
    assert lines["tokenizer.ggml.tokens"][-1] == f"({N_VOCAB})"
    assert lines["blk.1.ffn_down.weight"] == ["Q4_K", "256", "x", "512", "73,728", "4.50"]
    assert lines["output_norm.weight"] == ["F32", "256", "1,024", "32.00"]
    tensors = TINY.tensors().values()
    n_bytes = sum(tensor.data.nbytes for tensor in tensors)
    bits = 8 * n_bytes / sum(math.prod(tensor.shape) for tensor in tensors)
    assert lines["all"] == [str(len(tensors)), f"{n_bytes:,}", f"{bits:.2f}"]
    assert lines["F32"][-1] == lines["Q4_K"][-1] == "yes"
    short = run("inspect", "--no-tensors", path)
    assert short.out == result.out.replace(tensor_table(result.out), "")


def tensor_table(text: str) -> str:
    return next(part for part in re.split(r"(?<=\n)\n", text) if part.startswith("tensor ")) + "\n"


def test_inspect_shows_strange_files_harmlessly(run: Run, tmp_path: Path) -> None:
    file = (
        GGUFBuilder()
        .kv("general.name", STRING, f"{ESCAPE}\n")
        .kv("general.author", STRING, b"\xff\x1b[0m")
        .array("k", STRING, [ESCAPE, "\udcff".encode("utf-8", "surrogatepass"), "", "d", "e"])
        .tensor("odd", Q8_1, (2, 64), bytes(160))
        .tensor("empty", F32, (0,), b"")
        .write(tmp_path / f"{ESCAPE}.gguf")
    )
    result = run("inspect", file)
    assert result.status == 0
    assert all(line.isprintable() for line in result.out.splitlines())
    assert r"'\x1b[31mred\n'" in result.out
    assert r"b'\xff\x1b[0m'" in result.out
    assert ", ...] (5)" in result.out
    lines = {line.split()[0]: line.split()[1:] for line in result.out.splitlines() if line}
    assert lines["Q8_1"] == ["1", "160", "10.00", "no"]


def test_inspect_checks_weights(run: Run, path: str, tmp_path: Path) -> None:
    assert run("inspect", "--check", path).status == 0
    tensors = TINY.tensors()
    tensors["output.weight"].blocks["d"][[0, 7]] = np.nan
    tensors["blk.0.attn_norm.weight"].blocks["w"][3] = np.inf
    result = run("inspect", "--check", TINY.write(tmp_path / "bad.gguf", tensors))
    assert result.status == 1
    n_blocks = len(tensors["output.weight"].blocks)
    assert result.out.splitlines()[-3:] == [
        "blk.0.attn_norm.weight: 1 of 256 blocks of 1 weights have NaN or infinity in F32",
        f"output.weight: 2 of {n_blocks:,} blocks of 256 weights have NaN or infinity in Q4_K",
        f"{len(tensors)} tensors looked at, 2 with NaN or infinity",
    ]
    odd = GGUFBuilder().tensor("odd", Q8_1, (2, 64), bytes(160)).write(tmp_path / "odd.gguf")
    assert "0 tensors looked at, 0 with NaN or infinity; 1 are of types without kernels" in (
        run("inspect", "--check", odd).out
    )


def test_tokenize_prints_the_tokens_of_a_text(run: Run, path: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(path)
    text = "to\nbe \u2028on\r\n\n"
    ids = tokenizer.encode(text)
    listed = Result(0, f"{ids}\n", "")
    file = tmp_path / "text"
    file.write_bytes(text.encode())
    written = text.replace("\n", r"\n").replace("\r", r"\r")
    for source in (["-p", written], [written], ["-p", text, "--no-escape"], ["-f", file]):
        assert run("tokenize", "-m", path, "--ids", *source) == listed
    for source in ([], ["-"], ["--stdin"], ["-f", "-"]):
        assert run("tokenize", path, "--ids", *source, stdin=text.encode()) == listed
    shown = run("tokenize", path, "--show-count", "-f", file).out.splitlines()
    pieces = [tokenizer.token_bytes(each).decode(errors="backslashreplace") for each in ids]
    assert shown[:-1] == [f"{i:6} -> {piece!r}" for i, piece in zip(ids, pieces, strict=True)]
    assert shown[-1] == f"Total number of tokens: {len(ids)}"
    plain = Result(0, f"{tokenizer.encode('to be', add_special=False)}\n", "")
    assert run("tokenize", path, "--no-special", "--ids", "to be") == plain
    check_refused(run("tokenize", path, "--stdin", "-f", file), "--stdin and -f")
    check_refused(run("tokenize", path, "--stdin", "to be"), "give one prompt")


def test_version_and_help_are_no_errors(run: Run) -> None:
    assert run("--version") == Result(0, f"linnet {linnet.__version__}\n", "")
    top = run("--help")
    assert (top.status, top.err) == (0, "")
    for command in cli.COMMANDS:
        assert re.search(rf"^ +{command}\s", top.out, re.MULTILINE)
        assert run(command, "--version") == run("--version")
        help = run(command, "--help")
        assert (help.status, help.err) == (0, "")
        assert help.out.startswith(f"usage: linnet {command}")


# ---- in a process of its own ---------------------------------------------------------------------

FIGURES = r"prompt 13 tokens, [\d.]+ tok/s \| generated \d+ tokens.* \| peak memory \d+ MB"
LONG = ["-n", "16000", "-c", "16384", "--ignore-eos", "--temp", "0"]


def _default_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


DEFAULT_CTRL_C = _default_ctrl_c if os.name == "posix" else None  # what Popen takes there


@contextmanager
def linnet_process(
    *argv: str, stdin: Any = subprocess.DEVNULL, stdout: Any = subprocess.PIPE, **env: str
) -> Iterator[Any]:
    """`python -m linnet ARGUMENTS`, started; ended if it is still there at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "linnet", *argv],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | env,
        preexec_fn=DEFAULT_CTRL_C,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_runs_as_a_module(path: str, expected: str) -> None:
    with linnet_process("generate", "-m", path, "-t2", "--temp=0", "-n9", PROMPT) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out.decode()) == (0, expected)
    assert CLOSING_LINE.fullmatch(err.decode())


@needs_signals
def test_ctrl_c_ends_it_at_once(path: str) -> None:
    with linnet_process("generate", "-m", path, "-t2", *LONG, PROMPT) as process:
        process.stdout.read(40)  # it is at work
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(rf"\n{FIGURES}\n", err.decode()), err


@needs_signals
def test_ctrl_c_ends_a_prompt_at_once(path: str, tmp_path: Path) -> None:
    """A prompt of one pass, which takes a good while."""
    prompt = tmp_path / "prompt"
    prompt.write_text("to be or not " * 1200)
    argv = "generate", "-m", path, "-t2", "-b16384", *LONG, "-f", str(prompt)
    with linnet_process(*argv) as process:
        assert process.stdout.read(prompt.stat().st_size) == prompt.read_bytes()  # then it begins
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"\n")


@needs_signals
def test_ctrl_c_while_it_imports_is_quiet_too(path: str, tmp_path: Path) -> None:
    """Here on the import of numpy, which a stand-in interrupts."""
    (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    stand_in = os.pathsep.join([str(tmp_path), str(ROOT)])
    with linnet_process("generate", "-m", path, PROMPT, PYTHONPATH=stand_in) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"\n")


@needs_signals
@pytest.mark.parametrize("n", [0, 1, 2, 5, 20])
def test_ctrl_c_is_quiet_from_our_first_import_on(path: str, tmp_path: Path, n: int) -> None:
    """It comes with the n-th module that is imported once Ctrl-C is ours, and with all later."""
    (tmp_path / "sitecustomize.py").write_text(f"""if True:
        import os, signal, sys
        class Finder:
            n = 0
            def find_spec(self, *_):
                if "linnet.engine.cli.main" in sys.modules:
                    self.n += 1
                    if self.n > {n}:
                        os.kill(os.getpid(), signal.SIGINT)
        sys.meta_path.insert(0, Finder())
        """)
    with_it = os.pathsep.join([str(tmp_path), str(ROOT)])
    with linnet_process("generate", "-m", path, PROMPT, PYTHONPATH=with_it) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"\n")


@needs_signals
@pytest.mark.parametrize("command", ["generate", "chat"])
@pytest.mark.parametrize("instead", ["pass", "raise ImportError('initialization failed')"])
def test_ctrl_c_is_not_lost_in_a_module_that_drops_it(
    path: str, tmp_path: Path, instead: str, command: str
) -> None:
    """As modules in C do at times while they are imported, or make another error of it."""
    (tmp_path / "sitecustomize.py").write_text(f"""if True:
        import os, signal, sys
        class Finder:
            def find_spec(self, name, *_):
                if name == "sentencepiece":
                    try:
                        os.kill(os.getpid(), signal.SIGINT)
                    except KeyboardInterrupt:
                        {instead}
        sys.meta_path.insert(0, Finder())
        """)
    (tmp_path / "template").write_text("{{ messages[-1].content }}")
    asks = {"generate": [PROMPT], "chat": ["--chat-template-file", str(tmp_path / "template")]}
    argv = [command, "-m", path, *LONG, *asks[command]]
    with_it = os.pathsep.join([str(tmp_path), str(ROOT)])
    with linnet_process(*argv, stdin=subprocess.PIPE, PYTHONPATH=with_it) as process:
        _, err = process.communicate(PROMPT.encode(), timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(rf"(\n{FIGURES})?\n*", err.decode()), err


@needs_signals
def test_a_second_ctrl_c_ends_it_whatever_the_first_has_come_to(path: str, tmp_path: Path) -> None:
    """Here to a close that never returns."""
    (tmp_path / "sitecustomize.py").write_text("""if True:
        import time
        def close(self):
            print("closing", flush=True)
            while True:
                time.sleep(60)
        import linnet.engine.llm
        linnet.engine.llm.LLM.close = close
        """)
    with_it = os.pathsep.join([str(tmp_path), str(ROOT)])
    with linnet_process("generate", "-m", path, *LONG, PROMPT, PYTHONPATH=with_it) as process:
        process.stdout.read(40)
        process.send_signal(signal.SIGINT)
        while b"closing" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(rf"\n{FIGURES}\n\n", err.decode()), err


@needs_signals
def test_a_command_that_ignores_ctrl_c_goes_on(path: str, expected: str) -> None:
    """As one behind nohup, or in the background of a script, does."""
    argv = [sys.executable, "-m", "linnet", "generate", "-m", path, "-t2", "--temp=0", "-n9", "-q"]
    with subprocess.Popen(
        [*argv, PROMPT], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as process:  # fmt: skip
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        assert process.stdout is not None
        assert (process.returncode, process.stdout.read().decode()) == (0, expected)


@needs_posix
def test_a_reader_that_has_enough_ends_it(path: str) -> None:
    with linnet_process("generate", "-m", path, *LONG, PROMPT) as process:
        assert process.stdout.read(10) == PROMPT[:10].encode()
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == b""


@needs_devices
def test_a_full_disk_is_an_error(path: str) -> None:
    with open("/dev/full", "w") as full, linnet_process("inspect", path, stdout=full) as process:
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.fullmatch(rb"linnet: .*No space left on device\n", err)


@needs_devices
@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full", "2>/dev/full -c 17000"])
def test_a_stderr_that_takes_nothing_changes_no_status(path: str, redirected: str) -> None:
    argv = shlex.join([sys.executable, "-m", "linnet", "generate", "-m", path, "-t1", "-q"])
    for rest, status in (("-n2 --temp 0 x", 0), ("-n-7 x", 2)):
        done = subprocess.run(
            ["sh", "-c", f"{argv} {rest} {redirected}"], capture_output=True, check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert done.returncode == status
        assert done.stdout.startswith(b"x") == (status == 0)
        assert b"linnet:" not in done.stdout


@needs_posix
def test_a_warning_that_nobody_reads_ends_nothing(path: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "linnet", "generate", "-m", path, "-q", "-n2", "-c17000", "x"],
            stdout=subprocess.PIPE, stderr=nobody, check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.startswith(b"x")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["generate", "-q=h", "foo"], "-q takes no value; there is 'h'"),
        (["generate", "--chat=foo", "x"], "--chat takes no value; there is 'foo'"),
        (["tune", "--", "--reset"], "there is no place for '--reset'"),
        (["chat", "model.gguf", "-m"], "argument -m/--model: expected one argument"),
    ],
)
def test_no_flag_takes_what_is_not_its_own(run: Run, argv: list[str], message: str) -> None:
    check_refused(run(*argv), f"linnet: {message} (see linnet {argv[0]} --help)")


def test_a_warning_is_one_line(path: str) -> None:
    with linnet_process("generate", "-m", path, "-q", "-n0", "-c", "16385", "x") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"x\n")
    assert re.fullmatch(rb"linnet: n_ctx \(-c\) is 16385; .* trained on 16384 .*\n", err)


def test_characters_that_stdout_lacks_become_question_marks(path: str) -> None:
    argv = "generate", "-m", path, "-q", "-n0", "é€"
    with linnet_process(*argv, PYTHONIOENCODING="latin-1") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, b"\xe9?\n", b"")
