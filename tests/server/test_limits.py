"""What clients may send, how long they may take, and how many may ask."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import Any

import pytest
from support.serving import SECONDS, Running, asked, serving, until

from linnet import LLM
from linnet.engine.running import scheduler
from linnet.engine.server import limits, run, sse

PATH = "/v1/chat/completions"
LONG: dict[str, Any] = {"max_tokens": 400_000, "ignore_eos": True}  # longer than any test
MESSAGE = {"role": "user", "content": "x"}


def long_model(**options: Any) -> LLM:
    return LLM(n_ctx=500_000, chat_template="{{ messages[0].content }}", **options)


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    """A server that takes little, and two requests at a time: one that runs, also where nobody
    reads what it says, and one that waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "AHEAD", 10**9)
        with serving(
            partial(long_model, n_parallel=1), max_body=10_000,
            max_queue=1, keepalive=0.01, strict_model=True, alias="mine",
        ) as found:  # fmt: skip
            yield found


@pytest.fixture(scope="module")
def long() -> Iterator[Running]:
    """A server whose answers may be LONG."""
    with serving(long_model) as found:
        yield found


# ---- sizes ---------------------------------------------------------------------------------------


def chunked(data: bytes) -> Iterator[bytes]:
    for i in range(0, len(data), 1000):
        yield data[i : i + 1000]


@pytest.mark.parametrize("form", [bytes, chunked])
def test_a_body_that_is_too_large_is_refused(small: Running, form: Callable[..., Any]) -> None:
    body = json.dumps(asked(max_tokens=1)).encode()
    fits, does_not = body.ljust(10_000), body.ljust(10_001)
    assert small.client.post(PATH, content=form(fits)).status_code == 200
    response = small.client.post(PATH, content=form(does_not))
    assert response.status_code == 413
    assert "10000 bytes" in response.json()["error"]["message"]


def test_bodies_in_hand_are_bounded_together(small: Running) -> None:
    """Two of the largest, and no third."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n".encode()
    with small.connection() as one, small.connection() as two:
        for connection in (one, two):
            connection.sendall(head + b" " * 9_950)
        until(lambda: len(small.server.server_state.tasks) == 2)
        assert small.refusal(PATH, 503, **asked("x" * 200))["type"] == "unavailable_error"
    until(lambda: small.post(PATH, **asked("x" * 200)).status_code == 200)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", [MESSAGE] * 4097), ("tools", [{}] * 513), ("stop", ["x"] * 17),
        ("stop", ["x" * 5000]), ("logit_bias", {str(i): 1 for i in range(1025)}),
        ("logit_bias", [[1, 1]] * 1025), ("stop_token_ids", [1] * 1025),
        ("dry_sequence_breakers", ["x"] * 1000),
    ],
)  # fmt: skip
def test_lists_that_are_too_long_are_named(server: Running, field: str, value: Any) -> None:
    assert server.refusal(PATH, 400, **asked(**{field: value}))["param"] == field


@pytest.mark.parametrize("depth", [200, 5000, 1_000_000])
@pytest.mark.parametrize("field", ["tools", "messages", "chat_template_kwargs", "unknown"])
def test_a_body_may_not_be_nested_deeply(server: Running, field: str, depth: int) -> None:
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    if field == "messages":
        body = (
            b'{"max_tokens": 1, "messages": [{"role": "user", "content": "x", "x": '
            + nested
            + b"}]}"
        )
    else:
        value = b"[" + nested + b"]" if field == "tools" else nested
        head = json.dumps(asked(max_tokens=1)).encode()[:-1]
        body = head + b', "' + field.encode() + b'": ' + value + b"}"
    response = server.client.post(PATH, content=body)
    assert response.status_code == (400 if depth > 200 else response.status_code)
    assert response.status_code in (200, 400)


def test_heads_are_bounded(server: Running) -> None:
    """Whoever goes on sending one finds the connection closed, perhaps before the 400 is read."""
    received = b""
    with server.connection() as connection, suppress(ConnectionError):
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Large: ")
        while True:
            connection.sendall(b"x" * 1000)
            connection.setblocking(False)
            with suppress(BlockingIOError):
                received += connection.recv(1000)
            connection.settimeout(SECONDS)
            if received:
                break
    assert received[:12] in (b"", b"HTTP/1.1 400")
    assert server.get("/health").status_code == 200


def test_a_model_of_another_name_is_refused_where_names_are_strict(small: Running) -> None:
    error = small.refusal(PATH, 404, **asked(model="other"))
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    for name in ("mine", "demo-Q4_K_M.gguf", None):
        assert small.answer(PATH, **asked(model=name, max_tokens=1))["model"] == "mine"


# ---- time ----------------------------------------------------------------------------------------


def test_a_body_that_does_not_come_is_given_up(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)
    with server.connection() as connection:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        connection.sendall(head.encode() + b"{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_that_sends_nothing_more_is_closed(
    server: Running, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(run, "SLOW_SECONDS", 0.2)
    with server.connection() as connection:
        connection.sendall(sent)
        assert connection.recv(1000) == b""


def test_a_connection_may_rest_between_requests_but_not_amid_one(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SLOW_SECONDS", 0.1)
    whole = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connection() as connection:
        for _ in range(2):
            connection.sendall(whole)
            received = b""
            while not received.endswith(b"}"):
                received += connection.recv(1000)
            assert received.startswith(b"HTTP/1.1 200")
            time.sleep(0.4)
        connection.sendall(whole[:9])
        assert connection.recv(1000) == b""


def test_a_body_that_was_refused_is_not_taken_for_ever(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "SLOW_SECONDS", 0.2)
    with server.connection() as connection:
        head = "POST /v1/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 1000)
        received = b""
        while part := connection.recv(1000):
            received += part
        assert received.startswith(b"HTTP/1.1 404")


def test_a_request_may_not_take_longer_than_its_time() -> None:
    with serving(long_model, timeout=0.05) as hasty:
        error = hasty.refusal(PATH, 503, **asked(n=8, **LONG))
        assert error["code"] == "timeout"
        last = hasty.streamed(PATH, **asked(n=8, **LONG))[-1]
        assert last.data["error"]["code"] == "timeout"
        hasty.rests()


class Closed:
    """Answers that only have to be closed."""

    closed = False

    async def aclose(self) -> None:
        self.closed = True


def test_a_reader_that_takes_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "STALLED", 0.01)
    answers, sent = Closed(), 0

    async def frames() -> AsyncGenerator[bytes]:
        while True:
            yield b"data: 1\n\n"

    async def send(_: object) -> None:
        nonlocal sent
        sent += 1
        if sent > 5:
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def main() -> None:
        stream = sse.EventStream(frames(), answers, keepalive=15.0)  # type: ignore[arg-type]
        await stream({"type": "http", "state": {}}, receive, send)  # type: ignore[arg-type]

    asyncio.run(main())
    assert answers.closed


def test_a_stream_that_waits_has_comments(small: Running) -> None:
    with small.stream(PATH, **asked(**LONG)) as first:
        next(first)
        body = {"stream": True, **asked(max_tokens=1)}
        with small.client.stream("POST", PATH, json=body) as second:
            lines = second.iter_lines()
            came = list(takewhile(lambda line: line != ": keepalive", lines))
            assert next(lines, came) == ""
    small.rests()


# ---- clients that go, and too many of them -------------------------------------------------------


def slots_in_use(running: Running) -> int:
    return len(running.llm.scheduler.running())


@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_goes_amid_a_stream_frees_its_slot(long: Running, n: int) -> None:
    with long.stream(PATH, **asked(n=n, **LONG)) as frames:
        for _ in range(n + 4):
            next(frames)
        assert slots_in_use(long) > 0
    long.rests()
    until(lambda: slots_in_use(long) == 0)


def test_a_client_that_goes_while_it_waits_for_a_body_frees_its_slot(long: Running) -> None:
    body = json.dumps(asked(n=8, **LONG)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with long.connection() as connection:
        connection.sendall(head + body)
        until(lambda: slots_in_use(long) > 0)
    long.rests()
    until(lambda: slots_in_use(long) == 0)


def test_a_client_that_goes_while_it_waits_leaves_the_queue(small: Running) -> None:
    with small.stream(PATH, **asked(**LONG)) as frames:
        next(frames)
        with small.stream(PATH, **asked()) as waiting:
            next(waiting)
            assert small.n_open == 2
        until(lambda: small.n_open == 1)
        next(frames)
    small.rests()


def test_beyond_the_queue_requests_are_to_be_tried_again(small: Running) -> None:
    with small.stream(PATH, **asked(**LONG)) as first:
        next(first)  # it runs, and others wait
        with small.stream(PATH, **asked()) as second:
            next(second)
            response = small.post(PATH, **asked())
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert response.json()["error"]["type"] == "unavailable_error"
    small.rests()
    assert small.refusal(PATH, 400, **asked(n=3))["type"] == "invalid_request_error"  # never


def test_many_at_once_are_answered_or_refused(small: Running) -> None:
    def ask(_: int) -> int:
        return small.post(PATH, **asked(max_tokens=2)).status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(ask, range(24)))
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    small.rests()
    assert small.post(PATH, **asked(max_tokens=1)).status_code == 200
