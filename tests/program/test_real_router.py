"""Two real vLLM replicas behind a router: in turn, and with affinity by a header of the session."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from engine_proxy import by_session, chats_in_turn, engine_proxy
from scraper_bench import unheard_scraper
from session_bench import DEADLINES

from exporter.clock import SystemClock
from exporter.daemon.probing import new_salt
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.additions import Additions
from exporter.model.session import LossCause, Notice
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.wording.routing import route_in_words

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from vllm_server import VllmServers

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def replicas(vllm_servers: VllmServers) -> Iterator[Sequence[str]]:
    """The URLs of two servers with the same flags."""
    first = vllm_servers.server("details32")
    second = vllm_servers.start("--block-size", "32", "--enable-prompt-tokens-details")
    yield first.url, second.url
    second.stop()


def name_of(url: str) -> str:
    return url.removeprefix("http://")


@asynccontextmanager
async def runner_of(
    router: str, replicas: Sequence[str], additions: Additions | None = None
) -> AsyncIterator[SessionRunner]:
    async with EngineClient(router, timeout_seconds=60, additions=additions) as client:
        pages = {name_of(url): f"{url}/metrics" for url in replicas}
        clock = SystemClock()
        requests = EngineRequests(client, unheard_scraper(client, clock, pages).refresh, clock)
        yield SessionRunner(SessionPlan("t", CODING_AGENT, 32, DEADLINES), requests, new_salt)


async def test_a_router_in_turn_loses_each_turn_to_the_other_replica(replicas):
    async with (
        engine_proxy(chats_in_turn(replicas)) as router,
        runner_of(router, replicas) as runner,
    ):
        result = await runner.play()
    assert result.failure is None
    names = [name_of(url) for url in replicas]
    assert [turn.replica for turn in result.turns] == names * (len(result.turns) // 2)
    for turn in result.turns[1:]:
        assert turn.loss is not None
        assert turn.loss.cause is LossCause.MIXED
    assert Notice.MIXED in result.notices
    assert (route_in_words(result.turns) or "").startswith(f"0 of {len(result.turns) - 1} turns")


async def test_a_router_that_keeps_a_session_on_one_replica_is_as_exact_as_one_engine(replicas):
    """The probe sends the header that its users send."""
    session = Additions(headers={"X-Session-Id": "{session}"})
    route = by_session(replicas, "X-Session-Id")
    async with (
        engine_proxy(lambda _path: "", route=route) as router,
        runner_of(router, replicas, session) as runner,
    ):
        played = [await runner.play() for _ in range(2)]
    for url, result in zip(replicas, played, strict=True):
        assert result.failure is None
        assert {turn.replica for turn in result.turns} == {name_of(url)}
        assert [turn.loss for turn in result.turns] == [None] * len(result.turns)
        for turn in result.turns[1:]:
            assert turn.cached_tokens == turn.attainable_cached_tokens
    assert {turn.efficiency_ratio for turn in played[1].turns[1:]} == {1.0}


async def test_a_router_that_gets_no_header_of_the_session_spreads_it(replicas):
    route = by_session(replicas, "X-Session-Id")
    async with (
        engine_proxy(lambda _path: "", route=route) as router,
        runner_of(router, replicas) as runner,
    ):
        result = await runner.play()
    assert {turn.replica for turn in result.turns} == {name_of(url) for url in replicas}
