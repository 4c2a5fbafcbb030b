"""What no client should send: each is refused, by the field that is wrong, and briefly."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from support.serving import Running, asked

from linnet.engine.server import limits
from linnet.engine.server.errors import LONGEST_MESSAGE

CHAT = "/v1/chat/completions"
BODY = json.dumps(asked(max_tokens=1)).encode()
LONG = "x" * 100_000
HEAD = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0{}", b"{}{}", b"null", b"[]", b'"x"', b"\xff\xfe{\0}\0", b"\xef\xbb\xbf" + BODY,
        b'{"a": "\xe9"}', b'{"a": "\xed\xa0\x80"}', rb'{"a": "\ud800"}', rb'{"a": "\ud800\u0041"}',
        b'{"\xff": 1}', b'{"a": 1e400}', b'{"a": -1e400}', b'{"a": NaN}', b'{"a": Infinity}',
        b'{"a": ' + b"1" * 5000 + b"}", b'{"a": 01}', b"--x\r\n\r\n1\r\n--x--", b"messages=1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/tokenize"])
def test_what_is_no_object_in_json_is_refused(server: Running, path: str, data: bytes) -> None:
    response = server.client.post(path, content=data)
    assert response.status_code == 400
    assert "JSON" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("coding", "status"), [("gzip", 415), ("br", 415), ("GZIP", 415), ("identity", 200)]
)
def test_a_body_may_not_be_compressed(server: Running, coding: str, status: int) -> None:
    data = BODY if coding == "identity" else gzip.compress(BODY)
    response = server.client.post(CHAT, content=data, headers={"content-encoding": coding})
    assert response.status_code == status
    if status == 415:
        error = response.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert repr(coding) in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "x", "encoding_format": LONG}),
        ("/v1/messages", {"messages": [{"role": LONG, "content": "x"}], "max_tokens": 1}),
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": LONG}]}]}),
        ("/v1/messages", asked(tools=[{"name": "x", "type": LONG}])),
        ("/v1/responses", {"input": [{"type": LONG}]}),
        ("/v1/responses", {"input": [{"role": LONG, "content": "x"}]}),
        (CHAT, asked(samplers=[LONG])), (CHAT, asked(reasoning_format=LONG)),
        (CHAT, asked(messages=[LONG])), (CHAT, asked(seed=10**4000)),
        ("/tokenize", {"content": {"prompt_string": {"x": LONG}}}),
    ],
)  # fmt: skip
def test_errors_quote_no_more_than_a_little(server: Running, path: str, body: Any) -> None:
    response = server.post(path, **body)
    assert response.status_code == 400
    assert len(response.json()["error"]["message"]) <= LONGEST_MESSAGE


def test_an_error_keeps_its_beginning_and_its_end(server: Running) -> None:
    path = f"/v1/models/{LONG[:5000]}"
    message = server.get(path).json()["error"]["message"]
    assert message.startswith("there is no model 'xxx")
    assert message.endswith(f"here; it is '{server.llm.path.name}'")
    assert "x...x" in message
    assert len(message) <= LONGEST_MESSAGE


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("stop_token_ids", [-1], "stop_token_ids"), ("stop_token_ids", [2**63], "stop_token_ids"),
        ("stop_token_ids", [2**20], "stop_token_ids"),
        ("logit_bias", [[1, 1e308]], "logit_bias"), ("logit_bias", {"1": 1e308}, "logit_bias"),
        ("logit_bias", {str(2**70): 1}, "logit_bias"), ("logit_bias", [[1, "nan"]], "logit_bias"),
        ("logit_bias", {"9" * 5000: 1}, "logit_bias"), ("samplers", ["x"], "samplers"),
        ("dry_sequence_breakers", [""], "dry_sequence_breakers"), ("seed", 2**70, "seed"),
        ("chat_template_kwargs", {"self": 1}, "chat_template_kwargs"),
        ("chat_template_kwargs", {"messages": []}, "chat_template_kwargs"),
        ("max_tokens", 2**70, "max_tokens"), ("temperature", 1e308, "temperature"),
    ],
)  # fmt: skip
def test_the_field_that_is_wrong_is_named(
    server: Running, field: str, value: Any, param: str
) -> None:
    error = server.refusal(CHAT, 400, **asked(**{field: value}))
    assert error["param"] == param


@pytest.mark.parametrize("token_id", [-1, 2**20, 2**31, 2**63, 2**70])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/tokenize", "content"), ("/detokenize", "tokens"), ("/completion", "prompt"),
        ("/v1/completions", "prompt"), ("/v1/embeddings", "input"), ("/embedding", "content"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("with_pieces", [False, True])
def test_ids_out_of_range_are_refused(
    server: Running, path: str, field: str, token_id: int, with_pieces: bool
) -> None:
    body = {field: [1, token_id], "with_pieces": with_pieces, "max_tokens": 1}
    assert server.refusal(path, 400, **body)["param"] == field


@pytest.mark.parametrize("text", ["\0", "a\0b", "\uffff", "\U0010ffff", "\u202e", ""])
def test_any_text_is_a_text(server: Running, text: str) -> None:
    """In a prompt, a stop, a name: all that Unicode has."""
    tokens = server.answer("/tokenize", content=text)["tokens"]
    assert server.answer("/detokenize", tokens=tokens)["content"] == text
    assert server.chat(text, stop=[text], model=text, max_tokens=2)["choices"]


def test_of_two_values_the_last_counts(server: Running) -> None:
    body = BODY[:-1] + b', "seed": "x", "max_tokens": "x", "max_tokens": 2, "seed": 1}'
    assert server.client.post(CHAT, content=body).json()["usage"]["completion_tokens"] <= 2


# ---- under HTTP ----------------------------------------------------------------------------------


def test_an_old_client_has_its_answer(server: Running) -> None:
    """By HTTP/1.0, which ends it by closing the connection; streams too."""
    data = BODY[:-1] + b', "stream": true}'
    with server.connection() as connection:
        head = f"POST {CHAT} HTTP/1.0\r\nContent-Length: {len(data)}\r\n\r\n"
        connection.sendall(head.encode() + data)
        received = b""
        while part := connection.recv(10_000):
            received += part
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"data: [DONE]\n\n")


def test_requests_in_a_row_are_answered_in_order(server: Running) -> None:
    with server.connection() as connection:
        head = f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n".encode()
        bad = f"{HEAD}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode()
        connection.sendall((head + BODY) * 2 + bad)
        received = b""
        while part := connection.recv(10_000):
            received += part
    statuses = [answer[:3] for answer in received.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200", b"400"]


def test_chunks_that_stop_are_given_up(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)
    with server.connection() as connection:
        connection.sendall(f'{HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\n{{"mes\r\n'.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_many_headers_are_taken(server: Running) -> None:
    headers = {f"x-{i}": "y" for i in range(2000)}
    assert server.get("/health", **headers).status_code == 200
