"""Examples run, and print what they say they do; the notebook's cells run in their order."""

from __future__ import annotations

import contextlib
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from support.gguf_builder import STRING
from support.scripted import Say, scripted
from support.serving import TEMPLATE, serving
from support.tiny_llama import TinyLlama

from linnet import Tokenizer
from linnet.engine.running.generation import Generation

FOLDER = ROOT / "examples"
NOTEBOOK = FOLDER / "quickstart.ipynb"
# Of those that take the model that linnet ships: what is in their output.
PLAIN = {
    "stream": r"length: \d+ tokens a second", "batch": r"(?s)'import' -> .*def add",
    "structured": r"\{'city': .*'river': .*\n(yes|no)\n\d+ (BC|AD)", "search": r"(0\.\d+  .*\n){3}",
    "likelihood": r"-[0-2]\.\d+ a token  for i in range", "packed_matrix": r"NMSE \d\.\de-05",
    "gather": r"\(given up\)",
}  # fmt: skip
ON_RAY = {"ray_data", "ray_serve"}  # which tests/batch/test_ray.py runs
OTHERS = {"prefix", "chat", "tools", "openai_client", "daft_table", *ON_RAY}

say = pytest.fixture(scripted)
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a chat template."""
    tiny = TinyLlama(
        type="Q4_K", n_ctx=2048, metadata=[("tokenizer.chat_template", STRING, TEMPLATE)]
    )
    return tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


def test_every_example_is_listed_and_run() -> None:
    names = {path.stem for path in FOLDER.glob("*.py")}
    assert names == PLAIN.keys() | OTHERS
    listed = re.findall(r"^\| `([\w.]+)`", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert {*listed} == {f"{name}.py" for name in names} | {NOTEBOOK.name}


@pytest.mark.parametrize("name", PLAIN)
def test_an_example_runs(name: str, run: Run) -> None:
    assert re.search(PLAIN[name], run(name))


def test_a_prefix_is_kept(run: Run, tmp_path: Path, chatting: Path) -> None:
    assert "tokens to" in run("prefix", chatting, tmp_path / "rules")
    again = run("prefix", chatting, tmp_path / "rules")
    assert re.search(r"(\d+) tokens from .*\n\1 of \d+ tokens were there already", again)


def test_a_conversation_goes_on_to_an_empty_line(
    run: Run, say: Say, chatting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(Tokenizer.from_gguf(chatting), "an answer")
    lines = iter(["hello", "and", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(lines))
    assert [line.strip() for line in run("chat", chatting).splitlines()] == ["an answer"] * 2


def test_a_tool_is_called(run: Run, chatting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = '<tool_call>{"name": "temperature", "arguments": {"city": "Bergen"}}</tool_call>'
    tokenizer = Tokenizer.from_gguf(chatting)
    answers = iter([call, "it is warm"])
    begin = Generation.__init__

    def scripted_anew(generation: Generation, *arguments: Any, **options: Any) -> None:
        scripted(monkeypatch)(tokenizer, next(answers))
        begin(generation, *arguments, **options)

    monkeypatch.setattr(Generation, "__init__", scripted_anew)
    assert run("tools", chatting).split("\n")[:2] == ["(asked for Bergen)", " it is warm"]


def test_openais_client_is_answered(run: Run) -> None:
    with serving() as server:
        assert run("openai_client", f"{server.url}/v1").strip()


def test_a_table_is_answered_by_daft(run: Run) -> None:
    pytest.importorskip("daft")
    assert re.search(r"(?s)def add.*'import' -> ' re", run("daft_table"))


def test_the_notebook_runs() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    names: dict[str, Any] = {}
    cells = ["".join(cell["source"]) for cell in _code(notebook)]
    for number, cell in enumerate(cells):
        with contextlib.redirect_stdout(None):
            exec(compile(cell, f"cell {number}", "exec"), names)
    assert repr(names["llm"]).endswith("closed)")
    assert [a.text for a in names["together"]] == [b.text for b in names["alone"]]


def _code(notebook: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # made anew by whoever opens it
            yield cell
