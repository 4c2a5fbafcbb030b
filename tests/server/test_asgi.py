"""The application that others' servers run: its flags, and a model that lives as long as they."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from support.gguf_builder import STRING
from support.serving import SECONDS, TEMPLATE, asked, until
from support.tiny_llama import TinyLlama

from linnet.engine.server.run import bound
from linnet.server.app import make_app

PATH = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As it was: an application logs, and shows warnings, for a process of its own."""
    logger, interval = logging.getLogger("linnet.server"), sys.getswitchinterval()
    for name in ("handlers", "propagate", "level"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    with warnings.catch_warnings():
        yield
    sys.setswitchinterval(interval)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    metadata = [("tokenizer.chat_template", STRING, TEMPLATE)]
    tiny = TinyLlama(type="Q4_K", n_ctx=2048, metadata=metadata)
    return tiny.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@contextmanager
def served(app: Any) -> Iterator[httpx.Client]:
    """By uvicorn, as anybody starts it, once it has started. Raises SystemExit where it cannot."""
    listening = bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None, log_level="error"))
    status: list[SystemExit] = []

    def run() -> None:
        try:
            server.run([listening])
        except SystemExit as ended:  # where it cannot start
            status.append(ended)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        if status:
            raise status[0]
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=SECONDS, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def test_a_server_of_others_serves_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app = make_app(path, alias="tiny", temperature=0, max_tokens=3, log_format="json")
    assert not app.state.service.is_ready  # before anybody runs it
    with served(app) as client:
        assert client.get("/health").json() == {"status": "ok", "model": "tiny"}
        body = {"messages": asked()["messages"]}
        answers = [client.post(PATH, json=body).json() for _ in range(2)]
        assert answers[0]["model"] == "tiny"
        assert answers[0]["usage"]["completion_tokens"] == 3
        assert answers[0]["choices"] == answers[1]["choices"]
        llm = app.state.service.llm
    with pytest.raises(RuntimeError, match="closed"):
        llm.llm.generate("x")
    events = [
        line.split('"event":"')[1].split('"')[0] for line in capsys.readouterr().err.splitlines()
    ]
    assert events == ["ready", "request", "request", "request"]


def test_variables_set_its_flags_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINNET_ARG_MODEL", str(path))
    monkeypatch.setenv("LINNET_ARG_ALIAS", "set")
    monkeypatch.setenv("LINNET_ARG_METRICS", "0")
    with served(make_app()) as client:
        assert client.get("/health").json()["model"] == "set"
        assert client.get("/metrics").status_code == 501
    service = make_app(alias="given").state.service
    assert service.settings.alias == "given"


def test_it_is_guarded_wherever_it_listens(path: Path) -> None:
    """It cannot know where that is: strangers' names are refused, as on this machine alone, and
    keys asked for everywhere, as on any network."""
    with served(make_app(path)) as client:
        answer = client.get("/v1/models", headers={"Host": "stranger.com"})
        assert answer.json()["error"]["code"] == "host_not_allowed"
        assert client.get("/metrics").status_code == 200
    with served(make_app(path, api_key=["a", "b"])) as client:
        assert client.get("/metrics").status_code == 401
        headers = {"Host": "stranger.com", "Authorization": "Bearer b"}
        assert client.get("/v1/models", headers=headers).status_code == 200


def test_a_model_that_cannot_be_opened_ends_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"nothing")
    with pytest.raises(SystemExit, match="3"), served(make_app(file)):
        pass
    assert "bad.gguf': text, maybe of a download" in caplog.text


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"port": 80}, "port is not for the application"),
        ({"host": "0.0.0.0"}, "host is not for the application"),
        ({"shutdown_timeout": 3}, "shutdown_timeout is not for the application"),
        ({"parallel": 0}, "0' is not a whole number from 1 to 64"),
        ({"paralel": 2}, r"no flag '--paralel' \(close: --parallel\)"),
        ({"alias": ["a", "b"]}, r"alias is \['a', 'b'\]; it takes one value"),
        ({"strict_model": "yes"}, "--strict-model takes no value"),
        ({"top_p": 2}, "--top-p is 2"), ({"api_key": ""}, "empty"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_flags(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_app(**flags)


def test_flags_are_what_the_command_line_makes_of_them() -> None:
    settings = make_app(
        api_key=["a,b", "c"], metrics=False, slots=True, strict_model=True, ui=None, no_mmap=False,
        chat_template_kwargs={"x": [1]}, reasoning_budget=-1, n_predict=7, stop=["-a", "b"],
    ).state.service.settings  # fmt: skip
    assert (settings.api_keys, settings.is_local) == (["a", "b", "c"], None)
    assert (settings.has_metrics, settings.has_slots, settings.has_page) == (False, True, True)
    assert (settings.strict_model, settings.reasoning_budget) == (True, None)
    assert settings.variables == {"x": [1]}
    assert settings.sampling == {"max_tokens": 7, "stop": ("-a", "b")}
