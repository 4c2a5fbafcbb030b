"""linnet where Python has no more than on Windows, or on macOS: see `support/other_systems.py`."""

from __future__ import annotations

import json
import marshal
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import ROOT
from support.fake_libraries import LibSystem
from support.other_systems import MISSING, MISSING_MODULES
from support.serving import SECONDS
from support.systems import needs_linux

from linnet import LLM, SamplingParams
from linnet.kernels import macos

pytestmark = needs_linux  # which has what others lack
PROMPT = "def add(a, b):"
SCRIPT = ROOT / "tests/support/other_systems.py"
PYTHON = [sys.executable, "-X", "warn_default_encoding", str(SCRIPT)]


@pytest.fixture(params=sorted(MISSING))
def system(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def elsewhere(system: str, *argv: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """`linnet ARGUMENTS`, or `-c CODE`, started; ended if it is still there at the end."""
    with subprocess.Popen(
        [*PYTHON, system, *argv], env=os.environ | env, text=True, encoding="utf-8",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def said(system: str, *argv: str, given: str = "", **env: str) -> tuple[str, str]:
    """What it writes to stdout and stderr; its status must be 0."""
    with elsewhere(system, *argv, **env) as process:
        out, err = process.communicate(given, timeout=120)
        assert process.returncode == 0, err
        return out, err


# ---- what is not there ---------------------------------------------------------------------------


def test_names_are_taken_from_linnet_and_nobody_else(system: str) -> None:
    code = """if True:
        import json, mmap, os, signal, sys
        names = [(os, "sched_getaffinity"), (mmap, "MADV_HUGEPAGE"), (os, "getuid")]
        found = [hasattr(module, name) for module, name in names]
        memory = mmap.mmap(-1, 10)
        found += [hasattr(memory, "madvise"), hasattr(signal, "SIGALRM")]
        try:
            import fcntl
        except ModuleNotFoundError:
            fcntl = None
        import subprocess
        found += [fcntl is not None, hasattr(subprocess.os, "getuid"), sys.platform]
        print(json.dumps(found))"""
    windows = system == "win32"
    there = not windows
    expected = [False, False, there, there, there, there, True, system]
    assert json.loads(said(system, "-c", code)[0]) == expected


def test_what_is_missing_there_is_here(system: str) -> None:
    """Else the list would be of names that nobody has."""
    import importlib
    import re

    for module, names in MISSING[system].items():
        is_missing = re.compile(re.sub(r"\s", "", names)).fullmatch
        assert any(map(is_missing, dir(module)))
        assert not is_missing("open")
    for name in MISSING_MODULES[system] - {"spwd"}:  # which newer Pythons lack everywhere
        assert importlib.import_module(name)


def test_a_text_in_no_certain_encoding_is_an_error() -> None:
    """Windows has others than UTF-8."""
    code = 'globals()["__name__"] = "linnet.x"; open("/dev/null").close()'
    with elsewhere("win32", "-c", code) as process:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "EncodingWarning" in err


def test_a_history_is_kept_in_utf_8(tmp_path: Path) -> None:
    code = """if True:
        from linnet.engine.cli.repl.history import HistoryFile, history_path
        HistoryFile(history_path()).store_string("caf\u00e9")
        print(ascii(HistoryFile(history_path()).load_history_strings()))"""
    assert said("win32", "-c", code, XDG_STATE_HOME=str(tmp_path))[0] == "['caf\\xe9']\n"


# ---- what works all the same ---------------------------------------------------------------------


def test_every_module_is_imported(system: str) -> None:
    """Those of the editor of `chat` and of `serve`, too."""
    code = """if True:
        import importlib, pkgutil, sys
        import linnet
        for module in pkgutil.walk_packages(linnet.__path__, "linnet."):
            if module.name != "linnet.__main__":
                try:
                    importlib.import_module(module.name)
                except ModuleNotFoundError as error:
                    if error.name != "ray":  # an extra that tests do without
                        raise
        print(*sys.modules)"""
    imported = said(system, "-c", code)[0].split()
    other = {"win32": "windows", "darwin": "macos"}[system]
    assert {f"linnet.engine.machine.{other}", "linnet.engine.cli.repl.editor"} <= {*imported}
    assert "linnet.kernels.runtime.team" in imported


@pytest.mark.parametrize("argv", [["--help"], ["bench", "--help"], ["serve", "--help"]])
def test_help(system: str, argv: list[str]) -> None:
    assert said(system, *argv)[0].startswith("usage: linnet")


def test_a_model_says_what_it_says_here_and_keeps_its_kernels(system: str, tmp_path: Path) -> None:
    """In the folder of this process's kernels where these are the same."""
    place = os.environ["LINNET_CACHE_DIR"] if system == "darwin" else str(tmp_path)
    with LLM(n_threads=2) as llm:
        expected = llm.generate(PROMPT, SamplingParams(max_tokens=12, temperature=0.0)).text
    argv = "generate", "-t2", "-n12", "--temp", "0", "-v", PROMPT
    out, err = said(system, *argv, LINNET_CACHE_DIR=place)
    assert out == f"{PROMPT}{expected}\n"
    assert "peak memory 123 MB" in err  # by the other system's library
    out, err = said(system, *argv, LINNET_CACHE_DIR=place)
    assert out == f"{PROMPT}{expected}\n"
    assert "compiled in" not in err
    assert f"kept in {place}" in err


def test_a_conversation_by_a_template(system: str, tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{{ messages[-1].content }}")
    model = str(ROOT / "models/demo/demo-Q4_K_M.gguf")
    argv = "chat", model, "-n4", "--temp", "0", "--chat-template-file", str(path)
    out, _ = said(system, *argv, given=f"{PROMPT}\n/exit\n")
    assert out.strip()


def test_a_template_is_rendered_by_a_process_there(system: str) -> None:
    """Which may have no limit of memory, and is ended by no signal of a timer."""
    code = "from linnet.engine.chat import worker; worker.main()"
    values = {"messages": [{"content": "a"}], "n": 3}
    requests = (2.0, "{{ messages[0].content * n }}"), (2.0, values)
    with subprocess.Popen(
        [*PYTHON, system, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        out, _ = process.communicate(b"".join(map(marshal.dumps, requests)), timeout=60)
    answers = [b"+" + len(text).to_bytes(8, "little") + text for text in (b"", b"", b"aaa")]
    assert (process.returncode, out) == (0, b"".join(answers))


@pytest.mark.parametrize(
    ("system", "number"), [("win32", signal.SIGINT), ("darwin", signal.SIGTERM)]
)
def test_a_server_answers_and_ends_in_order(system: str, number: int) -> None:
    with elsewhere(system, "serve", "--port", "0", "--log-format", "json") as process:
        assert process.stderr is not None
        lines = (json.loads(line) for line in process.stderr if line.startswith("{"))
        ready: Any = next(line for line in lines if line["event"] == "ready")
        url, body = ready["url"], {"prompt": PROMPT, "max_tokens": 4}
        with httpx.Client(base_url=url, trust_env=False, timeout=SECONDS) as client:
            answer = client.post("/v1/completions", json=body).json()
            assert answer["usage"]["completion_tokens"] == 4
            assert "process_max_resident_memory_bytes 123000000" in client.get("/metrics").text
        process.send_signal(number)
        assert process.wait(SECONDS) == 0
        assert [line["event"] for line in lines][-1] == "ended"


# ---- threads -------------------------------------------------------------------------------------


def test_threads_ask_for_fast_cores_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """if True:
        import ctypes
        from linnet import LLM
        with LLM(n_threads=3) as llm:
            llm.generate("x", max_tokens=1)
        print(ctypes.CDLL(None).qos)"""
    assert said("darwin", "-c", code)[0] == f"{[(0x19, 0)] * 2}\n"  # not the caller's
    library = LibSystem()
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    thread = threading.Thread(target=macos.stay_on_fast_cores)
    thread.start()
    thread.join()
    assert library.qos == [(0x19, 0)]  # QOS_CLASS_USER_INITIATED
