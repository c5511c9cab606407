"""`POST /-/reload`: the only route that makes the daemon do something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_OFF = (
    "403 a reload over HTTP is disabled: set web_reload_enabled = true and restart, or send the "
    "process SIGHUP\n"
)
_FOREIGN = "403 a page of another site may not reload the configuration\n"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a reload: an HTTP status and a text for the client."""

    status: int
    text: str


def routes(reload: Callable[[], Awaitable[Outcome]] | None) -> list[web.RouteDef]:
    """The route; `reload` reads the configuration again, None where that is not allowed."""

    async def answer(request: web.Request) -> web.Response:
        if reload is None:
            return web.Response(status=403, text=_OFF)
        if _from_another_site(request):
            return web.Response(status=403, text=_FOREIGN)
        result = await reload()
        return web.Response(status=result.status, text=result.text)

    return [web.post("/-/reload", answer)]


def _from_another_site(request: web.Request) -> bool:
    """A page can make a browser send a form to any address. `Origin` names the site of the page."""
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc != request.host
