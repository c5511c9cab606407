"""A day of sessions, controls and retention on a simulator over HTTP, under one budget."""

import asyncio
import random
from contextlib import suppress

from fake_clock import FakeClock
from load_views import load_policy, new_admission
from probe_loops import ProbeLoops
from recorded_sinks import RecordedLoop

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.scraper import Scraper
from exporter.engine.wire.request import Deadlines
from exporter.loops import Schedule
from exporter.metrics.state.target import TargetState
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.simulator.server import Simulator, SimulatorSettings

BUDGET, DAY, HOUR = 4_000, 86_400.0, 3600.0
DEADLINES = Deadlines(connect=5, first_token=30, between_tokens=30, whole=60)


class Day:
    """Both loops of a target, and the time and tokens of every request."""

    def __init__(self, client: EngineClient) -> None:
        self.clock = FakeClock(monotonic=0.0)
        self.requests = []
        self._chat = client.chat
        client.chat = self._counted
        salts = iter(f"salt-{number}" for number in range(100_000))

        def new_salt():
            return next(salts)

        scraper = Scraper(
            "t",
            client,
            self.clock,
            interval_seconds=10,
            timeout_seconds=30,
            sink=TargetState("t"),
            heartbeat=RecordedLoop().heartbeat,
        )
        observe = scraper.refresh
        admission = new_admission(observe, self.clock, load_policy(BUDGET, usage=0.9))
        requests = EngineRequests(client, observe, self.clock)
        control = ColdControl(0.125, random.Random(5).random, new_salt)
        plan = SessionPlan("t", CODING_AGENT, 8, DEADLINES)
        loops = ProbeLoops(self.clock, admission, requests, new_salt=new_salt, deadlines=DEADLINES)
        runner = SessionRunner(plan, requests, new_salt, control=control)
        retention = loops.retention((1.0, 10.0, 60.0, 300.0, 900.0), Schedule(60.0, HOUR))
        self.sessions, self.readings = loops.sink.sessions, loops.sink.retention
        self.loops = (loops.sessions(runner).run, retention.run)

    async def _counted(self, *arguments):
        chat = await self._chat(*arguments)
        tokens = chat.usage.prompt_tokens + chat.usage.completion_tokens
        self.requests.append((self.clock.monotonic(), tokens))
        return chat

    def costs_of_sessions(self):
        return [
            sum(turn.prompt_tokens + turn.completion_tokens for turn in session.turns)
            + sum(
                turn.control.prompt_tokens + turn.control.completion_tokens
                for turn in session.turns
                if turn.control is not None
            )
            for session in self.sessions
        ]


async def test_a_day_of_everything_costs_no_more_than_the_budget_and_one_session():
    settings = SimulatorSettings(port=0, time_scale=0.0, num_blocks=4096)
    async with Simulator(settings) as simulator, EngineClient(simulator.url) as client:
        day = Day(client)
        tasks = [asyncio.create_task(loop()) for loop in day.loops]
        while day.clock.monotonic() < DAY:
            await day.clock.until_asleep(2)  # running HTTP requests end at this time
            await day.clock.advance(1.0 if day.clock.monotonic() < 100 else 10.0)
        await day.clock.until_asleep(2)
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    costs = day.costs_of_sessions()
    assert all(session.failure is None for session in day.sessions)
    assert len(costs) >= 5
    assert len(day.readings) >= 5 * 5
    assert {reading.ratio for reading in day.readings} <= {1.0, None}
    total = sum(tokens for _, tokens in day.requests)
    assert 24 * BUDGET * 0.8 < total <= 24 * BUDGET + max(costs)
    reads_of_a_pass = (total - sum(costs)) / (len(day.readings) / 5) / 2
    for begin, _ in day.requests:
        hour = sum(tokens for at, tokens in day.requests if begin <= at < begin + HOUR)
        assert hour <= BUDGET + max(costs) + 2 * reads_of_a_pass
