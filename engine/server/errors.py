"""What is answered where a request cannot be: a status, and a body in OpenAI's shape."""

from __future__ import annotations

from typing import Any

from linnet.engine.chat.sandbox import TemplateError
from linnet.engine.running.sequence import ContextOverflow
from linnet.engine.sampling.constraint import ConstraintError
from linnet.engine.server.log import log_failure
from linnet.kernels.runtime.team import Interrupted

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    501: "not_supported_error",
    503: "unavailable_error",
}
ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    415: "invalid_request_error",
    501: "invalid_request_error",
    503: "overloaded_error",
}
ANTHROPIC_PATHS = ("/messages", "/messages/count_tokens")  # below / or /v1
RETRY_SECONDS = 1
LONGEST_MESSAGE = 1000  # characters; some quote what was sent


class APIError(Exception):
    """An answer that is an error. `extra`: fields beside OpenAI's four."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, type: str | None = None,
        code: str | int | None = None, **extra: Any,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.param = status, _shortened(message), param
        self.type = type or TYPES.get(status, "server_error")
        self.code, self.extra = status if code is None else code, extra

    @property
    def body(self) -> dict[str, Any]:
        """As OpenAI's API has it; `code` is the status where there is nothing better."""
        error = {
            "message": self.message, "type": self.type, "param": self.param, "code": self.code,
        }  # fmt: skip
        return {"error": error | self.extra}

    @property
    def anthropic_body(self) -> dict[str, Any]:
        """As Anthropic's API has it; clients know a prompt that is too long by its first words."""
        message = self.message
        if "n_prompt_tokens" in self.extra:
            n, n_ctx = self.extra["n_prompt_tokens"], self.extra["n_ctx"]
            message = f"prompt is too long: {n} tokens > {n_ctx} maximum: {message}"
        kind = ANTHROPIC_TYPES.get(self.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}

    def body_at(self, path: str) -> dict[str, Any]:
        """In the shape that clients of that path read."""
        is_anthropic = path.removeprefix("/v1") in ANTHROPIC_PATHS
        return self.anthropic_body if is_anthropic else self.body

    @property
    def headers(self) -> dict[str, str]:
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": str(RETRY_SECONDS)} if self.status == 503 else {}


def refused(error: Exception, *, param: str | None = None) -> APIError:
    """What to answer where a request was refused before anything was computed; `param`: the field
    that has the prompt."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, ContextOverflow):
        n, n_ctx = error.n_tokens, error.n_ctx
        message = f"the prompt of {n} tokens exceeds the available context size of {n_ctx} tokens"
        return APIError(
            400, f"{message}; start the server with a larger -c", param=param,
            type="exceed_context_size_error", code="context_length_exceeded",
            n_prompt_tokens=n, n_ctx=n_ctx,
        )  # fmt: skip
    if isinstance(error, ValueError | TemplateError):
        return APIError(400, _one_line(error), param=param)
    if isinstance(error, ModuleNotFoundError):
        return APIError(501, _one_line(error), param=param)
    if isinstance(error, RecursionError):
        return APIError(400, "the body is nested too deeply", param=param)
    return failed(error)


def failed(error: Exception) -> APIError:
    """What to answer where a request was begun, and failed. What nobody foresaw is logged."""
    if isinstance(error, APIError):
        return error
    if isinstance(error, ConstraintError):  # one that is too much for its limits
        return APIError(400, _one_line(error))
    if isinstance(error, Interrupted):
        return unavailable("the server is shutting down")
    if isinstance(error, TimeoutError):
        return APIError(503, "the request took longer than --timeout", code="timeout")
    log_failure(error)
    return APIError(500, _one_line(error) or type(error).__name__)


def unsupported(name: str, remedy: str, *, param: str | None = None) -> APIError:
    """For a field that is known, and that nothing here can do; `param`: the one that it is in."""
    return APIError(400, f"{name} is not supported; {remedy}", param=param or name)


def unavailable(message: str) -> APIError:
    """503, to be tried again."""
    return APIError(503, message)


def _shortened(message: str) -> str:
    """Its beginning, which names the field, and its end, which says what that must be."""
    half = (LONGEST_MESSAGE - 3) // 2
    is_short = len(message) <= LONGEST_MESSAGE
    return message if is_short else f"{message[:half]}...{message[-half:]}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
