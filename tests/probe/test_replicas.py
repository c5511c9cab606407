"""Several engines behind one URL: losses have that cause, not an eviction or a restart."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from engine_proxy import engine_proxy, in_turn
from scraper_bench import unheard_scraper

from exporter.clock import SystemClock
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.metrics.exposition import parse
from exporter.engine.wire.request import Deadlines
from exporter.model.engine import EngineTotals, EngineView, ScrapeFailure
from exporter.model.session import LossCause, Notice
from exporter.probe.check import Check
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.replicas import READINGS, ReplicaDetector
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.simulator.server import Simulator, SimulatorSettings
from exporter.wording.findings.finding import Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from exporter.engine.scraper import Scraper

DEADLINES = Deadlines(connect=60, first_token=60, between_tokens=60, whole=120)
PLAN = SessionPlan("t", CODING_AGENT, 16, DEADLINES)


class Scene:
    def __init__(self, simulators: list[Simulator], client: EngineClient, scraper: Scraper) -> None:
        self.simulators = simulators
        self.client = client
        self.requests = EngineRequests(client, scraper.refresh, SystemClock())
        salts = iter(f"salt-{number}" for number in range(1000))
        self.new_salt: Callable[[], str] = lambda: next(salts)
        self.runner = SessionRunner(PLAN, self.requests, self.new_salt)


@contextlib.asynccontextmanager
async def two_replicas(choose=None, **settings: object) -> AsyncIterator[Scene]:
    """Two simulators behind one URL. `choose` makes the balancer from their URLs."""
    options = SimulatorSettings(port=0, time_scale=0.0, num_blocks=4096)
    one, two = (Simulator(replace(options, **settings)) for _ in range(2))
    async with one, two, contextlib.AsyncExitStack() as stack:
        balancer = (choose or in_turn)([one.url, two.url])
        url = await stack.enter_async_context(engine_proxy(balancer))
        client = await stack.enter_async_context(EngineClient(url))
        scraper = unheard_scraper(client, SystemClock())
        yield Scene([one, two], client, scraper)


def pinned(urls):
    """A balancer that reads /metrics of the first engine only, and sends all else in turn."""
    turns = in_turn(urls)
    return lambda path: urls[0] if path == "/metrics" else turns(path)


def causes(result):
    return {turn.loss.cause for turn in result.turns if turn.loss}


async def test_turns_that_meet_another_replica_lost_their_tokens_to_that():
    async with two_replicas() as at:
        result = await at.runner.play()
    assert result.failure is None
    assert [turn.index for turn in result.turns if turn.loss] == [2, 3, 4, 5, 6, 7, 8]
    assert result.turns[1].cached_tokens == 0 < result.turns[2].cached_tokens
    assert causes(result) == {LossCause.MIXED}
    assert Notice.MIXED in result.notices


async def test_the_daemons_scraper_says_that_several_engines_answer():
    async with two_replicas() as at:
        views = [await at.requests.observe() for _ in range(4)]
        result = await at.runner.play()
    assert [view.failure.reason if view.failure else None for view in views] == [
        None,
        None,
        "several_engines",
        None,
    ]
    assert causes(result) == {LossCause.MIXED}


async def test_replicas_that_the_readings_do_not_show_are_found_by_the_missing_prompts():
    async with two_replicas(pinned) as at:
        result = await at.runner.play()
    assert causes(result) == {LossCause.MIXED}
    lost = next(turn.loss for turn in result.turns if turn.loss)
    assert "missing in the counters on /metrics" in lost.evidence


async def test_a_full_cache_on_one_of_two_replicas_is_not_called_an_eviction():
    async with two_replicas(num_blocks=200) as at:
        results = [await at.runner.play() for _ in range(3)]
    for result in results:
        assert causes(result) == {LossCause.MIXED}


async def test_a_balancer_that_keeps_a_conversation_on_one_replica_loses_nothing():
    async with two_replicas(lambda urls: lambda _path: urls[1]) as at:
        result = await at.runner.play()
    assert causes(result) == set()
    assert result.notices == {Notice.SIMULATED}


async def test_check_fails_on_several_engines_and_accuses_neither_salts_nor_a_wedge():
    async with two_replicas() as at:
        report = await Check(PLAN, at.requests, at.new_salt).run()
        found = {one.name: one for one in report.findings}
    assert found["one_engine"].verdict is Verdict.FAIL
    assert "on one replica" in found["one_engine"].remedy
    assert found["second_turn"].verdict is Verdict.FAIL
    for name in ("isolation", "wedge"):
        assert found[name].verdict is not Verdict.FAIL


def view(start: float | None, *, mixed: bool = False, refused: bool = False) -> EngineView:
    page = "vllm:num_requests_running 0\n"
    if start is not None:
        page += f"process_start_time_seconds {start}\n"
    failure = ScrapeFailure(0.0, "several_engines", "two") if refused else None
    return EngineView(
        target="t",
        snapshot=None if refused else parse(page, at=0.0, scrape_seconds=0.0),
        failure=failure,
        totals=EngineTotals(),
        hit_ratios={},
        restarts=0,
        info=None,
        mixed=mixed,
    )


@pytest.mark.parametrize(
    ("views", "proved"),
    [
        ([view(1.0), view(1.0)], False),
        ([view(1.0), *[view(2.0)] * (1 + READINGS)], False),  # a restart
        ([view(2.0), view(1.0)], True),  # no restart starts an older process
        ([view(1.0), view(2.0), view(1.0)], True),
        ([view(1.0), view(1.0, mixed=True)], True),
        ([view(None), *[view(None)] * (1 + READINGS)], False),
        ([view(None), view(None), view(None, mixed=True)], True),
        ([view(1.0, refused=True), view(1.0), view(1.0)], True),
    ],
)
async def test_several_engines_are_told_from_a_restart_by_what_comes_back(views, proved):
    rest = iter(views)

    async def observe():
        return next(rest)

    watch = ReplicaDetector(observe)
    first = await watch.first()
    assert first.snapshot is not None
    await watch.next()
    assert (watch.proof is not None) is proved
    assert next(rest, None) is None, "as many readings as it takes, and no more"
