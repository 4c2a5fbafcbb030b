"""Every command under `python -O` and `-OO`, which leave out assertions and docstrings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from linnet.engine.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ("compare_templates", "fuzz_kernels", "stress_team", "soak", "synthetic")

HELP = """
from linnet.engine.cli.main import COMMANDS, main
for command in ([], *([name] for name in COMMANDS)):
    main([*command, "--help"])
"""


def run(level: str, *arguments: str, given: str = "") -> str:
    command = [sys.executable, level, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input=given)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("level", ["-O", "-OO"])
def test_help_is_what_it_is_with_docstrings(level: str) -> None:
    shown = run(level, "-c", HELP)
    assert shown == run("-X", "utf8", "-c", HELP)
    assert shown.count("usage: linnet") == 1 + len(COMMANDS)


@pytest.mark.parametrize("level", ["-O", "-OO"])
def test_text_is_generated(level: str) -> None:
    generate = ["-m", "linnet", "generate", "def f(", "-n", "4", "-q", "--temp", "0"]
    assert run(level, *generate) == run("-X", "utf8", *generate)


def test_a_template_is_rendered() -> None:
    source = (
        "from linnet.engine.llm import LLM\n"
        "with LLM(chat_template='{{ messages[0].content }}') as llm:\n"
        "    print(llm.chat_template.render([{'role': 'user', 'content': 'well'}]))\n"
    )
    assert run("-OO", "-c", source) == "well\n"


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_have_help(script: str) -> None:
    assert run("-OO", f"scripts/{script}.py", "--help").startswith("usage:")
