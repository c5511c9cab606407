"""Sessions through a router whose replicas have metrics pages of their own."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import pytest
from engine_proxy import by_session, chats_in_turn, engine_proxy
from scraper_bench import unheard_scraper

from exporter.clock import SystemClock
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.additions import Additions
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.model.session import LossCause, Notice
from exporter.probe.check import Check
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.isolation import run_isolation_test
from exporter.probe.session.plan import SessionHooks, SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.simulator.faults import faults
from exporter.simulator.server import Simulator, SimulatorSettings
from exporter.wording.findings.finding import CheckTest, Verdict
from exporter.wording.verdict import notes

FOREIGN = "lorem ipsum dolor sit amet " * 250
DEADLINES = Deadlines(connect=60, first_token=60, between_tokens=60, whole=120)


def page_of(simulator):
    return simulator.url.removeprefix("http://")


@dataclass
class Routed:
    """Simulated replicas behind a router, and a client of the router."""

    replicas: list[Simulator]
    client: EngineClient
    requests: EngineRequests
    plan: SessionPlan
    runner: SessionRunner

    async def play(self, before_turn=lambda _index, _turns: None):
        return await self.runner.play(SessionHooks(on_turn_start=before_turn))

    async def ask(self, simulator, text):
        """A request of another client, straight to one replica."""
        async with EngineClient(simulator.url) as other:
            request = ChatRequest("simulated", [{"role": "user", "content": text}], 1)
            assert (await other.chat(request, DEADLINES)).failure is None


def always_first(upstreams):
    return lambda _path: upstreams[0]


def affine(upstreams):
    return by_session(upstreams, "X-Session-Id")


@contextlib.asynccontextmanager
async def routed(route=chats_in_turn, count=2, named=None, headers=None, **settings):
    """`named`: the replicas whose pages are configured; all by default."""
    options = {"port": 0, "time_scale": 0.0, "num_blocks": 4096, **settings}
    async with contextlib.AsyncExitStack() as stack:
        simulators = [
            await stack.enter_async_context(Simulator(SimulatorSettings(**options)))
            for _ in range(count)
        ]
        chosen = route([simulator.url for simulator in simulators])
        proxy = engine_proxy(chosen, route=chosen if route is affine else None)
        url = await stack.enter_async_context(proxy)
        additions = Additions(headers=headers or {})
        client = await stack.enter_async_context(EngineClient(url, additions=additions))
        shown = simulators if named is None else named(simulators)
        pages = {page_of(one): f"{one.url}/metrics" for one in shown}
        clock, salts = SystemClock(), iter(f"salt-{number}" for number in range(1000))
        scraper = unheard_scraper(client, clock, pages)
        requests = EngineRequests(client, scraper.refresh, clock)
        plan = SessionPlan("t", CODING_AGENT, 16, DEADLINES)
        runner = SessionRunner(plan, requests, lambda: next(salts))
        yield Routed(simulators, client, requests, plan, runner)


def causes(result):
    return {turn.index: turn.loss.cause for turn in result.turns if turn.loss}


async def test_a_router_in_turn_loses_to_other_replicas_and_the_share_that_met_the_same_is_named():
    async with routed() as at:
        result = await at.play()
    first, second = (page_of(one) for one in at.replicas)
    assert [turn.replica for turn in result.turns] == [first, second] * (len(result.turns) // 2)
    assert set(causes(result).values()) == {LossCause.MIXED}
    assert set(causes(result)) == set(range(2, len(result.turns) + 1))
    assert Notice.MIXED in result.notices
    (route,) = [note for note in notes(result) if "replica of the turn before" in note]
    each = ", ".join(f"{len(result.turns) // 2} on {name}" for name in sorted((first, second)))
    later = len(result.turns) - 1
    assert route == f"0 of {later} turns ran on the replica of the turn before ({each})."


async def test_a_router_with_affinity_is_as_exact_as_one_engine():
    async with routed(always_first) as at:
        await at.play()
        result = await at.play()
    assert {turn.replica for turn in result.turns} == {page_of(at.replicas[0])}
    assert causes(result) == {}
    assert [turn.efficiency_ratio for turn in result.turns[1:]] == [1.0] * (len(result.turns) - 1)
    assert Notice.MIXED not in result.notices
    assert result.reuse_rule is not None


async def test_the_header_of_a_session_keeps_it_and_its_isolation_test_on_one_replica():
    async with routed(affine, headers={"x-session-id": "{session}"}) as at:
        played = [await at.play() for _ in range(2)]
        info = await at.client.info()
        test = await run_isolation_test(at.requests, info, DEADLINES, iter("abcdef").__next__)
    for result, simulator in zip(played, at.replicas, strict=True):
        assert {turn.replica for turn in result.turns} == {page_of(simulator)}
        assert causes(result) == {}
    assert not test.mixed
    assert test.same_salt_cached


async def test_without_the_header_the_same_router_spreads_a_session():
    async with routed(affine) as at:
        result = await at.play()
    assert LossCause.MIXED in causes(result).values()


async def test_a_loss_on_one_replica_has_the_cause_that_its_own_counters_show():
    async with routed(always_first, num_blocks=260) as at:
        asked = []

        def before_turn(index, turns):
            if index == turns:
                asked.extend(at.ask(at.replicas[0], f"{n} {FOREIGN}") for n in range(3))

        runner = at.runner
        at.requests.yield_turn = lambda: _await_all(asked)
        result = await runner.play(SessionHooks(on_turn_start=before_turn))
    assert causes(result) == {len(result.turns): LossCause.EVICTED}


async def _await_all(asked):
    while asked:
        await asked.pop()


async def test_traffic_that_fills_another_replica_evicts_nothing_here():
    """The sums over all replicas would show enough traffic to fill the cache."""
    async with routed(always_first, num_blocks=260) as at:
        asked = []

        def before_turn(index, turns):
            if index == turns:
                asked.extend(at.ask(at.replicas[1], f"{n} {FOREIGN}") for n in range(3))
                assert at.replicas[0].engine.reset_prefix_cache()

        at.requests.yield_turn = lambda: _await_all(asked)
        await at.play()
        result = await at.play(before_turn)
    assert causes(result) == {len(result.turns): LossCause.RESET}


async def test_a_repeat_that_missed_on_one_replica_says_nothing_of_another():
    where = [0]
    async with routed(lambda upstreams: lambda _path: upstreams[where[0]]) as at:

        def before_turn(index, _turns):
            if index == 3:
                at.replicas[0].inject(faults.Wedge())
            if index == 4:
                where[0] = 1
            if index == 5:
                assert at.replicas[1].engine.reset_prefix_cache()

        await at.play()
        where[0] = 1
        await at.play()
        where[0] = 0
        result = await at.play(before_turn)
    assert causes(result) == {
        3: LossCause.UNEXPLAINED,  # two overlapping requests cannot be placed
        4: LossCause.MIXED,
        5: LossCause.RESET,
    }


async def test_a_turn_whose_replica_is_uncertain_is_blamed_on_nothing():
    """Traffic of the same size on both replicas hides which of them computed the turn."""
    async with routed() as at:
        chat = at.client.chat

        async def crowded(request, *arguments):
            for simulator in at.replicas:
                await at.ask(simulator, "lorem ipsum dolor sit amet " * 600)
            return await chat(request, *arguments)

        at.client.chat = crowded
        result = await at.play()
    assert {turn.replica for turn in result.turns} == {None}
    assert set(causes(result).values()) <= {LossCause.UNEXPLAINED}
    for turn in result.turns:
        if turn.loss is not None:
            assert "not known: which replica computed the turn" in turn.loss.evidence
    assert Notice.MIXED not in result.notices


async def test_a_short_hit_on_another_replica_teaches_no_reuse_rule():
    async with routed() as at:
        result = await at.play()
    rule = result.reuse_rule
    assert rule is None or (rule.dropped_blocks in (0, None) and rule.answers_kept in (True, None))


async def test_an_isolation_test_over_two_replicas_proves_nothing():
    async with routed() as at:
        info = await at.client.info()
        test = await run_isolation_test(at.requests, info, DEADLINES, iter("abcdef").__next__)
    assert test.mixed


async def test_an_isolation_test_on_one_of_two_replicas_is_as_good_as_on_one_engine():
    async with routed(always_first) as at:
        info = await at.client.info()
        test = await run_isolation_test(at.requests, info, DEADLINES, iter("abcdef").__next__)
    assert not test.mixed
    assert test.same_salt_cached
    assert test.other_salt_cached == 0


@pytest.mark.parametrize(
    ("route", "right"), [(chats_in_turn, Verdict.FAIL), (always_first, Verdict.PASS)]
)
async def test_check_says_how_many_turns_met_the_same_replica(route, right):
    async with routed(route) as at:
        salts = iter(f"s{number}" for number in range(1000))
        report = await Check(at.plan, at.requests, lambda: next(salts)).run()
    (found,) = [one for one in report.findings if one.name is CheckTest.ONE_ENGINE]
    assert found.verdict is right
    assert "turns ran on the replica of the turn before" in found.evidence
    (metrics,) = [one for one in report.findings if one.name is CheckTest.METRICS]
    assert metrics.verdict is Verdict.PASS
    assert "pages of 2 replicas" in metrics.evidence


async def test_a_replica_that_does_not_answer_is_named_and_the_others_are_still_read():
    async with routed(always_first, count=3) as at:
        await at.play()
        await at.replicas[2].stop()
        view = await at.requests.observe()
    assert view.failure is None
    assert len(view.snapshot.parts) == 2
    (words,) = view.snapshot.unread.values()
    assert page_of(at.replicas[2]) in words
    assert view.snapshot.requests_running is None
    assert view.totals.queried_tokens is not None
