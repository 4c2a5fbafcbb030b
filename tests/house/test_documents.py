"""The documents speak of files that are there, and are pages of a site."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT

from linnet.engine.cli.main import ALIASES, command_parser

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "examples/README.md"])
PATH = re.compile(
    r"(?<![\w./-])(?:docs|engine|examples|kernels|models|scripts|tests|\.ci)/[\w/.*-]*\w"
)
TEST = re.compile(r"`(test_\w+\.py)`")
LINK = re.compile(r"\]\(([^):#]+)\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_what_a_document_names_is_there(document: Path) -> None:
    text = document.read_text()
    named = {*PATH.findall(text), *(f"tests/*/{name}" for name in TEST.findall(text))}
    assert named
    assert [path for path in sorted(named) if not any(ROOT.glob(path))] == []
    assert [link for link in LINK.findall(text) if not (document.parent / link).exists()] == []


def test_what_docstrings_say_of_arguments_is_a_list_on_a_page() -> None:
    pytest.importorskip("griffe")
    from docstring_lists import with_lists

    text = "What `x` is.\n\n`x`: one,\nor two. `y`: no.\n`z`, `w`: three.\n\nOf `x`:\n`v`: four"
    assert with_lists(text) == (
        "What `x` is.\n\n- `x`: one,\nor two. `y`: no.\n- `z`, `w`: three.\n\nOf `x`:\n`v`: four"
    )


def test_every_page_has_its_place() -> None:
    """Of the site, which `mkdocs build --strict` makes."""

    def pages(part: Any) -> Iterator[str]:
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict | list):
            for each in part.values() if isinstance(part, dict) else part:
                yield from pages(each)

    placed = [*pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])]
    assert sorted(placed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize(
    "document", ["README.md", "docs/index.md", "docs/python.md", "docs/scaling.md"]
)
def test_python_in_documents_compiles(document: str) -> None:
    text = (ROOT / document).read_text()
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert programs
    for program in programs:
        compile(program, document, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def command_lines(document: Path) -> Iterator[list[str]]:
    """The arguments of `linnet`, or of `generate`, whatever stands before it and after a pipe."""
    for block in re.findall(r"```console\n(.*?)```", document.read_text(), re.DOTALL):
        for line in re.findall(r"^\$ (.*(?:\\\n.*)*)", block, re.MULTILINE):
            words = shlex.split(line, comments=True)
            cut = next((i for i, word in enumerate(words) if word in {"|", "<", ">", "&"}), None)
            for i, word in enumerate(words[:cut]):
                if word in {"linnet", "generate"}:
                    yield words[i + (word == "linnet") : cut]
                    break


def test_command_lines_in_documents_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their flags are there, and take what they are given."""
    monkeypatch.chdir(tmp_path)
    of_commands = [argv for document in DOCUMENTS for argv in command_lines(document) if argv]
    assert len(of_commands) > 40
    for name, *argv in of_commands:
        for word in argv:
            if re.fullmatch(r"[\w.-]+\.gguf", word):
                Path(word).touch()
        with suppress(SystemExit):  # of --help; what is wrong is a ValueError
            command_parser(ALIASES.get(name, name)).parse(argv)


# ---- the workflow of GitHub Actions --------------------------------------------------------------

WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())


@pytest.mark.parametrize(("job", "last"), [("tests", "pytest -n auto"), ("checks", ".ci/checks")])
def test_the_workflow_does_what_the_readme_says(job: str, last: str) -> None:
    steps = WORKFLOW["jobs"][job]["steps"]
    install = 'pip install -e ".[dev]"'
    assert [step["run"] for step in steps if "run" in step] == [install, last]
    development = (ROOT / "README.md").read_text().partition("## Development")[2]
    assert f"$ {install}\n$ pytest -n auto\n" in development
    used = dict(step["uses"].split("@v") for step in steps if "uses" in step)
    assert int(used["actions/checkout"]) >= 4  # older ones run on a Node that is gone
    assert int(used["actions/setup-python"]) >= 5
    assert steps[1]["with"]["cache"] == "pip"


def test_the_workflow_takes_every_python_that_is_promised() -> None:
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(classifiers))
    matrix = WORKFLOW["jobs"]["tests"]["strategy"]["matrix"]
    assert matrix["python"] == promised
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    python = next(step["with"] for step in WORKFLOW["jobs"]["checks"]["steps"] if "with" in step)
    assert python["python-version"] in promised
