"""/report.png: the chart of a target's last session, drawn on request.

Drawing takes about a second of processor time, so a thread does it, one picture at a time, and a
picture is kept until there is a newer session. `draw` is an argument, because it needs matplotlib,
which is optional: the first request loads it.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from aiohttp import web

from exporter.errors import ExporterError
from exporter.web.parameters import some_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.metrics.history import History
    from exporter.metrics.store import Metrics
    from exporter.model.session import SessionResult

    Draw = Callable[[SessionResult], bytes]


class Pictures:
    """One picture for each target, of its last session."""

    def __init__(self, history: History, draw: Draw) -> None:
        self._history = history
        self._draw = draw
        self._drawn: dict[str, tuple[SessionResult, bytes]] = {}
        self._lock = asyncio.Lock()
        # One thread: a drawing whose request was cancelled still delays the next one.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="picture")

    async def latest(self, target: str) -> bytes | None:
        """The picture as PNG; None where no session has ended. Raises `ExporterError`."""
        async with self._lock:
            session = self._history.latest(target)
            if session is None:
                return None
            kept = self._drawn.get(target)
            if kept is not None and kept[0] is session:
                return kept[1]
            loop = asyncio.get_running_loop()
            picture = await loop.run_in_executor(self._thread, self._draw, session)
            known = {name: drawn for name, drawn in self._drawn.items() if self._is_known(name)}
            self._drawn = known | {target: (session, picture)}
            return picture

    def _is_known(self, target: str) -> bool:
        return self._history.latest(target) is not None


def routes(metrics: Metrics, history: History, draw: Draw) -> list[web.RouteDef]:
    """`/report.png?target=NAME`; without the parameter where there is only one target."""
    pictures = Pictures(history, draw)

    async def report(request: web.Request) -> web.Response:
        target = _target(request.query.get("target"), metrics)
        if target is None:
            known = some_of(metrics.targets)
            return _not_found(f"Which target? Ask for /report.png?target=NAME, one of: {known}.")
        try:
            picture = await pictures.latest(target)
        except ExporterError as error:
            return _not_found(f"There is no picture: {error}.")
        if picture is None:
            return _not_found(f"No session with {target} has ended yet.")
        return web.Response(body=picture, content_type="image/png")

    return [web.get("/report.png", report)]


def _target(asked: str | None, metrics: Metrics) -> str | None:
    names = tuple(metrics.targets)
    if asked is None:
        return names[0] if len(names) == 1 else None
    return asked if asked in names else None


def _not_found(sentence: str) -> web.Response:
    return web.Response(status=404, text=f"{sentence}\n")
