"""`--prompt-cache FILE`: what a command has computed of a prompt, the next one finds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_chat_cli import GREEDY, path
from test_cli import Run, run

__all__ = ["path", "run"]  # fixtures
PROMPT = "to be or not to be that is the question"


def test_generate_reads_it_where_it_is_there_and_writes_it(
    run: Run, path: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "prompt.kv")
    generate = ["generate", "-m", path, *GREEDY, "-o", "json", "--prompt-cache"]
    raw = "--raw", PROMPT
    more = "--raw", f"{PROMPT} and so on"
    first, again, longer, _ = (
        json.loads(run(*generate, file, *argv).out) for argv in (raw, raw, more, [PROMPT])
    )
    n = first["stats"]["n_prompt"]
    assert [each["stats"]["n_cached"] for each in (first, again, longer)] == [0, n - 1, n]
    assert first["token_ids"] == again["token_ids"]
    plain = json.loads(run("generate", "-m", path, *GREEDY, "-o", "json", *more).out)
    assert longer["token_ids"] == plain["token_ids"]
    again = json.loads(run(*generate, file, "--chat", PROMPT).out)
    assert again["stats"]["n_cached"] == again["stats"]["n_prompt"] - 1


def test_chat_writes_its_last_prompt(run: Run, path: str, tmp_path: Path) -> None:
    file = str(tmp_path / "prompt.kv")
    chat = ["chat", "-m", path, *GREEDY, "--prompt-cache", file]
    assert run(*chat, stdin=b"/exit\n").status == 0
    assert not Path(file).exists()
    plain = run("chat", "-m", path, *GREEDY, stdin=b"hello\nagain\n").out
    for _ in range(2):
        assert run(*chat, stdin=b"hello\nagain\n").out == plain
        assert Path(file).stat().st_size > 1000


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_file_that_is_no_prefix_is_refused_and_left_alone(
    run: Run, path: str, tmp_path: Path, command: str
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("dear diary")
    argv = [command, "-m", path, *GREEDY, "--prompt-cache", str(file)]
    result = run(*argv, *(["x"] if command == "generate" else []), stdin=b"x\n")
    assert (result.status, result.out) == (2, "")
    assert result.err == f"linnet: {str(file)!r}: it is not a prefix that linnet has saved\n"
    assert file.read_text() == "dear diary"
