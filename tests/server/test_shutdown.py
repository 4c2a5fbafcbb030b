"""From the first socket to the last answer: loading, draining, ending, and what cannot begin."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from support import ROOT
from support.serving import SECONDS, TEMPLATE, Running, asked, frames, serving, until
from support.systems import needs_signals

from linnet import LLM
from linnet.engine.async_llm import AsyncLLM
from linnet.engine.cli.main import main
from linnet.engine.server.run import Server, bound
from linnet.engine.server.settings import Settings

PATH = "/v1/chat/completions"
BODY = {"stream": True, **asked(n=8, max_tokens=500, ignore_eos=True)}
LONG = 500_000
ENDLESS = BODY | {"max_tokens": 400_000}  # for a context of LONG


def test_it_answers_while_the_model_is_loading() -> None:
    """That it is, and when to ask again."""
    listening = bound("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    may_load = threading.Event()

    def open_model() -> AsyncLLM:
        may_load.wait(SECONDS)
        return AsyncLLM(LLM())

    async def run() -> None:
        server = Server(Settings())
        serving = asyncio.create_task(server.run_model(open_model, [listening], lambda _: None))
        async with httpx.AsyncClient(base_url=url, timeout=SECONDS, trust_env=False) as client:
            for response in (await client.get("/health"), await client.post(PATH, json=asked())):
                assert response.status_code == 503
                assert response.headers["retry-after"] == "1"
                assert response.json()["error"]["message"] == "the model is loading"
            may_load.set()
            while (response := await client.get("/health")).status_code != 200:
                await asyncio.sleep(0.01)
            assert response.json()["status"] == "ok"
        server.end()
        await serving

    asyncio.run(run())


def test_a_model_that_cannot_be_loaded_ends_it() -> None:
    def open_model() -> AsyncLLM:
        raise ValueError("no model")

    server = Server(Settings())
    with pytest.raises(ValueError, match="no model"):
        asyncio.run(server.run_model(open_model, [bound("127.0.0.1", 0)], lambda _: None))


def test_no_request_has_to_wait_for_a_compiler(server: Running) -> None:
    runner = server.llm.scheduler.session.runner
    lowered = set(runner._lowered)
    server.chat(n=8, seed=1, max_tokens=3)
    assert set(runner._lowered) == lowered


# ---- an end in order -----------------------------------------------------------------------------


def test_those_under_way_may_end_and_no_more_begin() -> None:
    with serving() as running:
        with running.stream(PATH, **asked(max_tokens=900, ignore_eos=True)) as chunks:
            next(chunks)
            running.server.end()
            for response in (running.get("/health"), running.post(PATH, **asked())):
                assert response.status_code == 503
                assert response.headers["retry-after"] == "1"
                assert "shutting down" in response.json()["error"]["message"]
            *_, last_but_one, last = chunks
        assert last.data == "[DONE]"
        assert last_but_one.data["choices"][0]["finish_reason"] == "length"
    with pytest.raises(httpx.ConnectError):
        httpx.get(running.url + "/health", trust_env=False)


def test_what_takes_too_long_ends_with_an_error() -> None:
    with serving(lambda: LLM(chat_template=TEMPLATE, n_ctx=LONG), shutdown_timeout=0.0) as running:
        with running.stream(PATH, **ENDLESS) as chunks:
            next(chunks)
            running.server.end()
            last = list(chunks)[-1]
        assert last.data["error"]["type"] == "unavailable_error"
        assert "shutting down" in last.data["error"]["message"]


# ---- as a command --------------------------------------------------------------------------------


@contextmanager
def command(*argv: str, event: str = "ready") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`linnet serve` once it logs that it is loading or ready, and its address."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-m", "linnet", "serve", "--port", "0", *argv], env=env, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if event in line:
                    break
            found = re.search(r"http://127.0.0.1:\d+", line)
            assert found, line
            yield process, found[0]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("template") / "template.jinja"
    path.write_text("{{ messages[0].content }}")
    return str(path)


@needs_signals
def test_a_signal_ends_it_in_order(template: str) -> None:
    flags = "--chat-template-file", template, "--shutdown-timeout", "0.1", "--log-format", "json"
    with command(*flags) as (process, url), httpx.Client(trust_env=False) as client:
        with client.stream("POST", url + PATH, json=BODY, timeout=SECONDS) as response:
            chunks = frames(response.iter_lines())
            next(chunks)
            process.send_signal(signal.SIGTERM)
            last = list(chunks)[-1]
            assert last.data == "[DONE]" or last.data["error"]["type"] == "unavailable_error"
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, out) == (0, "")
        lines = [json.loads(line) for line in err.splitlines()]
        assert [line["event"] for line in lines] == ["request", "ended"]
        assert lines[0]["n_prompt"] > 0


@needs_signals
def test_a_signal_while_it_is_loading_ends_it_at_once() -> None:
    with command(event="loading") as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


@needs_signals
def test_a_second_signal_ends_it_at_once(template: str) -> None:
    flags = "--chat-template-file", template, "--shutdown-timeout", "600", "-c", str(LONG)
    with command(*flags) as (process, url), httpx.Client(base_url=url, trust_env=False) as client:
        with client.stream("POST", PATH, json=ENDLESS, timeout=SECONDS) as response:
            chunks = frames(response.iter_lines())
            next(chunks)
            process.send_signal(signal.SIGINT)
            until(lambda: client.get("/health").status_code == 503)
            process.send_signal(signal.SIGINT)
            with pytest.raises(httpx.TransportError):  # it breaks off
                list(chunks)
        assert process.wait(SECONDS) == 0


def one_line(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a command that cannot begin says; its status is 2."""
    logger = logging.getLogger("linnet.server")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        for name in ("handlers", "propagate"):
            patch.setattr(logger, name, getattr(logger, name))
        assert main(["serve", *argv]) == 2
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if "loading" not in line]
    assert out == ""
    assert line.startswith("linnet: ")
    return line


def test_a_file_that_is_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"nothing")
    assert "bad.gguf" in one_line(capsys, "-m", str(path), "--port", "0")


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = one_line(capsys, "--port", port)
    assert port in line
    assert "--port" in line
    assert "--host" in one_line(capsys, "--host", "no.such.host.invalid", "--port", "0")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--port", "70000"], "0 to 65535"), (["-np", "0"], "1 to 64"), (["-np", "65"], "1 to 64"),
        (["--timeout", "0"], "0.001 to"), (["--timeout", "nan"], "0.001 to"),
        (["--shutdown-timeout", "-1"], "0 to"), (["--max-queue", "-1"], "0 to"),
        (["--max-body", "0"], "1 to 1024"), (["--kv-tokens", "x"], "1 to"),
        (["--kv-tokens", "100", "--port", "0"], "kv_tokens"), (["--pooling", "x"], "mean"),
        (["--reasoning-format", "x"], "deepseek"), (["--log-format", "x"], "json"),
        (["--api-key", ""], "empty"), (["--api-key", "a,,b"], "empty"),
        (["--top-p", "2"], "--top-p is 2"), (["--api-key-file", os.devnull], "no key"),
        (["-sys", "x"], "-sys"), (["x"], "No such file"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_flags(capsys: pytest.CaptureFixture[str], flags: list[str], says: str) -> None:
    assert says in one_line(capsys, *flags)
