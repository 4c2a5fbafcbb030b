"""Flags that give answers a shape: what `generate` prints, and which values end it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from test_cli import Run, check_refused, run

from linnet import LLM

__all__ = ["run"]  # a fixture
SCHEMA = {
    "type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"],
    "additionalProperties": False,
}  # fmt: skip
GBNF = 'root ::= "yes" | "no"\n'
HOW = "-q", "--no-display-prompt", "--temp", "0", "-n", "60", "so:"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a schema and a grammar, from which commands are run."""
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "grammar.gbnf").write_text(GBNF)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "flags",
    [("-j", json.dumps(SCHEMA)), ("--json-schema", json.dumps(SCHEMA)), ("-jf", "schema.json"),
     ("--json-schema-file", "schema.json")],
    ids=lambda flags: flags[0],
)  # fmt: skip
@pytest.mark.usefixtures("files")
def test_json_by_a_schema(run: Run, flags: tuple[str, ...]) -> None:
    result = run("generate", *flags, *HOW)
    assert (result.status, result.err) == (0, "")
    assert json.loads(result.out) in ({"a": 1}, {"a": 2})


@pytest.mark.parametrize(
    "flags",
    [("--grammar", GBNF), ("--grammar-file", "grammar.gbnf"), ("--regex", "yes|no"),
     ("--choice", "yes", "--choice", "no")],
    ids=lambda flags: flags[0],
)  # fmt: skip
@pytest.mark.usefixtures("files")
def test_one_of_two_texts(run: Run, flags: tuple[str, ...]) -> None:
    result = run("generate", *flags, *HOW)
    assert (result.status, result.out, result.err) in ((0, "yes\n", ""), (0, "no\n", ""))


@pytest.mark.parametrize("command", [["generate", "hello"], ["serve"]], ids=lambda c: c[0])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-j", "{"), "-j is no JSON"),
        (("-j", "null"), "-j is None; it must be a JSON schema"),
        (("-j", '{"type": "x"}'), "-j cannot be enforced"),
        (("-jf", "nowhere.json"), "'nowhere.json': No such file"),
        (("-jf", "grammar.gbnf"), "-j is no JSON"),
        (("--grammar-file", "schema.json"), "--grammar cannot be enforced"),
        (("--regex", "("), "--regex cannot be enforced"),
        (("-j", "{}", "-jf", "schema.json"), "--json-schema and --json-schema-file are given"),
        (("-j", "{}", "--grammar-file", "grammar.gbnf"), "-j and --grammar are given"),
        (("--reasoning-budget", "-2"), "'-2' is not a whole number"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("files")
def test_what_is_refused(run: Run, command: list[str], flags: tuple[str, ...], said: str) -> None:
    check_refused(run(*command, *flags), said)


@pytest.mark.usefixtures("files")
def test_without_llguidance_it_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    check_refused(run("generate", "-j", "{}", *HOW), 'pip install "linnet-llm[structured]"')


@pytest.mark.parametrize("budget", [0, 3])
def test_reasoning_has_a_budget(run: Run, files: Path, budget: int) -> None:
    template = files / "template.jinja"
    template.write_text("{{ messages[-1].content }}<think>{# up to </think> #}")
    flags = "--chat-template-file", template, "--stop", "</think>", "-o", "json"
    result = run("generate", *flags, "--reasoning-budget", budget, *HOW)
    assert result.err == ""
    with LLM() as llm:
        n_closing = len(llm.tokenizer.encode("</think>", add_special=False))
    assert json.loads(result.out)["stats"]["n_generated"] == budget + n_closing
