"""What becomes of flags: those of other programs, those that variables set, and misspelled ones."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import check_command_lines
import man_pages
import pytest
from support import ROOT
from test_cli import Run, check_refused, path, run

from linnet import LLM, SamplingParams, __version__
from linnet.engine.cli import elsewhere
from linnet.engine.cli import main as cli
from linnet.engine.cli.environment import variable
from linnet.engine.cli.examples import EXAMPLES
from linnet.engine.cli.guesses import close
from linnet.engine.cli.help_format import COLUMNS
from linnet.engine.cli.options import sampling_fields
from linnet.engine.cli.parser import Parser

__all__ = ["path", "run"]  # fixtures
IGNORED = [
    (command, values, flag)
    for commands, values, _, flags in elsewhere._IGNORED
    for command in commands
    for flag in flags.split()
]
REFUSED = [flag for flags in elsewhere._REFUSED.values() for flag in flags.split()]
POSITIONAL = {"quantize": ["a", "b", "Q4_K"], "inspect": ["a"], "completion": ["bash"]}
MACROS = {".TH", ".SH", ".TP", ".PP", ".B", ".nf", ".fi"}
NEEDED = {
    "chat": ["-m", "x"],
    "run": ["-m", "x"],
    "tokenize": ["-m", "x"],
    "logits": ["-p", "x"],
} | POSITIONAL


@pytest.fixture(scope="module")
def parsers() -> dict[str, Parser]:
    return {command: cli.command_parser(command) for command in cli.COMMANDS}


def parsed(command: str, line: str = "") -> dict[str, object]:
    """What a parser of its own makes of flags, beside those that the command needs."""
    return vars(cli.command_parser(command).parse([*NEEDED.get(command, []), *line.split()]))


# ---- flags of other programs ---------------------------------------------------------------------


def test_every_flag_without_a_meaning_is_ignored_with_its_value(
    parsers: dict[str, Parser], capsys: pytest.CaptureFixture[str]
) -> None:
    for command, values, flag in IGNORED:
        parser = parsers[command]
        if flag in parser._option_string_actions or elsewhere.ours(
            flag, parser._option_string_actions
        ):
            continue  # ours come first
        before = vars(parsers[command].parse(NEEDED.get(command, [])))
        parser._ignored.clear()
        value = {0: [], 1: ["7"], elsewhere.OPTIONAL: ["on"]}[values]
        assert vars(parser.parse([*NEEDED.get(command, []), flag, *value])) == before
        shown = " ".join([flag, *value])
        err = capsys.readouterr().err
        assert err.startswith(f"linnet: ignored: {shown} ("), (command, flag)
        assert err.count("\n") == 1
        parser._ignored.clear()


def test_no_flag_has_two_meanings() -> None:
    assert [key for key, n in Counter((c, f) for c, _, f in IGNORED).items() if n > 1] == []
    assert [flag for flag, n in Counter(REFUSED).items() if n > 1] == []
    assert {flag for _, _, flag in IGNORED} & set(REFUSED) <= {"--rpc"}  # of bench, an empty wish


@pytest.mark.parametrize("command", ["generate", "chat", "serve", "perplexity"])
def test_flags_that_would_change_what_comes_out_are_refused(
    parsers: dict[str, Parser], command: str
) -> None:
    parser = parsers[command]
    for flag in REFUSED:
        known = parser._option_string_actions
        if flag not in known and not elsewhere.ours(flag, known):
            with pytest.raises(ValueError, match=rf"^{flag} is not supported: [\w-].* --help\)$"):
                parser.parse([flag, "1"])


def test_all_that_is_ignored_is_one_note(run: Run, path: str) -> None:
    flags = shlex.split("-ngl 99 -fa on --mlock -sm none -t 1 -tb 8 --no-perf --color")
    result = run("generate", "-m", path, "--temp", 0, "-n", 3, "-q", *flags, "once upon a time")
    assert result.status == 0
    assert result.err == (
        "linnet: ignored: -ngl 99, -sm none (no GPU), -fa on (attention is always fused), --mlock "
        "(weights are mapped), --no-perf (the last line on stderr has the timings), --color (see "
        "NO_COLOR), -tb 8 (-t is given)\n"
    )
    assert result.out == run("generate", "-m", path, "--temp", 0, "-n", 3, "-q", "-t", 1,
                             "once upon a time").out  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "prompt"),
    [
        ("-fa hi", "hi"), ("-fa on hi", "hi"), ("-fa=auto hi", "hi"), ("hi -fa", "hi"),
        ("-fa off -p hi", "hi"), ("--keep -1 hi", "hi"), ("-ngl -n 3 hi", None), ("hi -ngl", None),
    ],
)  # fmt: skip
def test_an_ignored_flag_takes_its_value_and_no_other(argv: str, prompt: str | None) -> None:
    if prompt is None:
        with pytest.raises(ValueError, match="-ngl: expected one argument"):
            parsed("generate", argv)
    else:
        found = parsed("generate", argv)
        assert prompt in (found["prompt"], found["prompt_text"])


@pytest.mark.parametrize(
    ("command", "argv", "expected"),
    [
        ("generate", "--max-tokens 5", {"max_tokens": 5}),
        ("generate", "--max-tokens 5 -n 6", {"max_tokens": 6}),
        ("generate", "-n 6 --max-tokens=5", {"max_tokens": 6}),
        ("generate", "-r a --reverse-prompt b --stop c", {"stop": ["a", "b", "c"]}),
        ("generate", "-tb 3", {"threads": 3}),
        ("generate", "-b 2048 -ub 256", {"batch_size": 256}),
        ("generate", "-ub 256 -b 2048", {"batch_size": 256}),
        ("generate", "-st", {"chat": True}),
        ("generate", "--max-kv-size 64", {"ctx_size": 64}),
        ("generate", "--format json", {"json_schema": "{}"}),
        ("generate", "--think", {"reasoning": "on"}),
        ("generate", "--think=false", {"reasoning": "off"}),
        ("generate", "-sp", {"skip_special": False}),
        ("generate", "--draft-model x --num-draft-tokens 3", {"draft_model": "x", "draft_max": 3}),
        ("serve", "--max-model-len 64 --max-num-seqs 2", {"ctx_size": 64, "parallel": 2}),
        ("serve", "--served-model-name a --no-webui", {"alias": "a", "ui": False}),
        ("perplexity", "--kl-divergence-base x", {"kl_base": "x"}),
    ],
)  # fmt: skip
def test_other_programs_spellings(command: str, argv: str, expected: dict[str, object]) -> None:
    found = parsed(command, argv)
    assert {name: found[name] for name in expected} == expected


def test_logit_biases_and_letters_of_samplers() -> None:
    params = sampling("-l 5-inf -l 6+1.5 --sampler-seq kmt")
    assert params.logit_bias == {5: float("-inf"), 6: 1.5}
    assert params.samplers == ("top_k", "min_p", "temperature")
    for argv, message in (
        ("-l 5", "-l is '5'; it must be a token id"),
        ("-l 5+x", "-l is '5[+]x'"),
        ("--sampler-seq kq", "--sampler-seq has 'q'; there are e penalties, d dry"),
        ("--sampler-seq k --samplers top_k", "one will do"),
    ):
        with pytest.raises(ValueError, match=message):
            sampling(argv)


def sampling(line: str) -> SamplingParams:
    """What flags make of how to sample."""
    return SamplingParams(**sampling_fields(cli.command_parser("generate").parse(line.split())))


WITH_FLAGS = [
    line for _, line in check_command_lines.lines() if " --model " in line or " -m " in line
]


@pytest.mark.parametrize("line", WITH_FLAGS)
def test_command_lines_of_other_documents(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.gguf").touch()
    (command, *argv), _ = check_command_lines.words(line, "model.gguf", "model.gguf")
    if any(flag in argv for flag in ("--in-prefix", "--reranking", "--kv-bits")):
        with pytest.raises(ValueError, match="is not supported: "):
            cli.command_parser(command).parse(argv)
    else:
        assert "model.gguf" in cli.command_parser(command).parse(argv).model


# ---- variables -----------------------------------------------------------------------------------


def test_variables_set_flags_and_flags_win(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "CTX_SIZE": "64", "NO_MMAP": "1", "ESCAPE": "0", "SPECIAL": "yes", "QUIET": "off",
        "PORT": "x", "N_PREDICT": "5", "STOP": "a", "HF_REPO": "u/m", "TEMPERATURE": "",
        "PROMPT": "no", "OUTPUT": "json",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"LINNET_ARG_{name}", value)
    found = parsed("generate")
    assert (found["ctx_size"], found["no_mmap"], found["escape"]) == (64, True, False)
    assert (found["skip_special"], found["quiet"], found["model"]) == (False, False, "hf://u/m")
    assert (found["max_tokens"], found["stop"], found["output"]) == (5, ["a"], "json")
    assert found["prompt_text"] is None
    assert "temperature" not in found
    found = parsed("generate", "-c 32 -n 6 --stop b --escape -o text -m x --max-tokens 7")
    assert (found["ctx_size"], found["max_tokens"], found["stop"]) == (32, 6, ["b"])
    assert (found["escape"], found["output"], found["model"]) == (True, "text", "x")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CTX_SIZE", "-1", "LINNET_ARG_CTX_SIZE: '-1' is not a whole number from 0 to 16777216"),
        ("OUTPUT", "xml", "LINNET_ARG_OUTPUT: invalid choice: 'xml'"),
        ("NO_MMAP", "2", "LINNET_ARG_NO_MMAP is '2'; it must be 1 or 0"),
        ("TEMP", "-1", "LINNET_ARG_TEMP is -1.0; it must be a number from 0 to 100"),
        ("N_PREDICT", "x", "LINNET_ARG_N_PREDICT: invalid int value: 'x'"),
    ],
)
def test_wrong_variables_are_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"LINNET_ARG_{name}", value)
    check_refused(run("generate", "x"), f"linnet: {message}")


def test_one_flag_has_one_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEMP", "TEMPERATURE"):
        monkeypatch.setenv(f"LINNET_ARG_{name}", "1")
    both = "LINNET_ARG_TEMP and LINNET_ARG_TEMPERATURE are set; one will do"
    check_refused(run("generate", "x"), both)


def test_no_variable_of_a_flag_is_one_of_linnets_own(parsers: dict[str, Parser]) -> None:
    flags = {flag for parser in parsers.values() for flag in parser._option_string_actions}
    text = "".join(file.read_text() for file in (ROOT / "kernels").rglob("*.py"))
    own = set(re.findall(r'"(LINNET_\w+)"', text))
    assert "LINNET_CACHE_DIR" in own
    assert not own & {variable(flag) for flag in flags}


# ---- misspelled ones -----------------------------------------------------------------------------


KNOWN = (
    "--temp --temperature --threads --ctx-size --no-mmap --no-escape --model --version --stop "
    "--seed --top-k --top-p -m -c -hf"
)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--tem", ["--temp", "--temperature"]), ("--thraeds", ["--threads"]),
        ("--cntx-size", ["--ctx-size"]), ("--nmmap", []), ("--no-mmapp", ["--no-mmap"]),
        ("--no-perf", []), ("--delay", []), ("--no-conversation", []), ("-sp", []), ("-x", []),
        ("--seeds", ["--seed"]), ("--topk", ["--top-k"]), ("--zzz", []),
    ],
)  # fmt: skip
def test_guesses_are_near_or_none(word: str, meant: list[str]) -> None:
    assert close(word, KNOWN.split())[: len(meant) or None] == meant


# ---- help ----------------------------------------------------------------------------------------


def test_nothing_at_all_shows_the_help(run: Run) -> None:
    for argv in ([], ["help"], ["-h"]):
        assert run(*argv) == run("--help")
    assert run("help", "chat") == run("chat", "--help")
    assert run("version").out == run("chat", "--version").out == f"linnet {__version__}\n"


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_fits_and_breaks_no_word(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    wide = run(command, "--help").out
    assert max(map(len, wide.splitlines())) <= COLUMNS
    usage = wide.split("\n\n")[0]
    assert usage.startswith(f"usage: linnet {command}")
    assert "\n" not in usage
    assert "--version" not in wide
    assert "LINNET_ARG_" in wide
    monkeypatch.setenv("COLUMNS", "60")
    types = re.compile(r"\bQ\d_\w+")
    assert types.findall(run(command, "--help").out) == types.findall(wide)


@pytest.mark.parametrize("command", EXAMPLES)
def test_examples_are_command_lines(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for example in EXAMPLES[command]:
        for file in re.findall(r"[\w-]+\.gguf", example):
            Path(file).touch()
    for example in EXAMPLES[command]:
        words = shlex.split(example.replace("<(", "").replace("h)", "h"), comments=True)
        start = next((i for i, word in enumerate(words) if word.endswith("linnet")), None)
        if start is not None:
            assert words[start + 1] == command
            cli.command_parser(command).parse(words[start + 2 :])


def test_a_version_imports_no_parser() -> None:
    code = (
        "import sys; from linnet.engine.cli.main import main; main(['--version']); "
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "linnet.engine.cli.main" in modules
    assert not modules & {"argparse", "numpy", "linnet.engine.cli.parser"}


# ---- shells --------------------------------------------------------------------------------------


def completions(line: str, command: str | None = None) -> list[str]:
    """What a shell is told that may end this line."""
    pytest.importorskip("argcomplete")
    variables = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    code = "import os; os.dup2(1, 8); from linnet.engine.cli.main import main; main(COMMAND)"
    done = subprocess.run(
        [sys.executable, "-c", code.replace("COMMAND", repr([command] if command else []))],
        capture_output=True, text=True, env=os.environ | variables | {"PYTHONPATH": str(ROOT)},
        check=True,
    )  # fmt: skip
    return [word.strip() for word in done.stdout.split("\013")]


def test_shells_complete_commands_flags_and_values() -> None:
    assert completions("linnet qu") == ["quantize"]
    assert completions("linnet tune --res") == ["--reset"]
    assert completions("linnet tune -o ") == ["md", "json"]
    assert "--isa" in completions("generate --is", "generate")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_to_source(run: Run, shell: str) -> None:
    pytest.importorskip("argcomplete")
    result = run("completion", shell)
    assert (result.status, result.err) == (0, "")
    assert "argcomplete" in result.out.lower()
    assert "linnet" in result.out
    check_refused(run("completion", "tcsh"), "'tcsh'", "bash")


def test_man_pages_have_every_command_and_flag(parsers: dict[str, Parser], tmp_path: Path) -> None:
    man_pages.main([str(tmp_path)])
    for command, parser in parsers.items():
        text = (tmp_path / f"linnet-{command}.1").read_text()
        assert re.match(rf'\.TH LINNET\\-{command.upper()} 1 "" "linnet ', text)
        assert {line.split()[0] for line in text.splitlines() if line.startswith(".")} <= MACROS
        words = text.replace("\\-", "-").replace(",", " ").split()
        assert set(parser._option_string_actions) <= {*words}
        assert f"\n.B {command}\n" in (tmp_path / "linnet.1").read_text()


# ---- run -----------------------------------------------------------------------------------------


def test_run_answers_what_is_given(run: Run, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = "-m", path, "-q", "--temp", "0", "-n", "3"
    expected = run("generate", *flags, "once upon a time")
    assert run("run", *flags, "-p", "once upon a time") == expected
    assert run("run", *flags, stdin=b"once upon a time\n") == expected
    begun: list[object] = []
    monkeypatch.setattr(
        "linnet.engine.cli.chat.run", lambda arguments: begun.append(arguments) or 0
    )
    monkeypatch.setattr(sys, "stdin", _Terminal())
    assert cli.main(["run", *flags]) == 0
    assert begun


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_llm_takes_biases_as_texts(path: str) -> None:
    with LLM(path) as llm:
        ids = llm.generate("to be", max_tokens=2, temperature=0).token_ids
        barred = llm.generate("to be", max_tokens=2, temperature=0, logit_bias=[f"{ids[0]}-inf"])
        assert barred.token_ids[0] != ids[0]
