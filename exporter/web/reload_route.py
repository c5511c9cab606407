"""`POST /-/reload`: the only address here that makes the daemon do something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_OFF = (
    "403 reading the configuration again over HTTP is off: set web_reload_enabled = true and "
    "restart, or send the process SIGHUP\n"
)
_FOREIGN = "403 a page of another site may not have the configuration read again\n"


class Answer(Protocol):
    """What became of it."""

    @property
    def status(self) -> int:
        """Of HTTP."""

    @property
    def text(self) -> str:
        """For a person."""


def routes(ask: Callable[[], Awaitable[Answer]] | None) -> list[web.RouteDef]:
    """The route; `ask` has the configuration read again, None where that is not allowed."""

    async def reload(request: web.Request) -> web.Response:
        if ask is None:
            return web.Response(status=403, text=_OFF)
        if _from_another_site(request):
            return web.Response(status=403, text=_FOREIGN)
        answer = await ask()
        return web.Response(status=answer.status, text=answer.text)

    return [web.post("/-/reload", reload)]


def _from_another_site(request: web.Request) -> bool:
    """Browsers send a form to any address that a page names, and say in `Origin` which it was."""
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host
