"""Sessions, the isolation test and retention of one simulated engine, with shared requests."""

from __future__ import annotations

import asyncio

from fake_clock import FakeClock
from load_views import new_admission
from probe_loops import ProbeLoops

from exporter.analysis.own_share import OwnShare
from exporter.clock import SystemClock
from exporter.engine.metrics.exposition import parse
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.isolation import run_isolation_test
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.runner import SessionRunner


class ProbedEngine:
    """Runs each kind of probe through the same requests, and keeps what they publish."""

    def __init__(self, at, *, from_counters=False) -> None:
        self.at = at
        self.observe, self.new_salt = at.requests.observe, at.new_salt
        self.published = OwnShare()
        self.requests = EngineRequests(
            at.client,
            self.observe,
            SystemClock(),
            from_counters=from_counters,
            publish=self._publish,
        )

    def _publish(self, change):
        self.published = self.published.plus(change)

    def session_runner(self, ratio=1.0):
        chances = iter([0.0, 0.2, 0.0, 0.8] * 100)
        control = ColdControl(ratio, lambda: next(chances), self.new_salt)
        return SessionRunner(self.at.plan, self.requests, self.new_salt, control=control)

    async def isolation_test(self):
        info = await self.at.client.info()
        return await run_isolation_test(self.requests, info, self.at.plan.deadlines, self.new_salt)

    async def retention(self, gaps=(1.0, 10.0)):
        clock = FakeClock(monotonic=0.0)
        admission = new_admission(self.observe, clock)
        loops = ProbeLoops(
            clock,
            admission,
            self.requests,
            new_salt=self.new_salt,
            deadlines=self.at.plan.deadlines,
        )
        loop, read = loops.retention(gaps), loops.sink.retention
        task = asyncio.create_task(loop.run())
        for gap in gaps:
            await clock.until_asleep()
            await clock.advance(gap)
        await clock.until_asleep()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(read) == len(gaps)
        return read

    def snapshot(self):
        page = self.at.simulator.engine.process.page(log_stats=True)
        return parse(page, at=0.0, scrape_seconds=0.0)

    def engine(self):
        seen = self.snapshot()
        return seen.queried_tokens, seen.hit_tokens, seen.prompt_tokens, seen.generation_tokens


def shares(asked):
    own = asked.requests.share
    assert own == asked.published
    return own.queried_tokens, own.hit_tokens, own.prompt_tokens, own.completion_tokens
