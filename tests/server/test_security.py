"""Who may ask, and what is told to others: keys, hosts, origins, logs."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from support.serving import Running, asked, serving, until

from linnet.engine.sampling.chain import Sampler
from linnet.engine.server import log
from linnet.engine.server.logged import LONGEST_PATH

PATH = "/v1/chat/completions"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "x-a"}
SECRET = "hush-hush"


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    """A server with keys, and with pages that may ask."""
    with serving(api_keys=("one", "two"), cors_origins=("https://a.example", "localhost")) as found:
        yield found


# ---- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401), ({"authorization": ""}, 401), ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer three"}, 401), ({"authorization": "Bearer on"}, 401),
        ({"authorization": "Bearer one,two"}, 401), ({"authorization": "Basic one"}, 401),
        ({"authorization": "Bearer \xe9"}, 401), ({"x-api-key": ""}, 401),
        ({"authorization": "Bearer one"}, 200), ({"authorization": "bearer two"}, 200),
        ({"x-api-key": "two"}, 200),
    ],
)  # fmt: skip
def test_keys(guarded: Running, headers: dict[str, str], status: int) -> None:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    request = guarded.client.build_request("GET", "/v1/models", headers=raw)
    if "authorization" not in headers:
        del request.headers["authorization"]
    response = guarded.client.send(request)
    assert response.status_code == status
    if status == 401:
        assert response.json()["error"]["type"] == "authentication_error"
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", [PATH, "/v1/models", "/v1/nothing", "/health/"])
def test_nothing_but_health_goes_without_a_key(guarded: Running, path: str) -> None:
    assert guarded.get(path, authorization="").status_code == 401
    assert guarded.get("/health", authorization="").status_code == 200


def test_figures_go_without_a_key_on_this_machine_alone(guarded: Running) -> None:
    assert guarded.get("/metrics", authorization="").status_code != 401
    with serving(api_keys=("one",), is_local=False) as everywhere:
        assert everywhere.get("/metrics", authorization="").status_code == 401


def test_a_key_is_asked_for_before_a_body_is_read(guarded: Running) -> None:
    with guarded.connection() as connection:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")


# ---- hosts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200), ("localhost", 200), ("LOCALHOST:1", 200), ("[::1]:80", 200),
        ("192.168.0.7", 200), ("mybox", 200), ("a.localhost", 200), ("host.docker.internal", 200),
        ("", 200), ("evil.example", 403), ("evil.example:8080", 403), ("127.0.0.1.evil.com", 403),
        ("localhost.evil.com", 403), ("x@evil.com", 403), ("evil.com.", 403),
    ],
)  # fmt: skip
def test_names_that_strangers_may_own_are_refused(server: Running, host: str, status: int) -> None:
    response = server.get("/health", host=host)
    assert response.status_code == status
    if status == 403:
        assert response.json()["error"]["code"] == "host_not_allowed"


def test_with_keys_or_open_to_a_network_any_name_is_served(guarded: Running) -> None:
    assert guarded.get("/v1/models", host="llm.example").status_code == 200
    with serving(is_local=False) as everywhere:
        assert everywhere.get("/health", host="llm.example").status_code == 200


# ---- origins -------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "x"])
def test_foreign_pages_may_not_ask(server: Running, origin: str) -> None:
    """Nor does a body sent as text help, for which a browser sends no preflight."""
    response = server.client.post(
        PATH, content=json.dumps(asked()), headers={"origin": origin, "content-type": "text/plain"}
    )
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in response.headers
    response = server.client.options(PATH, headers={"origin": origin, **PREFLIGHT})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_our_own_page_may_ask(server: Running) -> None:
    assert server.get("/v1/models", origin=server.url).status_code == 200


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://a.example", True), ("http://localhost", True), ("http://localhost:3000", True),
        ("http://127.0.0.1:3000", True), ("http://[::1]:3000", True), ("http://a.example", False),
        ("https://b.example", False), ("http://localhost.evil.com", False), ("null", False),
        ("http://notlocalhost", False),
    ],
)  # fmt: skip
def test_pages_that_may_ask_are_told_so(guarded: Running, origin: str, allowed: bool) -> None:
    preflight = guarded.client.options(PATH, headers={"origin": origin, **PREFLIGHT})
    assert preflight.status_code == 200
    assert preflight.headers.get("access-control-allow-origin") == (origin if allowed else None)
    assert preflight.headers.get("access-control-allow-headers") == ("x-a" if allowed else None)
    response = guarded.get("/v1/models", origin=origin)
    assert response.status_code == 200  # it has a key
    assert response.headers.get("access-control-allow-origin") == (origin if allowed else None)
    refused = guarded.get("/v1/models", origin=origin, authorization="")
    assert refused.status_code == 401
    assert refused.headers.get("access-control-allow-origin") == (origin if allowed else None)


def test_all_pages_may_be_let_in() -> None:
    with serving(cors_origins=("*",)) as open_to_all:
        response = open_to_all.get("/v1/models", origin="http://evil.example")
        assert response.headers["access-control-allow-origin"] == "http://evil.example"
        assert open_to_all.get("/v1/models", host="evil.example").status_code == 403


# ---- logs ----------------------------------------------------------------------------------------


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What is logged meanwhile, in both formats."""
    found: list[dict[str, Any]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = json.loads(log._JSON().format(record))
            text = log._Logfmt().format(record)
            assert "\n" not in text
            assert record.getMessage() in text
            found.append(line | {"text": text})

    logger = logging.getLogger("linnet.server")
    monkeypatch.setattr(logger, "handlers", [Handler()])
    logger.setLevel(logging.INFO)
    yield found
    logger.setLevel(logging.NOTSET)


def test_a_request_is_a_line(server: Running, lines: list[dict[str, Any]]) -> None:
    server.chat(n=2, seed=1)
    text = server.chat()["choices"][0]["message"]["content"]
    server.chat_stream(stop=[text[-1]])
    until(lambda: len(lines) == 3)  # which come once the answers are over
    server.get("/v1/nothing")
    until(lambda: len(lines) == 4)
    whole, one, stream, other = lines
    assert (whole["event"], whole["method"], whole["path"], whole["status"]) == (
        "request", "POST", PATH, 200,
    )  # fmt: skip
    assert (whole["n_generated"], whole["reason"]) == (16, "length,length")
    assert whole["n_prompt"] == 2 * one["n_prompt"] > one["n_cached"] > 0
    assert 0 <= whole["queue_seconds"] <= whole["seconds"]
    assert stream["reason"] == "stop"
    assert (other["status"], "reason" in other) == (404, False)
    assert "n_generated=16" in whole["text"]


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [("abc-1", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("", False)],
)
def test_a_request_has_an_id(
    server: Running, lines: list[dict[str, Any]], given: str, is_kept: bool
) -> None:
    response = server.get("/health", **{"x-request-id": given})
    found = response.headers["x-request-id"]
    assert (found == given) == is_kept
    assert found
    until(lambda: bool(lines))
    assert lines[0]["id"] == found


def test_a_path_is_logged_as_it_was_sent(server: Running, lines: list[dict[str, Any]]) -> None:
    server.get("/v1/a%0Ab" + "x" * 1000)
    until(lambda: bool(lines))
    assert lines[0]["path"] == ("/v1/a%0Ab" + "x" * 1000)[:LONGEST_PATH]


def test_no_log_has_what_was_said(
    server: Running, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Whether it was answered or refused, or an error that nobody foresaw has it in its text."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings():
        log.log_warnings(with_text=False)
        server.chat(SECRET)
        server.refusal(PATH, 400, **asked(SECRET, stop=[SECRET] * 17))
        server.post(PATH, messages=[{"role": SECRET, "content": SECRET}], max_tokens=1)
        server.post(PATH, **asked(SECRET, temperature=SECRET))

        def fail(*_: object) -> int:
            raise LookupError(SECRET)

        monkeypatch.setattr(Sampler, "sample", fail)
        error = server.refusal(PATH, 500, **asked(SECRET))
        assert error["type"] == "server_error"
        last = server.streamed(PATH, **asked(SECRET))[-1]
        assert last.data["error"]["type"] == "server_error"
        until(lambda: sum(line["event"] == "request" for line in lines) == 6)
    assert [line["error"] for line in lines if line["event"] == "failure"] == ["LookupError"] * 2
    assert "test_security.py" in next(line["where"] for line in lines if "where" in line)
    assert SECRET not in json.dumps(lines)
    assert SECRET not in "".join(capfd.readouterr())
    monkeypatch.undo()
    server.chat()  # and it goes on


def test_a_warning_is_told_by_its_place(lines: list[dict[str, Any]]) -> None:
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(warnings, "showwarning", None)
        log.log_warnings(with_text=False)
        for text in (SECRET, "another", "a third"):
            warnings.warn(text, stacklevel=1)
        log.log_warnings(with_text=True)
        warnings.warn("of a file", stacklevel=1)
    first, last = lines
    assert __file__ in first["where"]
    assert last["message"] == "of a file"


def test_an_error_in_a_handler_is_an_answer(
    server: Running, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise LookupError(SECRET)

    monkeypatch.setattr(server.server.service, "check_model", fail)
    response = server.post(PATH, **asked())
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert response.headers["x-request-id"]
    until(lambda: len(lines) == 2)
    assert [line["event"] for line in lines] == ["failure", "request"]
