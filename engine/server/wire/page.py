"""`GET /`: a page to chat with, one file that loads nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from linnet.engine.server.service import Service
from linnet.engine.server.wire.endpoint import Endpoint, get

HTML = "text/html"
PAGE = Path(__file__).parents[1] / "page" / "index.html"


def routes(service: Service) -> list[Endpoint]:
    if not service.settings.has_page:
        return []
    html = PAGE.read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": _policy(html),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    async def page(_: Request) -> Response:
        """A page to chat with."""
        return Response(html, headers=headers, media_type=HTML)

    return get(["/"], page, HTML)


def _policy(html: str) -> str:
    """What the page may do: run its own script and style, known by their hashes, and call this
    server. A string never becomes HTML there, as no policy of trusted types is allowed."""
    rules = {
        "default-src": "'none'",
        "script-src": _hash(html, "script"),
        "style-src": _hash(html, "style"),
        "img-src": "data:",  # its icon
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(html: str, tag: str) -> str:
    """Of the one inline element of that kind."""
    [text] = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
