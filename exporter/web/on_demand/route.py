"""`GET /probe`: plays one session of a known target and answers with its metrics.

An answer takes as long as the session. It costs an engine time, so the daemon allows it only behind
a password or client certificates.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

from aiohttp import web

from exporter.metrics.writer import writer_for
from exporter.model.on_demand import OnDemandOutcome
from exporter.scenario.library import NoSuchScenarioError
from exporter.web.connections import Connection
from exporter.web.on_demand import answer as answers
from exporter.web.parameters import (
    BadRequestError,
    NoSuchTargetError,
    allow_only,
    asked_target,
    one_of,
    some_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from exporter.metrics.store import Metrics
    from exporter.model.on_demand import OnDemandAnswer
    from exporter.model.session import SessionResult

_OFF = (
    "403 sessions on demand are off: set web_probe_enabled = true and a web_config_file with "
    "passwords or client certificates, and restart\n"
)
_FOREIGN = "403 a page of another site may not start a session\n"
_TIMEOUT_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"
_ANSWER_SECONDS = 0.5
"""Left of the scraper's time for writing and sending the answer, as blackbox_exporter leaves."""
_LONGEST_SECONDS = 120.0
"""For a client that gives no timeout, as blackbox_exporter gives it."""


class Play(Protocol):
    """Plays one session on demand."""

    async def __call__(
        self, target: str, scenario: str | None, timeout_seconds: float
    ) -> OnDemandAnswer:
        """Without a scenario, play the one that the target plays. Raises `NoSuchScenarioError`."""


def routes(
    metrics: Metrics, play: Play | None, describe: Callable[[SessionResult], str]
) -> list[web.RouteDef]:
    """The route; `play` is None where it is off. `describe` is a text for `debug=true`; it blocks
    for a moment.
    """

    async def answer(request: web.Request) -> web.Response:
        if play is None:
            return web.Response(status=403, text=_OFF)
        if _from_another_site(request):
            return web.Response(status=403, text=_FOREIGN)
        try:
            target, scenario, debug, seconds = _asked(request, metrics)
            with _cancelled_if_lost(request):
                played = await play(target, scenario, seconds)
        except (BadRequestError, NoSuchScenarioError) as error:
            status = 404 if isinstance(error, NoSuchTargetError) else 400
            return web.Response(status=status, text=f"{error}\n")
        if debug:
            return await _described(played, describe)
        return _metrics_of(request, played, metrics)

    return [web.get("/probe", answer, allow_head=False)]


def _asked(request: web.Request, metrics: Metrics) -> tuple[str, str | None, bool, float]:
    allow_only(request, "target", "scenario", "debug")
    target = asked_target(request, metrics.targets)
    if target is None:
        raise BadRequestError(f"target: is required; there are: {some_of(metrics.targets)}")
    debug = one_of(request, "debug", ("true", "false")) == "true"
    return target, request.query.get("scenario"), debug, _seconds(request)


def _seconds(request: web.Request) -> float:
    """How long the session may take, so that the answer still reaches the scraper."""
    given = request.headers.get(_TIMEOUT_HEADER)
    if given is None:
        return _LONGEST_SECONDS
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise BadRequestError(f"{_TIMEOUT_HEADER}: {given!r} is not a number of seconds above 0")
    return max(seconds - _ANSWER_SECONDS, seconds / 2)


def _from_another_site(request: web.Request) -> bool:
    """Browsers say for which site they send a request; scrapers and curl say nothing."""
    return request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")


def _cancelled_if_lost(request: web.Request) -> AbstractContextManager[None]:
    connection = request.protocol
    return connection.cancelling() if isinstance(connection, Connection) else nullcontext()


async def _described(
    played: OnDemandAnswer, describe: Callable[[SessionResult], str]
) -> web.Response:
    if played.session is None:
        refused = played.outcome is OnDemandOutcome.REFUSED
        headers = answers.retry_after(played)
        return web.Response(
            status=429 if refused else 200, text=answers.refusal(played), headers=headers
        )
    return web.Response(text=await asyncio.to_thread(describe, played.session))


def _metrics_of(request: web.Request, played: OnDemandAnswer, metrics: Metrics) -> web.Response:
    known = metrics.targets.get(played.target)
    if known is None:  # removed meanwhile
        raise web.HTTPNotFound
    writer, content_type = writer_for(",".join(request.headers.getall("Accept", [])))
    headers = {"Content-Type": content_type, "Vary": "Accept", **answers.retry_after(played)}
    return web.Response(body=answers.page(played, known, writer).encode(), headers=headers)
