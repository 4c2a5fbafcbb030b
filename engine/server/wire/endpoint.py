"""Routes that know what they take and what they give, so that both can be described."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from linnet.engine.server.http import body_of
from linnet.engine.server.wire.types import chosen

JSON = "application/json"
EVENTS = "text/event-stream"
_Body = TypeVar("_Body", bound=Struct)
_Other = TypeVar("_Other", bound=Struct)
_Answer = Awaitable[Response]


class Endpoint(Route):
    """A path and a method. `kinds`: of the body, none where it takes none, two where it has two
    shapes. `media`: types of what it answers. The first line of `handler`'s docstring says what
    that is."""

    def __init__(
        self, method: str, path: str, handler: Callable[[Request], _Answer], media: Sequence[str],
        summary: str, kinds: Sequence[type[Struct]] = (),
    ) -> None:  # fmt: skip
        super().__init__(path, handler, methods=[method])
        self.method, self.kinds, self.media, self.summary = method, kinds, media, summary


def get(
    paths: Sequence[str], handler: Callable[[Request], _Answer], media: str = JSON
) -> list[Endpoint]:
    """To be read, at each of some paths."""
    return [Endpoint("GET", path, handler, [media], _summary(handler)) for path in paths]


def post(
    paths: Sequence[str], handler: Callable[[Request, _Body | _Other], _Answer],
    kind: type[_Body], *others: type[_Other], streams: bool = False,
) -> list[Endpoint]:  # fmt: skip
    """To be asked, at each of some paths, with a body; see `chosen` for what it is of two."""
    kinds: list[type[_Body | _Other]] = [kind, *others]

    async def ask(request: Request) -> Response:
        return await handler(request, chosen(await body_of(request), kinds))

    media = [JSON, EVENTS] if streams else [JSON]
    return [Endpoint("POST", path, ask, media, _summary(handler), kinds) for path in paths]


def _summary(handler: Callable[..., _Answer]) -> str:
    return (handler.__doc__ or "").partition("\n")[0].removesuffix(".")
