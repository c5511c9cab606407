"""A scraper on a turnable clock, and an engine for it to read over HTTP."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.test_utils import TestServer
from engine_pages import vllm_page
from fake_clock import FakeClock
from recorded_sinks import RecordedLoop

from exporter.clock import SystemClock
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.scraper import Scraper
from exporter.loops import LoopHeartbeat
from exporter.metrics.state.target import TargetState
from exporter.model.engine import EngineInfo
from exporter.probe.engine_requests import EngineRequests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import structlog

    from exporter.clock import Clock
    from exporter.engine.scraper import MetricsSource
    from exporter.model.engine import EngineView


def unheard_scraper(
    client: EngineClient, clock: Clock, replica_pages: Mapping[str, str] | None = None
) -> Scraper:
    """A scraper of target "t" for those who ask it themselves, and whom nobody listens to."""
    return Scraper(
        "t",
        client,
        clock,
        interval_seconds=10,
        timeout_seconds=5,
        sink=TargetState("t"),
        heartbeat=RecordedLoop(may_fail=True).heartbeat,
        replica_pages=replica_pages,
    )


class FakeEngine:
    """An HTTP server that shows the page it is given."""

    def __init__(self) -> None:
        self.page = vllm_page(queried=100.0, hit=40.0)
        self.status = 200
        self.models_status = 200
        self.hang = False
        self.version = "0.32.0"
        self.info_asked = 0
        self.scraped = 0
        self.reached = asyncio.Event()
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/version", self._version)
        self.server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self.server.make_url("/"))

    async def _metrics(self, _: web.Request) -> web.Response:
        self.scraped += 1
        self.reached.set()
        if self.hang:
            await asyncio.Event().wait()
        return web.Response(body=self.page, status=self.status, content_type="text/plain")

    async def _models(self, _: web.Request) -> web.Response:
        self.info_asked += 1
        if self.models_status != 200:
            return web.json_response({"error": "Unauthorized"}, status=self.models_status)
        card = {"id": "tiny", "object": "model", "max_model_len": 8192}
        return web.json_response({"object": "list", "data": [card]})

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": self.version})


class Bench:
    """A scraper with everything around it, and what it published and reported."""

    def __init__(
        self, url: str, *, timeout: float = 5.0, source: MetricsSource | None = None
    ) -> None:
        self.clock = FakeClock()
        self.views: list[EngineView] = []
        self.counted = RecordedLoop(may_fail=True)
        self.publish_error: Exception | None = None
        self.source = EngineClient(url, timeout_seconds=30.0)
        self.scraper = Scraper(
            "local",
            source or self.source,
            self.clock,
            interval_seconds=10.0,
            timeout_seconds=timeout,
            sink=self,
            heartbeat=LoopHeartbeat("scrape:local", self.counted, self.clock),
        )

    def engine_scraped(self, view: EngineView) -> None:
        self.views.append(view)
        if self.publish_error is not None:
            raise self.publish_error

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """The loop as a task, with its first round over."""
        task = asyncio.create_task(self.scraper.run())
        await self.clock.until_asleep()
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def next_round(self) -> EngineView:
        await self.clock.advance(10.0)
        await self.clock.until_asleep()
        return self.views[-1]


class BrokenSource:
    """A door with a mistake in it."""

    def __init__(self) -> None:
        self.broken = False

    async def metrics(self, _url: str | None = None) -> bytes:
        if self.broken:
            raise RuntimeError("a mistake")
        return vllm_page()

    async def info(self) -> EngineInfo:
        return EngineInfo("tiny", None, None, simulated=False)


def events(logs: list[structlog.typing.EventDict]) -> list[str]:
    return [entry["event"] for entry in logs]


def requests_to(client, clock=None, **options):
    """The requests to an engine, by readings of its own metrics that nobody hears of."""
    clock = clock or SystemClock()
    return EngineRequests(client, unheard_scraper(client, clock).refresh, clock, **options)
