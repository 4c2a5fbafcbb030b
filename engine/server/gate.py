"""Who may ask: by the host a request names, the page it comes from, and its key.

A page on the web can have a browser send requests to this machine, and a name that its owner
points to 127.0.0.1 makes them look as if they came from the server's own page. So where anybody
who reaches the port may ask, a request for a public name, or from a page of another origin, is
refused; so it is where nobody here knows at which addresses the server listens.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from linnet.engine.server.errors import APIError, unavailable
from linnet.engine.server.http import error_response
from linnet.engine.server.service import Service

OPEN_PATHS = frozenset({"/", "/health", "/v1/health"})  # that need no key
LOCAL_PATHS = frozenset({"/metrics", "/v1/metrics"})  # nor do these, for this machine alone
LOCAL_SUFFIXES = (".localhost", ".local", ".internal")  # of names that nobody can register
METHODS = "GET, POST, OPTIONS"
EXPOSED = "x-request-id, retry-after"


class Gate:
    """Lets a request through, or answers that it may not."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        settings = service.settings
        self._app, self._service = app, service
        self._origins = frozenset(settings.cors_origins)
        self._digests = [_digest(key.encode()) for key in settings.api_keys]
        self._open = OPEN_PATHS | LOCAL_PATHS if settings.is_local else OPEN_PATHS
        self._checks_hosts = settings.is_local is not False and not self._digests
        self._hosts = frozenset(map(_hostname, self._origins))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allows = origin is not None and self._allows(origin)
        answer: ASGIApp = self._app
        try:
            self._check_host(headers)
            if origin is not None and "access-control-request-method" in headers:
                answer = Response()  # a preflight: whether the page may ask is in its headers
            else:
                self._check(scope["path"], headers, is_foreign=not allows)
        except APIError as error:
            answer = error_response(scope, error)
        await answer(scope, receive, _with_origin(send, headers) if allows else send)

    def _check(self, path: str, headers: Headers, *, is_foreign: bool) -> None:
        """Raises APIError."""
        origin = headers.get("origin")
        is_own = origin is None or _netloc(origin) == headers.get("host")
        if is_foreign and not is_own and not self._digests:
            message = f"pages of {origin} may not ask; see --cors-origins"
            raise APIError(403, message, code="origin_not_allowed")
        if self._digests and path not in self._open:
            given = _digest(_key(headers))
            if not sum(hmac.compare_digest(given, key) for key in self._digests):  # all, always
                raise APIError(401, "the API key is missing or wrong", code="invalid_api_key")
        if self._service.draining:
            raise unavailable("the server is shutting down")

    def _check_host(self, headers: Headers) -> None:
        """Raises APIError for a name that a stranger may have pointed here."""
        if not self._checks_hosts:
            return
        host = _hostname("//" + headers.get("host", ""))
        if not (host in self._hosts or "." not in host or _is_address(host)
                or host.endswith(LOCAL_SUFFIXES)):  # fmt: skip
            message = f"requests for {host} are refused; with --api-key, any name is served"
            raise APIError(403, message, code="host_not_allowed")

    def _allows(self, origin: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        host = _hostname(origin)
        return "localhost" in self._origins and (host == "localhost" or _is_loopback(host))


def _with_origin(send: Send, headers: Headers) -> Send:
    """What tells a browser that the page may have the answer."""
    asked = headers.get("access-control-request-headers", "*")
    told = [
        (b"access-control-allow-origin", headers["origin"].encode("latin-1")),
        (b"access-control-allow-methods", METHODS.encode()),
        (b"access-control-allow-headers", asked.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED.encode()),
        (b"access-control-allow-private-network", b"true"),  # a page on the web may ask localhost
        (b"vary", b"Origin"),
    ]

    async def send_with_origin(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *told]}
        await send(message)

    return send_with_origin


def _key(headers: Headers) -> bytes:
    """The key that is given, as OpenAI's clients do or as Anthropic's."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
    return given.encode("latin-1")


def _digest(key: bytes) -> bytes:
    """So that comparing takes the same time for any length."""
    return hashlib.sha256(key).digest()


def _netloc(url: str) -> str:
    return url.partition("://")[2]


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return url


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_loopback
