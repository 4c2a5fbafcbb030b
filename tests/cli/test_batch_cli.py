"""`linnet batch`: its answers, how it ends, and that it goes on after any end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import check_batch
import pytest
from check_batch import by_id
from support import ROOT
from support.batches import TINY, mixed, read, request, write
from support.terminal_process import linnet_at_terminal
from test_cli import Run, check_refused, run

from linnet import LLM
from linnet.engine.batch.output import Counts
from linnet.engine.cli import batch_progress
from linnet.engine.cli import main as cli

__all__ = ["run"]  # a fixture
N = 24
# Ends the process amid the K-th answer of a run: by a signal once it is written, or by SIGKILL with
# so many bytes of it written. A second signal of the same kind would end it at once.
AMID = """
import os, signal, sys
from linnet.__main__ import main
from linnet.engine.batch.output import Output
k, how, n_bytes = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
append, n = Output._append, 0
def counted(output, line):
    global n
    n += 1
    if n == k and how == "SIGKILL":
        os.write(output._file.fileno(), line[:n_bytes])
    place = append(output, line) if n != k or how != "SIGKILL" else 0
    if n == k:
        os.kill(os.getpid(), getattr(signal, how))
    return place
Output._append = counted
sys.argv[1:4] = []
main("batch")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Requests of all kinds, one that is refused, and one line that is none."""
    refused = request("refused", "chat", messages=[])
    return write(tmp_path / "in.jsonl", [*mixed(N - 2), refused, b"nonsense"])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture(scope="module")
def expected(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the answers to `mixed` say, of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    source, out = write(folder / "in", mixed(N - 2)), folder / "out"
    assert cli.main(["batch", str(source), str(out), "-q", "-m", str(model)]) == 0
    return by_id(out)


def check_all(out: Path, expected: dict[str, Any]) -> None:
    """All are answered, as in a run that nothing disturbs."""
    found = by_id(out)
    assert found.pop("refused")[0] == 400
    assert found.pop(None).startswith(f"line {N}: ")
    assert found == expected


def test_a_file_is_answered_and_not_again(
    run: Run, model: Path, source: Path, out: Path, expected: dict[str, Any]
) -> None:
    result = run("batch", source, out, "-m", model)
    assert (result.status, result.out) == (0, "")
    assert re.fullmatch(
        r"linnet: 24 answers, 2 errors, prompt [\d,]+ tokens, [\d,]+ tok/s, generated [\d,]+ "
        r"tokens, [\d,]+ tok/s, [\d.]+ s\n", result.err,
    )  # fmt: skip
    check_all(out, expected)
    before = out.read_bytes()
    result = run("batch", "-i", source, "-o", out, "-m", "/no/such/model")  # which none needs
    assert (result.status, result.err) == (0, "linnet: 24 answers, all from before, 2 errors\n")
    assert out.read_bytes() == before
    result = run("batch", source, out, "-m", model, "--retry-errors", "-q")
    assert (result.status, result.out, result.err) == (0, "", "")
    check_all(out, expected)
    assert read(out)[-1]["custom_id"] == "refused"


def test_in_order_and_by_shards(
    run: Run, model: Path, source: Path, out: Path, expected: dict[str, Any]
) -> None:
    ids = [*(line["custom_id"] for line in mixed(N - 2)), "refused", None]
    parts = []
    for i in (1, 2, 3):
        part = out.with_name(f"part-{i}")
        argv = "batch", source, part, "-m", model, "-np", 2, "--shard", f"{i}/3", "--ordered", "-q"
        assert run(*argv).status == 0
        assert [answer["custom_id"] for answer in read(part)] == ids[i - 1 :: 3]
        parts.append(part.read_bytes())
    out.write_bytes(b"".join(parts))
    check_all(out, expected)
    result = run("batch", source, out, "--ordered")
    assert (result.status, result.err) == (0, "linnet: 24 answers, all from before, 2 errors\n")
    assert [answer["custom_id"] for answer in read(out)] == ids


def ended(
    how: str, k: int, source: Path, out: Path, model: Path, n_bytes: int = 0
) -> tuple[int, str]:
    """The status, and stderr, of a process that is ended amid the k-th answer that it writes."""
    command = [sys.executable, "-c", AMID, str(k), how, str(n_bytes)]
    done = subprocess.run(
        [*command, str(source), str(out), "-m", str(model), "-np", "3"], text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    return done.returncode, done.stderr


def test_killed_at_any_moment_it_goes_on(
    run: Run, model: Path, source: Path, out: Path, expected: dict[str, Any]
) -> None:
    assert ended("SIGKILL", 6, source, out, model, n_bytes=0)[0] == -signal.SIGKILL
    assert len(read(out)) == 5
    assert ended("SIGKILL", 9, source, out, model, n_bytes=77)[0] == -signal.SIGKILL
    data = out.read_bytes()
    assert (data.count(b"\n"), len(data.rpartition(b"\n")[2])) == (13, 77)
    result = run("batch", source, out, "-m", model)
    assert result.status == 0
    assert result.err.startswith("linnet: 24 answers, 13 of them from before, 2 errors, prompt ")
    check_all(out, expected)


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM"])
def test_stopped_it_says_so_and_goes_on(
    run: Run, model: Path, source: Path, out: Path, expected: dict[str, Any], how: str
) -> None:
    status, err = ended(how, 7, source, out, model)
    assert status == 128 + getattr(signal, how)
    n = len(read(out))
    assert 7 <= n < N
    assert re.fullmatch(
        rf"linnet: stopped at {n} of 24 answers, \d errors?, .*; the same command goes on from "
        r"there\n", err,
    )  # fmt: skip
    assert run("batch", source, out, "-m", model, "-q").status == 0
    check_all(out, expected)


def test_what_flags_say_is_for_requests_that_do_not(run: Run, model: Path, tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = [{}, {"max_tokens": 2}, {"temperature": 5}]
    lines = [request(str(i), prompt="the", **body) for i, body in enumerate(bodies)]
    source, out = write(tmp_path / "in", lines), tmp_path / "out"
    flags = "--temp", 0, "-n", 5, "--ignore-eos", "-a", "tiny", "-c", 64
    assert run("batch", source, out, "-m", model, "--ordered", "-q", *flags).status == 0
    answers = [answer["response"]["body"] for answer in read(out)]
    assert {body["model"] for body in answers} == {"tiny"}
    assert [body["usage"]["completion_tokens"] for body in answers] == [5, 2, 5]
    with LLM(model) as llm:
        text = llm.generate("the", temperature=0, max_tokens=5, ignore_eos=True).text
    assert answers[0]["choices"][0]["text"] == text
    assert text.startswith(answers[1]["choices"][0]["text"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["in"], "two files are wanted"), ([], "two files are wanted"),
        (["in", "-o", "out"], "two files are wanted"),
        (["in", "out", "-i", "in"], "two files are wanted"),
        (["missing", "out"], "missing"), (["in", "in"], "answers go to another file"),
        (["in", "no/out"], "no/out"), (["in", "out", "more"], "more"),
        (["in", "out", "--shard", "3"], "--shard"), (["in", "out", "--shard", "0/2"], "1 to"),
        (["in", "out", "--shard", "3/2"], "'3/2' is no shard: there are 2"),
        (["in", "out", "-np", "0"], "1 to 64"), (["in", "out", "--top-p", "2"], "--top-p is 2"),
        (["in", "out", "--port", "1"], "--port"), (["in", "out", "-m", "no.gguf"], "no.gguf"),
        (["model", "out"], "'model' has no request"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_arguments(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = write(tmp_path / "in", [request("a", prompt="x")]).read_bytes()
    (tmp_path / "model").write_bytes(b"GGUF\x03\x00\x00\x00")
    check_refused(run("batch", *flags), says)
    assert (tmp_path / "in").read_bytes() == before


def test_a_file_that_is_not_ours_stays_as_it_is(run: Run, source: Path, out: Path) -> None:
    out.write_text('{"mine": 1}\n')
    check_refused(run("batch", source, out), "out.jsonl', line 1: no answer of a batch")
    assert out.read_text() == '{"mine": 1}\n'


def test_a_script_checks_what_was_killed(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here nothing is; it notices an answer that is another one."""

    def run(argv: list[str], out: Path, until: int | None = None) -> None:
        assert cli.main(["batch", argv[0], str(out), *argv[1:], "-q"]) == 0
        if until is not None:
            out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:until]))

    monkeypatch.setattr(check_batch, "run", run)
    argv = ["-m", str(model), "--lines", "9", "--kills", "1", "--max-tokens", "3"]
    assert check_batch.main(argv) == 0
    assert capsys.readouterr().out == "9 answers to 9 requests, 0 of them others than undisturbed\n"
    found = iter([{"a": 1, "b": 2}, {"a": 1, "b": 3}])
    monkeypatch.setattr(check_batch, "by_id", lambda _: next(found))
    assert check_batch.main([*argv[:3], "2", "--kills", "0"]) == 1
    assert "1 of them others" in capsys.readouterr().out


def test_a_terminal_shows_a_bar(model: Path, source: Path, out: Path) -> None:
    with linnet_at_terminal("batch", str(source), str(out), "-m", str(model)) as terminal:
        shown = terminal.until("linnet: 24 answers, 2 errors")
        assert "100%" in shown
        assert "24/24" in shown
        assert terminal.wait() == 0


def test_elsewhere_there_is_a_line_from_time_to_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 100.0, 110.0, 131.0, 140.0, 7300.0, 7300.0])
    monkeypatch.setattr(batch_progress.time, "perf_counter", lambda: next(clock))
    counts = Counts(answers=1000, errors=1, prompt_tokens=5000, generated_tokens=70)
    progress = batch_progress.Progress(counts, replace(counts), 1004, quiet=False)  # at 0
    with progress:  # at 100
        for n_prompt, n_errors in ((31, 0), (62, 1), (0, 0), (0, 0)):
            counts.answers += 1
            counts.errors += n_errors
            counts.prompt_tokens += n_prompt
            progress.update()
    progress.conclude()
    assert capsys.readouterr().err.splitlines() == [
        "linnet: 1,002 of 1,004 answers, 2 errors, prompt 93 tokens, 3 tok/s, generated 0 tokens, "
        "0 tok/s, 31.0 s left",
        "linnet: 1,004 of 1,004 answers, 2 errors, prompt 93 tokens, 0 tok/s, generated 0 tokens, "
        "0 tok/s, 0.0 s left",
        "linnet: 1,004 answers, 1,000 of them from before, 2 errors, prompt 93 tokens, 0 tok/s, "
        "generated 0 tokens, 0 tok/s, 2 h 0 min",
    ]
