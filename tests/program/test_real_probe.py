"""Cold controls and retention with a real vLLM."""

import asyncio
import secrets
from contextlib import suppress

import pytest
from load_views import load_policy, new_admission
from probe_loops import ProbeLoops
from recorded_sinks import RecordedLoop

from exporter.clock import SystemClock
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.metrics.exposition import parse
from exporter.engine.scraper import Scraper
from exporter.engine.wire.request import Deadlines
from exporter.engine.wire.surfaces.named import SURFACES
from exporter.metrics.state.target import TargetState
from exporter.model.session import ControlOutcome
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT

pytestmark = pytest.mark.vllm

DEADLINES = Deadlines(first_token=120, between_tokens=60, whole=180)


def new_salt() -> str:
    return secrets.token_hex(16)


def scraper_of(client: EngineClient) -> Scraper:
    return Scraper(
        "t",
        client,
        SystemClock(),
        interval_seconds=10,
        timeout_seconds=10,
        sink=TargetState("t"),
        heartbeat=RecordedLoop(may_fail=True).heartbeat,
    )


async def test_a_cold_control_on_a_real_engine_has_the_same_prompt_and_no_hits(
    vllm_servers,
):
    async with EngineClient(vllm_servers.get("details32"), timeout_seconds=30) as client:
        runner = SessionRunner(
            SessionPlan("t", CODING_AGENT, 8, DEADLINES),
            EngineRequests(client, scraper_of(client).refresh, SystemClock()),
            new_salt,
            control=ColdControl(1.0, iter([0.0, 0.9, 0.0, 0.1] * 10).__next__, new_salt),
        )
        result = await runner.play()
    assert result.failure is None
    for turn in result.turns[1:]:
        assert turn.control.outcome is ControlOutcome.COLD
        assert turn.control.prompt_tokens == turn.prompt_tokens
        assert turn.cold_ttft_seconds > 0
        assert turn.efficiency_ratio == 1.0
    assert {turn.control.before_turn for turn in result.turns[1:]} == {True, False}


@pytest.mark.parametrize("api", SURFACES)
async def test_over_each_api_a_session_on_a_real_engine_hits_all_that_it_can(vllm_servers, api):
    url, surface = vllm_servers.get("details32"), SURFACES[api]
    async with EngineClient(url, timeout_seconds=30, surface=surface) as client:
        before = await counters(client)
        runner = SessionRunner(
            SessionPlan("t", CODING_AGENT, 32, DEADLINES),
            EngineRequests(client, scraper_of(client).refresh, SystemClock()),
            new_salt,
        )
        result = await runner.play()
        asked = sum(turn.prompt_tokens for turn in result.turns)
        hit = sum(turn.cached_tokens for turn in result.turns)
        async with asyncio.timeout(60):
            while await counters(client) != (before[0] + asked, before[1] + hit):
                await SystemClock().sleep(0.2)
    assert result.failure is None
    assert len(result.turns) == 8
    assert {turn.efficiency_ratio for turn in result.turns[1:]} == {1.0}
    assert all(turn.cached_tokens == turn.attainable_cached_tokens for turn in result.turns)


async def counters(client: EngineClient) -> tuple[float | None, float | None]:
    """The prompt tokens that the engine has looked up, and those that hit."""
    snapshot = parse(await client.metrics(), at=0.0, scrape_seconds=0.0)
    return snapshot.queried_tokens, snapshot.hit_tokens


async def test_on_a_quiet_real_engine_prefixes_survive_short_gaps(vllm_servers):
    async with EngineClient(vllm_servers.get("details32"), timeout_seconds=30) as client:
        observe, clock = scraper_of(client).refresh, SystemClock()
        # Pauses are allowed, because other tests may use the same engine.
        admission = new_admission(observe, clock, load_policy(waiting=10_000))
        requests = EngineRequests(client, observe, clock)
        loops = ProbeLoops(clock, admission, requests, new_salt=new_salt, deadlines=DEADLINES)
        loop, found = loops.retention((5.0, 10.0)), loops.sink.retention
        task = asyncio.create_task(loop.run())
        async with asyncio.timeout(180):
            while len(found) < 2:
                await clock.sleep(0.5)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert {reading.gap_seconds: reading.ratio for reading in found} == {5.0: 1.0, 10.0: 1.0}
