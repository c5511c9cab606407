"""The scrape loop with an engine that cannot be read, and with unexpected exceptions."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp.test_utils import unused_port
from engine_pages import rank, recorded, vllm_page
from scraper_bench import Bench, BrokenSource, events

from exporter.engine.metrics.scrape_reasons import ScrapeReason, scrape_reason
from exporter.model.engine import EngineTotals
from exporter.model.failure import FailureReason


async def test_a_failure_removes_the_snapshot_and_the_ratios_and_keeps_the_totals(engine, bench):
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
async def test_each_bad_answer_has_its_own_reason(engine, bench, answer, reason, said):
    engine.status, engine.page = answer
    view = await bench.scraper.refresh()
    assert view.failure is not None
    assert view.failure.reason == reason
    assert said in view.failure.detail
    assert view.snapshot is None
    assert bench.counted.failures == 0


async def test_a_missing_engine_refuses_the_connection():
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


async def test_failure_and_recovery_are_logged_once_each(engine, bench, logs):
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


# Unexpected exceptions


async def test_an_unexpected_exception_is_logged_and_counted_and_the_loop_goes_on(logs):
    source = BrokenSource()
    bench = Bench("http://127.0.0.1:9", source=source)
    async with bench.running() as task:
        assert bench.views[-1].snapshot is not None
        source.broken = True
        view = await bench.next_round()
        assert view.snapshot is None
        assert view.failure is not None
        assert view.failure.reason == "internal"
        assert bench.counted.failures == 1
        assert not task.done()
        source.broken = False
        assert (await bench.next_round()).snapshot is not None
    assert events(logs) == ["scrape.unexpected_error", "scrape.failed", "scrape.recovered"]
    assert logs[0]["exc_info"]


async def test_a_publisher_that_fails_does_not_end_the_loop(bench, logs):
    bench.publish_error = ValueError("cannot publish")
    async with bench.running() as task:
        await bench.next_round()
        assert not task.done()
    assert bench.counted.failures == 2
    assert events(logs) == ["loop.round_failed"] * 2


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
    assert bench.counted.failures == 0


# Reasons


@pytest.mark.parametrize("reason", list(FailureReason))
def test_every_reason_becomes_one_of_the_closed_set(reason: FailureReason):
    assert scrape_reason(reason) in set(ScrapeReason)


def test_a_reason_that_both_sets_have_keeps_its_name():
    assert scrape_reason("unauthorized") is ScrapeReason.UNAUTHORIZED
    assert scrape_reason("turn_timeout") is ScrapeReason.TIMEOUT
    assert scrape_reason("something else") is ScrapeReason.PROTOCOL
