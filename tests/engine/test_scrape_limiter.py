"""How many engines are scraped at once, and that hung engines do not starve the others."""

from __future__ import annotations

import asyncio
import time

from engine_pages import vllm_page
from fake_clock import FakeClock
from recorded_sinks import RecordedLoop

from exporter.engine.scrape_limiter import ScrapeLimiter
from exporter.engine.scraper import Scraper
from exporter.metrics.state.target import TargetState
from exporter.model.engine import EngineInfo

PATIENCE = 10.0


class Engine:
    """An engine that answers only while the test lets it."""

    def __init__(self, counts: Counts, *, hangs: bool = False) -> None:
        self.counts = counts
        self.hangs = hangs
        self.open = asyncio.Event()

    async def metrics(self, _url: str | None = None) -> bytes:
        with self.counts:
            if self.hangs:
                await asyncio.Event().wait()
            await self.open.wait()
        return vllm_page()

    async def info(self) -> EngineInfo:
        return EngineInfo("tiny", None, None, simulated=False)


class Counts:
    """How many read at this moment, and how many did at most."""

    now = most = 0

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


def scraper(
    engine: Engine, limiter: ScrapeLimiter, clock: FakeClock, timeout: float = 60.0
) -> Scraper:
    return Scraper(
        "t",
        engine,
        clock,
        interval_seconds=10.0,
        timeout_seconds=timeout,
        sink=TargetState("t"),
        heartbeat=RecordedLoop(may_fail=True).heartbeat,
        limiter=limiter,
    )


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_no_more_engines_are_scraped_at_once_than_there_are_slots():
    counts, limiter, clock = Counts(), ScrapeLimiter(3), FakeClock()
    engines = [Engine(counts) for _ in range(10)]
    readings = [asyncio.create_task(scraper(each, limiter, clock).refresh()) for each in engines]
    await settle()
    assert counts.now == 3
    for each in engines:
        each.open.set()
    views = await asyncio.gather(*readings)
    assert all(view.failure is None for view in views)
    assert counts.most == 3


async def test_the_wait_for_a_slot_is_neither_a_failure_nor_part_of_the_duration():
    counts, limiter, clock = Counts(), ScrapeLimiter(1), FakeClock()
    slow, other = Engine(counts), Engine(counts)
    other.open.set()
    first = asyncio.create_task(scraper(slow, limiter, clock).refresh())
    await settle()
    # A deadline in real time that the wait outlasts: it must not have begun.
    second = asyncio.create_task(scraper(other, limiter, clock, timeout=1.0).refresh())
    began = time.monotonic()
    while time.monotonic() - began < 1.2:
        await asyncio.sleep(0.01)
        clock.jump(5.0)
    slow.open.set()
    await first
    view = await second
    assert view.failure is None
    assert view.snapshot.scrape_seconds == 0.0


async def test_an_engine_that_hangs_frees_its_slot_at_its_timeout():
    counts, limiter, clock = Counts(), ScrapeLimiter(1), FakeClock()
    hanging, sound = Engine(counts, hangs=True), Engine(counts)
    sound.open.set()
    first = asyncio.create_task(scraper(hanging, limiter, clock, timeout=0.05).refresh())
    await settle()
    async with asyncio.timeout(PATIENCE):
        view = await scraper(sound, limiter, clock).refresh()
        assert view.failure is None
        assert (await first).failure.reason == "timeout"


async def test_hung_engines_leave_half_of_the_slots_to_the_others():
    counts, limiter, clock = Counts(), ScrapeLimiter(4), FakeClock()
    hanging = [scraper(Engine(counts, hangs=True), limiter, clock, 0.05) for _ in range(20)]
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(each.refresh() for each in hanging))
        assert counts.most == 4, "it was not known yet that they hang"
        for each in hanging:
            each._timeout = 3600.0
        counts.most = 0
        again = [asyncio.create_task(each.refresh()) for each in hanging]
        await settle()
        assert counts.now == 2
        sound = Engine(counts)
        sound.open.set()
        for _ in range(10):
            assert (await scraper(sound, limiter, clock).refresh()).failure is None
        for each in again:
            each.cancel()
        await asyncio.gather(*again, return_exceptions=True)


async def test_the_first_reading_comes_soon_and_the_later_ones_in_their_turn():
    clock, engine = FakeClock(), Engine(Counts())
    engine.open.set()
    began: list[float] = []

    class Timed(Engine):
        async def metrics(self, _url: str | None = None) -> bytes:
            began.append(clock.monotonic() - 1000.0)
            return vllm_page()

    each = scraper(Timed(Counts()), ScrapeLimiter(1), clock)
    loop = asyncio.create_task(each.run(0.5, 14.0))
    await clock.until_asleep()
    assert each.due_at == 1014.0
    for _ in range(34):
        await clock.advance(1.0)
    assert began == [0.5, 14.0, 24.0, 34.0]
    assert each.due_at == 1044.0
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
