"""Lines of OpenAI's batch files: requests of an input file, and answers of an output file.

https://platform.openai.com/docs/api-reference/batch
"""

from __future__ import annotations

import secrets
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from linnet.engine.server.errors import APIError

URLS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"
_Kind = TypeVar("_Kind")
BEGINNING = b'{"id":"batch_req_'  # of every answer that is written here


class Request(Struct, frozen=True):
    """A line of an input file. `body`: in JSON, as it was given."""

    custom_id: str
    method: str
    url: str
    body: Raw


class Usage(Struct):
    """Tokens of an answer, as chat and completions have them, and as Responses do."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Body(Struct):
    """What is looked at of an answer's body."""

    model: str | None = None
    system_fingerprint: str | None = None
    usage: Usage | None = None

    @property
    def made_by(self) -> tuple[str | None, str | None]:
        return self.model, self.system_fingerprint


class Response(Struct):
    """Of an answer."""

    status_code: int
    request_id: str
    body: Raw


class Answer(Struct):
    """A line of an output file: a response, or an error of a line that is no request, whose
    `custom_id` is None."""

    id: str
    custom_id: str | None
    response: Response | None
    error: dict[str, Any] | None

    @property
    def is_error(self) -> bool:
        return self.response is None or self.response.status_code != 200

    @property
    def body(self) -> Body:
        """What is looked at of it; of an error, nothing."""
        return (
            Body() if self.response is None or self.is_error else _decoded(self.response.body, Body)
        )


class _Streamed(Struct):
    stream: Any = None


_encode = msgspec.json.Encoder().encode


def parsed(line: bytes) -> Request:
    """Raises ValueError for what is no request."""
    request = _decoded(line, Request)
    whose = f"of {request.custom_id!r} is"
    if request.method != "POST":
        raise ValueError(f"the method {whose} {request.method!r}; it must be POST")
    if request.url not in URLS:
        raise ValueError(f"the url {whose} {request.url!r}; it must be one of {', '.join(URLS)}")
    return request


def asks_for_stream(body: Raw) -> bool:
    """Whether it does; a body that is wrong does not."""
    try:
        return _decoded(body, _Streamed).stream is True
    except ValueError:
        return False


def parsed_answer(line: bytes) -> Answer:
    """Raises ValueError for what is none."""
    return _decoded(line, Answer)


def answer_line(custom_id: str, status: int, request_id: str, body: bytes) -> bytes:
    """What the server says to a request: `body`, in JSON."""
    response = {"status_code": status, "request_id": request_id, "body": Raw(body)}
    return _line(custom_id, response, None)


def error_line(custom_id: str, error: APIError) -> bytes:
    """The same of an error that no server has told of."""
    return answer_line(custom_id, error.status, secrets.token_hex(8), _encode(error.body))


def wrong_message(number: int, what: str) -> str:
    """What is said to a line that is no request."""
    return f"line {number}: {what}"


def wrong_line(message: str) -> bytes:
    """The answer to it."""
    return _line(None, None, {"code": "invalid_request", "message": message})


def _decoded(data: bytes | Raw, kind: type[_Kind]) -> _Kind:
    """Raises ValueError."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _line(custom_id: str | None, response: Any, error: Any) -> bytes:
    head = {"id": f"batch_req_{secrets.token_hex(12)}", "custom_id": custom_id}
    return _encode({**head, "response": response, "error": error}) + b"\n"
