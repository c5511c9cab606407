"""The scrape loop against a real HTTP server, on a clock that the test turns."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port
from engine_pages import rank, recorded, vllm_page
from fake_clock import FakeClock

from exporter.engine.client import EngineClient
from exporter.engine.reasons import ScrapeReason, scrape_reason
from exporter.engine.scraper import Scraper
from exporter.model import EngineInfo, EngineTotals, FailureReason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from exporter.engine.scraper import MetricsSource
    from exporter.model import EngineView


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
        self.loop_failures = 0
        self.publish_error: Exception | None = None
        self.source = EngineClient(url, timeout_seconds=30.0)
        self.scraper = Scraper(
            "local",
            source or self.source,
            self.clock,
            interval_seconds=10.0,
            timeout_seconds=timeout,
            publish=self._publish,
            on_loop_failure=self._count,
        )

    def _publish(self, view: EngineView) -> None:
        self.views.append(view)
        if self.publish_error is not None:
            raise self.publish_error

    def _count(self) -> None:
        self.loop_failures += 1

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

    async def metrics(self) -> bytes:
        if self.broken:
            raise RuntimeError("a mistake")
        return vllm_page()

    async def info(self) -> EngineInfo:
        return EngineInfo("tiny", None, None, simulated=False)


@pytest.fixture
async def engine():
    fake = FakeEngine()
    async with fake.server:
        yield fake


@pytest.fixture
async def bench(engine: FakeEngine):
    made = Bench(engine.url)
    async with made.source:
        yield made


@pytest.fixture
def logs():
    with structlog.testing.capture_logs() as captured:
        yield captured


def events(logs: list[structlog.typing.EventDict]) -> list[str]:
    return [entry["event"] for entry in logs]


# Good readings


async def test_the_first_reading_tells_all_that_the_engine_says(engine, bench):
    engine.page = recorded("main32_after")
    async with bench.running():
        (view,) = bench.views
    assert view.target == "local"
    assert view.failure is None
    assert view.snapshot is not None
    assert view.snapshot.queried_tokens == 7819.0
    assert view.snapshot.at == bench.clock.monotonic()
    assert view.totals == EngineTotals(
        queried_tokens=7819.0,
        hit_tokens=6368.0,
        saved_tokens=6368.0,
        prompt_tokens=7819.0,
        generation_tokens=512.0,
        preemptions=0.0,
    )
    assert view.info == EngineInfo("tiny", 8192, "0.32.0", simulated=False)
    assert view.hit_ratios == {}
    assert view.restarts == 0


async def test_nothing_is_known_before_the_first_reading(bench):
    assert bench.scraper.latest() is None


async def test_every_round_is_published_and_the_last_is_at_hand(engine, bench):
    async with bench.running():
        engine.page = vllm_page(queried=200.0, hit=115.0)
        view = await bench.next_round()
        assert len(bench.views) == 2
        assert bench.scraper.latest() is view
        assert view.hit_ratios == {"1m": 0.75, "5m": 0.75, "1h": 0.75}


async def test_the_next_round_begins_an_interval_after_the_last_began(engine, bench):
    async with bench.running():
        await bench.clock.advance(9.9)
        await bench.clock.settle()
        assert engine.scraped == 1
        await bench.clock.advance(0.1)
        await bench.clock.until_asleep()
        assert engine.scraped == 2


async def test_the_time_that_a_reading_takes_is_part_of_the_interval():
    class SlowSource(BrokenSource):
        async def metrics(self) -> bytes:
            bench.clock.jump(3.0)
            return await super().metrics()

    bench = Bench("http://127.0.0.1:9", source=SlowSource())
    async with bench.running():
        assert bench.views[-1].snapshot.scrape_seconds == 3.0
        await bench.clock.advance(7.0)
        await bench.clock.until_asleep()
        assert len(bench.views) == 2


async def test_the_engine_is_asked_for_its_name_once(engine, bench):
    async with bench.running():
        await bench.next_round()
        await bench.next_round()
    assert engine.info_asked == 1


async def test_a_refresh_reads_at_once_and_does_not_disturb_the_loop(engine, bench):
    async with bench.running():
        engine.page = vllm_page(queried=150.0, hit=60.0)
        view = await bench.scraper.refresh()
        assert view.totals.queried_tokens == 150.0
        assert bench.views == [bench.views[0], view]
        assert bench.clock.asleep == 1
        await bench.next_round()
        assert engine.scraped == 3


async def test_a_refresh_during_a_round_reads_again_after_it():
    class CountingSource(BrokenSource):
        inside = most = reads = 0

        async def metrics(self) -> bytes:
            self.inside += 1
            self.reads += 1
            self.most = max(self.most, self.inside)
            await bench.clock.settle()
            self.inside -= 1
            return await super().metrics()

    source = CountingSource()
    bench = Bench("http://127.0.0.1:9", source=source)
    first, second = await asyncio.gather(bench.scraper.refresh(), bench.scraper.refresh())
    assert (source.reads, source.most) == (2, 1)
    assert bench.views == [first, second]
    assert bench.scraper.latest() is second


# Restarts


async def test_a_restart_is_bridged_counted_and_asks_for_the_name_again(engine, bench, logs):
    async with bench.running():
        engine.page = vllm_page(started=1_700_000_500.0, queried=10.0, hit=5.0)
        engine.version = "0.33.0"
        view = await bench.next_round()
    assert view.restarts == 1
    assert view.totals.queried_tokens == 110.0
    assert view.hit_ratios["1m"] == 0.5
    assert view.info is not None
    assert view.info.version == "0.33.0"
    assert events(logs).count("engine.restarted") == 1


async def test_after_a_restart_the_old_name_is_not_shown_when_the_new_cannot_be_had(engine, bench):
    async with bench.running():
        engine.page = vllm_page(started=1_700_000_500.0)
        engine.models_status = 500
        assert (await bench.next_round()).info is None
        engine.models_status = 200
        assert (await bench.next_round()).info is not None


async def test_a_name_that_cannot_be_had_is_logged_once_and_spoils_nothing(engine, bench, logs):
    engine.models_status = 401
    async with bench.running():
        view = await bench.next_round()
        assert view.snapshot is not None
        assert view.info is None
        engine.models_status = 200
        await bench.next_round()
    assert events(logs) == ["engine_info.failed", "engine_info.recovered"]
    assert logs[0]["reason"] == "unauthorized"


async def test_replicas_behind_one_url_are_found_out_and_not_added_up(engine, bench):
    one = vllm_page(started=1_700_000_000.0, queried=1000.0, hit=0.0)
    two = vllm_page(started=1_700_000_001.0, queried=2000.0, hit=0.0)
    engine.page = one
    async with bench.running():
        engine.page = two
        await bench.next_round()
        for _ in range(5):
            engine.page = one
            assert (await bench.next_round()).failure.reason == "several_engines"
            engine.page = two
            view = await bench.next_round()
            assert view.failure is None
    assert view.totals.queried_tokens == 3000.0
    assert view.restarts == 1


# Failures


async def test_a_failure_takes_the_snapshot_and_the_ratios_and_leaves_the_totals(engine, bench):
    async with bench.running():
        engine.page = vllm_page(queried=200.0, hit=115.0)
        assert (await bench.next_round()).hit_ratios
        engine.status = 500
        view = await bench.next_round()
    assert view.snapshot is None
    assert view.hit_ratios == {}
    assert view.totals.queried_tokens == 200.0
    assert view.failure is not None
    assert view.failure.reason == "server_error"
    assert view.failure.at == bench.clock.monotonic()


@pytest.mark.parametrize(
    ("answer", "reason", "said"),
    [
        ((200, recorded("nostats")), "no_vllm_metrics", "without --disable-log-stats"),
        ((200, b""), "no_vllm_metrics", "--disable-log-stats"),
        ((200, b"<html>\n</html>\n"), "not_prometheus", "line 1: '<html>'"),
        ((200, rank("vllm:prompt_tokens_total", 1)[:-1].encode()), "not_prometheus", "breaks off"),
        ((401, b"no"), "unauthorized", "HTTP 401"),
        ((404, b"no"), "protocol", "HTTP 404"),
        ((503, b"no"), "overloaded", "HTTP 503"),
        ((500, b"no"), "server_error", "HTTP 500"),
    ],
)
async def test_each_bad_answer_has_a_reason_of_its_own(engine, bench, answer, reason, said):
    engine.status, engine.page = answer
    view = await bench.scraper.refresh()
    assert view.failure is not None
    assert view.failure.reason == reason
    assert said in view.failure.detail
    assert view.snapshot is None
    assert bench.loop_failures == 0


async def test_an_engine_that_is_not_there_refuses_the_connection():
    bench = Bench(f"http://127.0.0.1:{unused_port()}")
    async with bench.source:
        view = await bench.scraper.refresh()
    assert view.failure is not None
    assert view.failure.reason == ScrapeReason.CONNECTION_REFUSED
    assert view.totals == EngineTotals()


async def test_an_engine_that_hangs_is_given_up_after_the_timeout(engine):
    engine.hang = True
    bench = Bench(engine.url, timeout=0.05)
    async with bench.source:
        view = await bench.scraper.refresh()
    assert view.failure is not None
    assert view.failure.reason == ScrapeReason.TIMEOUT
    assert "0.05 s" in view.failure.detail


async def test_the_log_tells_failure_and_recovery_once_each(engine, bench, logs):
    async with bench.running():
        engine.status = 500
        for _ in range(4):
            await bench.next_round()
        engine.status = 200
        for _ in range(3):
            await bench.next_round()
        engine.status = 500
        await bench.next_round()
    assert events(logs) == ["scrape.failed", "scrape.recovered", "scrape.failed"]
    assert logs[0]["reason"] == "server_error"
    assert logs[0]["target"] == "local"
    assert logs[1]["after_seconds"] == 40.0


async def test_an_outage_whose_reasons_alternate_logs_each_reason_once(engine, bench, logs):
    async with bench.running():
        for status in (500, 503, 500, 503, 500):
            engine.status = status
            await bench.next_round()
    assert [(e["event"], e["reason"]) for e in logs] == [
        ("scrape.failed", "server_error"),
        ("scrape.failed", "overloaded"),
    ]


async def test_an_engine_that_restarts_during_an_outage_is_bridged_when_it_is_back(engine, bench):
    async with bench.running():
        engine.status = 503
        await bench.next_round()
        engine.status = 200
        engine.page = vllm_page(started=1_700_000_500.0, queried=7.0, hit=7.0)
        view = await bench.next_round()
    assert view.restarts == 1
    assert view.totals.queried_tokens == 107.0


# What nobody foresaw


async def test_a_mistake_in_a_round_is_logged_counted_and_survived(logs):
    source = BrokenSource()
    bench = Bench("http://127.0.0.1:9", source=source)
    async with bench.running() as task:
        assert bench.views[-1].snapshot is not None
        source.broken = True
        view = await bench.next_round()
        assert view.snapshot is None
        assert view.failure is not None
        assert view.failure.reason == "internal"
        assert bench.loop_failures == 1
        assert not task.done()
        source.broken = False
        assert (await bench.next_round()).snapshot is not None
    assert events(logs) == ["scrape.unforeseen", "scrape.failed", "scrape.recovered"]
    assert logs[0]["exc_info"]


async def test_a_publisher_that_fails_does_not_end_the_loop(bench, logs):
    bench.publish_error = ValueError("cannot publish")
    async with bench.running() as task:
        await bench.next_round()
        assert not task.done()
    assert bench.loop_failures == 2
    assert events(logs) == ["scrape.publish_failed"] * 2


async def test_cancelling_ends_the_loop_even_within_a_reading(engine):
    engine.hang = True
    bench = Bench(engine.url, timeout=30.0)
    async with bench.source:
        task = asyncio.create_task(bench.scraper.run())
        async with asyncio.timeout(10):
            await engine.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert bench.views == []
    assert bench.loop_failures == 0


# Reasons


@pytest.mark.parametrize("reason", list(FailureReason))
def test_whatever_reason_a_door_gives_becomes_one_of_the_closed_set(reason: FailureReason):
    assert scrape_reason(reason) in set(ScrapeReason)


def test_a_reason_that_both_sets_have_keeps_its_name():
    assert scrape_reason("unauthorized") is ScrapeReason.UNAUTHORIZED
    assert scrape_reason("turn_timeout") is ScrapeReason.TIMEOUT
    assert scrape_reason("something else") is ScrapeReason.PROTOCOL
