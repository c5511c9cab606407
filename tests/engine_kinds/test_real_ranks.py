"""A real engine with two data-parallel ranks: pinned sessions lose nothing, unpinned ones do.

Its start takes two minutes, so it runs only if TEST_ENGINE_KINDS names `dp2`.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from scraper_bench import requests_to
from served import run_command
from session_bench import DEADLINES

from exporter.daemon.probing import new_salt
from exporter.engine.client.engine_client import EngineClient
from exporter.model.session import LossCause
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from vllm_server import Server, VllmServers

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        "dp2" not in os.environ.get("TEST_ENGINE_KINDS", "").split(),
        reason="TEST_ENGINE_KINDS does not name dp2",
    ),
]


@pytest.fixture(scope="module")
def engine(vllm_servers: VllmServers) -> Iterator[Server]:
    server = vllm_servers.start_kind("dp2")
    yield server
    server.stop()


@asynccontextmanager
async def runner_of(url: str, *, pinned: bool) -> AsyncIterator[SessionRunner]:
    async with EngineClient(url, timeout_seconds=60) as client:
        requests = requests_to(client, pin_ranks=pinned)
        yield SessionRunner(SessionPlan("t", CODING_AGENT, 32, DEADLINES), requests, new_salt)


async def test_unpinned_sessions_lose_to_the_other_rank_and_say_so(engine):
    async with runner_of(engine.url, pinned=False) as runner:
        played = [await runner.play() for _ in range(4)]
    losses = [turn.loss for result in played for turn in result.turns if turn.loss is not None]
    assert {loss.cause for loss in losses} == {LossCause.OTHER_RANK}
    assert {result.data_parallel_rank for result in played} == {None}


async def test_pinned_sessions_lose_nothing_on_either_rank(engine):
    async with runner_of(engine.url, pinned=True) as runner:
        played = [await runner.play() for _ in range(4)]
    assert [result.data_parallel_rank for result in played] == [0, 1, 0, 1]
    for result in played:
        assert result.failure is None
        assert result.notices == frozenset()
        assert [turn.efficiency_ratio for turn in result.turns] == [None] + [1.0] * 7


def test_check_passes_on_pinned_ranks_and_names_the_setting_on_others(engine):
    pinned = run_command("check", "--url", engine.url, "--data-parallel-ranks", "pinned", "--json")
    assert {test["verdict"] for test in pinned.json["tests"]} == {"pass"}
    assert pinned.code == 0
    unpinned = run_command("check", "--url", engine.url, "--json")
    failed = {test["name"]: test for test in unpinned.json["tests"] if test["verdict"] == "fail"}
    assert set(failed) == {"second_turn"}
    assert 'data_parallel_ranks = "pinned"' in failed["second_turn"]["remedy"]
