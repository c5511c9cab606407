"""The scrape loop against a real HTTP server, on a clock that the test controls."""

from __future__ import annotations

import asyncio

from engine_pages import rank, recorded, series, vllm_page
from scraper_bench import Bench, BrokenSource, events

from exporter.model.engine import EngineInfo, EngineTotals


async def test_the_first_scrape_has_all_that_the_engine_reports(engine, bench):
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
        external_queried_tokens=0.0,
        external_hit_tokens=0.0,
        cached_by_source={
            "device": 6368.0,
            "disk": 0.0,
            "external_unspecified": 0.0,
            "host": 0.0,
            "p2p": 0.0,
        },
    )
    assert view.info == EngineInfo("tiny", 8192, "0.32.0", simulated=False)
    assert view.hit_ratios == {}
    assert view.restarts == 0


async def test_nothing_is_known_before_the_first_scrape(bench):
    assert bench.scraper.latest() is None


async def test_every_round_is_published_and_the_latest_is_kept(engine, bench):
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
        async def metrics(self, url: str | None = None) -> bytes:
            bench.clock.jump(3.0)
            return await super().metrics(url)

    bench = Bench("http://127.0.0.1:9", source=SlowSource())
    async with bench.running():
        assert bench.views[-1].snapshot.scrape_seconds == 3.0
        await bench.clock.advance(7.0)
        await bench.clock.until_asleep()
        assert len(bench.views) == 2


async def test_the_engine_is_asked_for_its_info_once(engine, bench):
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

        async def metrics(self, url: str | None = None) -> bytes:
            self.inside += 1
            self.reads += 1
            self.most = max(self.most, self.inside)
            await bench.clock.settle()
            self.inside -= 1
            return await super().metrics(url)

    source = CountingSource()
    bench = Bench("http://127.0.0.1:9", source=source)
    first, second = await asyncio.gather(bench.scraper.refresh(), bench.scraper.refresh())
    assert (source.reads, source.most) == (2, 1)
    assert bench.views == [first, second]
    assert bench.scraper.latest() is second


# Restarts


async def test_a_restart_is_bridged_and_counted_and_the_info_is_read_again(engine, bench, logs):
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


async def test_after_a_restart_the_old_info_is_not_shown_if_the_new_cannot_be_read(engine, bench):
    async with bench.running():
        engine.page = vllm_page(started=1_700_000_500.0)
        engine.models_status = 500
        assert (await bench.next_round()).info is None
        engine.models_status = 200
        assert (await bench.next_round()).info is not None


async def test_info_that_cannot_be_read_is_logged_once_and_fails_no_scrape(engine, bench, logs):
    engine.models_status = 401
    async with bench.running():
        view = await bench.next_round()
        assert view.snapshot is not None
        assert view.info is None
        engine.models_status = 200
        await bench.next_round()
    assert events(logs) == ["engine_info.failed", "engine_info.recovered"]
    assert logs[0]["reason"] == "unauthorized"


async def test_replicas_behind_one_url_are_detected_and_not_added_up(engine, bench):
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


async def test_unexplained_lookups_are_reported_for_an_hour_and_in_no_window(engine, bench, logs):
    engine.version = "0.26.0"
    engine.page = vllm_page(queried=2_000.0, hit=1_000.0, prompt=2_000.0)
    async with bench.running():
        engine.page = vllm_page(queried=3_000.0, hit=1_800.0, prompt=3_000.0)
        assert (await bench.next_round()).hit_ratios["1m"] == 0.8
        engine.page = vllm_page(queried=3_682_660.0, hit=1_220_000.0, prompt=8_650.0)
        view = await bench.next_round()
        assert view.totals.queried_tokens == 3_000
        assert (view.recounted, view.hit_ratios["1m"]) == (False, 0.8)
        view = await bench.next_round()
        assert (view.totals.queried_tokens, view.totals.hit_tokens) == (3_000, 1_800)
        assert (view.recounted, view.hit_ratios) == (True, {})
        engine.page = vllm_page(queried=3_683_660.0, hit=1_220_250.0, prompt=9_650.0)
        view = await bench.next_round()
        assert (view.totals.queried_tokens, view.totals.hit_tokens) == (4_000, 2_050)
        assert (view.recounted, view.hit_ratios["1m"]) == (True, 0.25)
        for _ in range(358):
            assert (await bench.next_round()).recounted is True
        assert (await bench.next_round()).recounted is False
    assert events(logs) == ["engine.lookups_recounted"]


async def test_a_version_that_counts_lookups_once_is_believed_from_its_first_page_on(
    engine, bench, logs
):
    """Prompts that were cancelled before their first token: more than any prompt explains."""
    engine.version = "0.27.1"
    engine.page = vllm_page(queried=9_000.0, hit=1_000.0, prompt=2_000.0)
    async with bench.running():
        assert bench.views[-1].lookups_open, "their prompts may still follow"
        assert (await bench.next_round()).totals.queried_tokens == 9_000
        engine.page = vllm_page(queried=12_000.0, hit=1_500.0, prompt=3_000.0)
        await bench.next_round()
        view = await bench.next_round()
        assert (view.totals.queried_tokens, view.totals.hit_tokens) == (12_000, 1_500)
        assert not view.recounted
        engine.page = vllm_page(queried=90.0, hit=0.0, prompt=10.0, started=1_800_000_000.0)
        engine.version = "0.26.0"
        await bench.next_round()
        engine.page = vllm_page(queried=9_090.0, hit=0.0, prompt=20.0, started=1_800_000_000.0)
        await bench.next_round()
        assert (await bench.next_round()).recounted
    assert events(logs) == ["engine.restarted", "engine.lookups_recounted"]


async def test_the_unit_of_old_names_is_known_with_the_engines_version(engine, bench):
    engine.version = "0.8.5"
    labels = {"engine": "0", "block_size": "16"}
    engine.page = (
        rank("vllm:gpu_prefix_cache_queries_total", 258.0)
        + rank("vllm:gpu_prefix_cache_hits_total", 129.0)
        + series("vllm:cache_config_info", 1.0, labels)
    ).encode()
    async with bench.running():
        assert bench.views[-1].totals.queried_tokens is None
        view = await bench.next_round()
    assert (view.totals.queried_tokens, view.totals.hit_tokens) == (4128, 2064)


async def test_several_engines_behind_one_url_are_reported_for_a_while(engine, bench):
    one, two = vllm_page(started=1_700_000_000.0), vllm_page(started=1_700_000_001.0)
    engine.page = one
    async with bench.running():
        assert bench.views[-1].mixed is False
        engine.page = two
        assert (await bench.next_round()).mixed is False, "a restart looks the same so far"
        engine.page = one
        assert (await bench.next_round()).mixed is True
        engine.page = two
        for _ in range(59):
            assert (await bench.next_round()).mixed is True
        assert (await bench.next_round()).mixed is False


async def test_replicas_without_a_start_time_are_detected_by_counters_that_fall_and_rise(
    engine, bench
):
    one = vllm_page(started=None, queried=9000.0, hit=0.0)
    two = vllm_page(started=None, queried=2000.0, hit=0.0)
    engine.page = one
    async with bench.running():
        engine.page = two
        assert (await bench.next_round()).failure is None
        for _ in range(3):
            engine.page = one
            assert (await bench.next_round()).failure is None
            engine.page = two
            view = await bench.next_round()
            assert view.failure.reason == "several_engines"
            assert view.mixed is True


async def test_an_engine_that_is_restarted_twice_is_not_taken_for_two(engine, bench):
    engine.page = vllm_page(started=None, queried=9000.0, hit=0.0)
    async with bench.running():
        engine.page = vllm_page(started=None, queried=100.0, hit=0.0)
        await bench.next_round()
        for _ in range(3):
            engine.page = vllm_page(started=None, queried=200.0, hit=0.0)
            await bench.next_round()
        engine.page = vllm_page(started=None, queried=50.0, hit=0.0)
        view = await bench.next_round()
    assert view.failure is None
    assert (view.mixed, view.restarts) == (False, 2)


async def test_only_rounds_of_the_loop_count_as_rounds_also_failed_ones(engine, bench):
    async with bench.running():
        assert bench.counted.rounds == 1
        await bench.scraper.refresh()
        assert (len(bench.views), bench.counted.rounds) == (2, 1)
        engine.status = 500
        await bench.next_round()
        bench.publish_error = RuntimeError("a mistake")
        await bench.next_round()
    assert (len(bench.views), bench.counted.rounds) == (4, 3)


def with_store(queried: float, hit: float, external: float, *, start: float = 1.0) -> bytes:
    """A page of an engine with an external store."""
    page = vllm_page(started=start, queried=queried, hit=hit).decode()
    page += rank("vllm:external_prefix_cache_queries_total", queried - hit)
    return (page + rank("vllm:external_prefix_cache_hits_total", external)).encode()


async def test_the_effective_hit_ratio_counts_the_hits_of_a_store(engine, bench):
    engine.page = with_store(100, 0, 0)
    async with bench.running():
        engine.page = with_store(300, 50, 100)
        view = await bench.next_round()
        assert view.hit_ratios["1m"] == 0.25
        assert view.effective_hit_ratios == {"1m": 0.75, "5m": 0.75, "1h": 0.75}
        engine.page = with_store(100, 50, 50, start=2.0)
        view = await bench.next_round()
        assert view.effective_hit_ratios["1m"] == 250 / 300


async def test_without_a_store_the_effective_hit_ratio_is_the_hit_ratio(engine, bench):
    engine.page = with_store(100, 0, 0)
    async with bench.running():
        engine.page = with_store(300, 50, 0)
        view = await bench.next_round()
    assert view.effective_hit_ratios == view.hit_ratios
    assert view.hit_ratios["1m"] == 0.25
    assert bench.scraper._effective is bench.scraper._samples, "both take the room of one"


async def test_an_engine_that_does_not_count_external_hits_has_no_effective_hit_ratio(
    engine, bench
):
    async with bench.running():
        engine.page = vllm_page(queried=200.0, hit=115.0)
        view = await bench.next_round()
    assert view.hit_ratios["1m"] == 0.75
    assert view.effective_hit_ratios == {}
