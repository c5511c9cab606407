"""Scrapes of several replicas, each with a metrics page of its own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from engine_pages import vllm_page
from fake_clock import FakeClock
from scraper_bench import FakeEngine, unheard_scraper

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.metrics.scrape_reasons import ScrapeReason
from exporter.model.engine import replica_key


class Replicas:
    """Engines with pages that the test sets, and a scraper that reads all of them."""

    def __init__(self, engines, client, clock, scraper) -> None:
        self.engines, self.client, self.clock, self.scraper = engines, client, clock, scraper

    def name(self, index):
        return self.engines[index].url.removeprefix("http://").rstrip("/")

    async def scrape(self, seconds=10.0):
        self.clock.jump(seconds)
        return await self.scraper.refresh()


@asynccontextmanager
async def replicas(count=2):
    async with AsyncExitStack() as stack:
        engines = [FakeEngine() for _ in range(count)]
        for engine in engines:
            await stack.enter_async_context(engine.server)
        client = await stack.enter_async_context(EngineClient(engines[0].url, timeout_seconds=0.5))
        clock = FakeClock()
        pages = {
            one.url.removeprefix("http://").rstrip("/"): f"{one.url}metrics" for one in engines
        }
        scraper = unheard_scraper(client, clock, pages)
        yield Replicas(engines, client, clock, scraper)


async def test_the_totals_are_sums_over_the_replicas_and_each_replica_keeps_its_own():
    async with replicas() as at:
        at.engines[0].page = vllm_page(queried=100.0, hit=40.0, started=1.0)
        at.engines[1].page = vllm_page(queried=1000.0, hit=500.0, started=2.0)
        view = await at.scrape()
        each = {at.name(0): 100.0, at.name(1): 1000.0}
    assert view.failure is None
    assert not view.mixed
    assert (view.totals.queried_tokens, view.totals.hit_tokens) == (1100.0, 540.0)
    assert {name: one.queried_tokens for name, one in view.replicas.items()} == each


async def test_a_restart_of_one_replica_is_bridged_and_counted():
    async with replicas() as at:
        at.engines[0].page = vllm_page(queried=100.0, hit=40.0, started=1.0)
        at.engines[1].page = vllm_page(queried=1000.0, hit=500.0, started=2.0)
        await at.scrape()
        at.engines[1].page = vllm_page(queried=10.0, hit=5.0, started=3.0)
        view, name = await at.scrape(), at.name(1)
    assert view.totals.queried_tokens == 1110.0
    assert view.restarts == 1
    assert view.replicas[name].hit_tokens == 505.0


async def test_a_replica_that_cannot_be_read_is_named_and_lowers_no_total():
    async with replicas() as at:
        at.engines[1].page = vllm_page(queried=1000.0, hit=500.0, started=2.0)
        before = await at.scrape()
        at.engines[1].status = 503
        view = await at.scrape()
        (unread,) = view.snapshot.unread.items()
        key, url = replica_key(at.name(1)), at.engines[1].url
        at.engines[1].status = 200
        after = await at.scrape()
    assert view.failure is None
    assert unread[0] == key
    assert unread[1].startswith(url)
    assert view.totals == before.totals == after.totals
    assert view.snapshot.queried_tokens is None
    assert not after.snapshot.unread


async def test_a_scrape_fails_if_no_replica_can_be_read():
    async with replicas() as at:
        for engine in at.engines:
            engine.status = 500
        view, url = await at.scrape(), at.engines[0].url
    assert view.failure is not None
    assert view.failure.detail.startswith(url)
    assert view.snapshot is None


async def test_all_pages_are_read_at_the_same_time():
    async with replicas(3) as at:
        for engine in at.engines:
            engine.hang = True
        scrape = asyncio.create_task(at.scrape())
        async with asyncio.timeout(10):
            await asyncio.gather(*(engine.reached.wait() for engine in at.engines))
        view = await scrape
    assert view.failure is not None
    assert view.failure.reason == ScrapeReason.TIMEOUT


async def test_a_page_of_a_router_is_no_page_of_a_replica():
    routed = vllm_page().replace(b'engine="0"', b'engine="0",server="http://a"')
    assert b"server=" in routed
    async with replicas() as at:
        at.engines[0].page = routed
        view = await at.scrape()
    (words,) = view.snapshot.unread.values()
    assert "metrics_urls" in words


@pytest.mark.parametrize("status", [401, 404])
async def test_the_reason_of_an_unread_page_says_what_the_replica_answered(status):
    async with replicas() as at:
        at.engines[0].status = status
        view = await at.scrape()
    (words,) = view.snapshot.unread.values()
    assert str(status) in words
