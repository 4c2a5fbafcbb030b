"""Templates where Python is not the program that runs, and workers that answer what they like."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from support.byte_pairs import build
from support.serving import until
from support.systems import needs_posix, needs_proc

from linnet.engine.chat import sandbox
from linnet.engine.chat.sandbox import IN_WORKER, SandboxedTemplate, TemplateError
from linnet.engine.chat.template import ChatTemplate

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
SOURCE = "{{ messages[0].content }}"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """One that is no Python, and notes that it was started."""
    path = tmp_path / "myprogram"
    path.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    path.chmod(0o755)
    return path


@needs_posix
@pytest.mark.parametrize("frozen", [False, True])
def test_a_program_that_embeds_python_is_not_started_again(
    program: Path, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", str(program))
    monkeypatch.setattr("sys.frozen", frozen, raising=False)
    template = ChatTemplate(SOURCE, build())  # by the Python of its library
    assert template.render(HELLO["messages"]) == "hello"
    template.close()
    for prefix in ("sys.exec_prefix", "sys.base_exec_prefix"):
        monkeypatch.setattr(prefix, str(program.parent))
    message = r"need a Python to render them: sys\.executable is '.*myprogram', and there is no .*"
    with pytest.raises(RuntimeError, match=message + "; set sys.executable to one"):
        ChatTemplate(SOURCE, build())
    assert not (program.parent / "started").exists()


@needs_posix
@pytest.mark.parametrize("executable", [None, "", "/no/such/python3", "."])
def test_without_a_python_of_its_own(
    executable: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = sys.executable
    monkeypatch.setattr("sys.executable", executable)
    monkeypatch.setattr("sys.exec_prefix", str(tmp_path))
    monkeypatch.setattr("sys.base_exec_prefix", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"need a Python to render them: sys\.executable is"):
        ChatTemplate(SOURCE, build())
    (tmp_path / "bin").mkdir()
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (tmp_path / "bin" / name).symlink_to(python)
    assert ChatTemplate(SOURCE, build()).render(HELLO["messages"]) == "hello"


@pytest.mark.parametrize(
    ("name", "is_python"),
    [
        *(("python", True), ("python3", True), ("python3.13t", True), ("Python", True)),
        *(("pypy3.11", True), ("python.exe", True), ("python3-dbg", True), ("uwsgi", False)),
        *(("blender", False), ("python-app", False), ("mypython3", False), ("", False)),
    ],
)
def test_what_is_named_as_a_python(name: str, is_python: bool) -> None:
    assert bool(sandbox.PYTHON.fullmatch(name)) == is_python


def test_a_program_started_as_a_worker_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IN_WORKER, "1")
    with pytest.raises(RuntimeError, match="was started to render a chat template"):
        ChatTemplate(SOURCE, build())


# ---- what comes from the worker ------------------------------------------------------------------


def head(how: bytes, n_bytes: int) -> bytes:
    return how + n_bytes.to_bytes(8, "little")


READY = head(b"+", 0)
ANSWERS: dict[str, bytes] = {
    "a banner": b"Welcome to my program, version 1.0\n",
    "nothing": b"",
    "little": b"+",
    "a text where none is due": head(b"+", 2) + b"hi",
    "letters for a length": b"+zzzzzzzz",
    "more than there is": READY + head(b"+", 100) + b"a",
    "more than there may be": READY + head(b"+", 1 << 62) + b"a" * 99,
    "no sign": READY + head(b"?", 1) + b"a",
    "no UTF-8": READY + READY + head(b"+", 2) + b"\xff\xfe",
    "no UTF-8 in a complaint": READY + head(b"-", 2) + b"\xff\xfe",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_answers_that_are_not_of_a_renderer_are_typed_errors(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "worker.py"
    fake.write_text(f"import sys\nsys.stdout.buffer.write({answer!r})\n")
    monkeypatch.setattr("linnet.engine.chat.sandbox.WORKER", fake)
    with pytest.raises(TemplateError, match=r"answers what no renderer|ends the process"):
        SandboxedTemplate(SOURCE, name="it", seconds=30).render(HELLO)


@pytest.mark.parametrize(
    "answer", [b"", b"[", b"{}", b"[1]", b'["a"]', b'["a", "b", "c"]', b"[" * 99999, b"null"]
)
def test_attempts_are_not_trusted_either(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, answers = tmp_path / "worker.py", READY + READY + head(b"+", len(answer)) + answer
    fake.write_text(
        f"import sys\nsys.stdout.buffer.write({answers!r})\nsys.stdout.flush()\nsys.stdin.read()\n"
    )
    monkeypatch.setattr("linnet.engine.chat.sandbox.WORKER", fake)
    template = SandboxedTemplate(SOURCE, name="it", seconds=30)
    with pytest.raises(TemplateError, match="the chat template answers what no renderer"):
        template.attempts([HELLO, HELLO])


@needs_proc
def test_whoever_holds_the_pipes_ends_with_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell script that is named as a Python, and what it starts."""
    fake = tmp_path / "python3"
    fake.write_text(f"#!/bin/sh\nsleep 1000 &\necho $! > {tmp_path}/pid\nwait\n")
    fake.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fake))
    monkeypatch.setattr("linnet.engine.chat.sandbox.START_SECONDS", 1)
    with pytest.raises(TemplateError, match="start of a chat template takes longer than 1 s"):
        SandboxedTemplate(SOURCE, name="it", seconds=30)
    state = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    until(lambda: not state.exists() or state.read_text().split()[2] in "ZX")


# ---- attempts ------------------------------------------------------------------------------------


def test_attempts_that_come_to_nothing_leave_the_others() -> None:
    template = SandboxedTemplate("{{ 'a' * n }}{{ 1 / m }}", name="it", seconds=30)
    worker = template._worker
    values: list[dict[str, Any]] = [{"n": 1, "m": 1}, {"n": 1, "m": 0}, {"n": 1 << 17, "m": 1}, {}]
    assert template.attempts(values) == ["a1.0", None, None, None]
    assert template.render({"n": 1 << 17, "m": 1}) == "a" * (1 << 17) + "1.0"
    assert template._worker is worker
    with pytest.raises(TemplateError, match="more than 512 MiB"):
        template.attempts([{"n": 1 << 30, "m": 1}])
    assert template.attempts(values[:1]) == ["a1.0"]
    template.close()


def test_attempts_share_a_deadline() -> None:
    source = "{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}"
    template = SandboxedTemplate(source, name="it", seconds=30)
    assert template._worker is not None
    template._worker._seconds = 0.2
    with pytest.raises(TemplateError, match=r"takes longer than 0\.2 s"):
        template.attempts([{"n": 1}, {"n": 99999}])


@needs_proc
def test_the_worker_has_the_environment_of_the_program() -> None:
    template = SandboxedTemplate(SOURCE, name="it", seconds=30)
    assert template._worker is not None
    environment = Path(f"/proc/{template._worker._process.pid}/environ").read_bytes()
    assert IN_WORKER.encode() + b"=1" in environment
    assert IN_WORKER not in os.environ
    template.close()
