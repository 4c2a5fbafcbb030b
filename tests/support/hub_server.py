"""A stand-in for the Hugging Face hub on 127.0.0.1: lists repositories, and serves their files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(slots=True)
class Hub:
    """`repos`: files by repository and path. `requests`: method, path and range of each request;
    `tokens`: what each had for authorization.

    The connection that sends a file breaks off after so many bytes, once for each of `breaks`.
    """

    repos: dict[str, dict[str, bytes]]
    gated: set[str] = field(default_factory=set)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    breaks: list[int] = field(default_factory=list)
    url: str = ""

    @property
    def downloads(self) -> list[str]:
        """The paths of files that were sent, or begun to."""
        gets = [path for method, path, _ in self.requests if method == "GET"]
        return [path for path in gets if "/resolve/" in path]

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        hub = self

        class Handler(_Handler):
            def respond(self) -> None:
                hub.requests.append((self.command, self.path, self.headers["Range"]))
                hub.tokens.append(self.headers["Authorization"])
                self.answer(hub)

            do_GET = do_HEAD = respond  # noqa: N815

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def answer(self, hub: Hub) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if listing else parts[:2])
        files = hub.repos.get(repo)
        if files is None:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if repo in hub.gated:
            return self._send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if listing:
            info = {"id": repo, "siblings": [{"rfilename": path} for path in files]}
            headers = {"Content-Type": "application/json"}
            return self._send(200, json.dumps(info).encode(), headers)
        file = files.get("/".join(parts[4:]))
        return self._send(404, b"", {}) if file is None else self._send_file(hub, file)

    def _send_file(self, hub: Hub, data: bytes) -> None:
        start, status = 0, 200
        if self.headers["Range"]:
            start, status = int(self.headers["Range"].removeprefix("bytes=").split("-")[0]), 206
        headers = {
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}",
        }
        breaks = self.command == "GET" and hub.breaks
        self._send(status, data[start:], headers, hub.breaks.pop(0) if breaks else None)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], most: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:most])

    def log_message(self, *_: object) -> None:
        """Say nothing."""
