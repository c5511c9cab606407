"""A real engine with a KV store: each turn is split as the engine's own counters are.

Its two starts take minutes, so it runs only if TEST_ENGINE_KINDS names `external`. In every CI a
recording of it holds the simulator (tests/simulator/test_recorded_store.py), and
tests/probe/test_external_store.py has the rest.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from scraper_bench import unheard_scraper
from session_bench import DEADLINES

from exporter.clock import SystemClock
from exporter.daemon.probing import new_salt
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.metrics.exposition import parse
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.isolation import run_isolation_test
from exporter.probe.request_scope import RequestScope
from exporter.probe.session.plan import SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.wording.findings.isolation import of_isolation

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_server import VllmServers

    from exporter.engine.wire.request import ChatRequest
    from exporter.model.chat import Chat
    from exporter.model.session import TurnFacts

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        "external" not in os.environ.get("TEST_ENGINE_KINDS", "").split(),
        reason="TEST_ENGINE_KINDS does not name external",
    ),
]


async def hits_of(url: str) -> tuple[float, float]:
    """The engine's own counters of hits: in its own cache, and in the store."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        found = parse(await answer.read(), at=0.0, scrape_seconds=0.0)
    return found.hit_tokens or 0.0, found.external_hit_tokens or 0.0


class OthersFirst(RequestScope):
    """Before each turn after the first another client sends its prompt under another salt, so that
    the store has all of it. `grown` is what the engine counted for each turn of the exporter.
    """

    grown: list[tuple[float, float]]

    async def chat(self, request: ChatRequest, *arguments: Any) -> Chat:
        client, turn = self._requests.client, request.max_tokens > 1
        if turn and len(request.messages) > 2:
            other = replace(request, cache_salt="another client", max_tokens=1)
            await client.chat(other, DEADLINES)
            await self._requests.clock.sleep(1.0)  # until it is counted
        before = await hits_of(client.url)
        chat = await super().chat(request, *arguments)
        if turn:
            after = await hits_of(client.url)
            self.grown.append((after[0] - before[0], after[1] - before[1]))
        return chat


async def measured(
    url: str, monkeypatch: pytest.MonkeyPatch, *, from_counters: bool
) -> tuple[list[TurnFacts], list[tuple[float, float]], str]:
    """The turns of a session, what the engine counted for each, and what `check` says of salts."""
    grown: list[tuple[float, float]] = []
    monkeypatch.setattr(OthersFirst, "grown", grown, raising=False)
    monkeypatch.setattr("exporter.probe.session.runner.RequestScope", OthersFirst)
    async with EngineClient(url, timeout_seconds=60) as client:
        scraper = unheard_scraper(client, SystemClock())
        requests = EngineRequests(
            client, scraper.refresh, SystemClock(), from_counters=from_counters
        )
        plan = SessionPlan("t", CODING_AGENT, 32, DEADLINES)
        result = await SessionRunner(plan, requests, new_salt).play()
        test = await run_isolation_test(requests, await client.info(), DEADLINES, new_salt)
    assert result.failure is None
    assert requests.share.unsplit == 0
    return list(result.turns), grown, of_isolation(test).evidence


def store_in(folder: Path) -> list[str]:
    """The flags of an empty store. A prompt is stored whole if it is computed in one step."""
    config = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(folder)},
    }
    return ["--max-num-batched-tokens", "8192", "--kv-transfer-config", json.dumps(config)]


async def test_usage_and_counters_give_the_same_ratios_and_the_same_split(
    vllm_servers: VllmServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ratios = []
    for details in (True, False):
        flag = f"--{'' if details else 'no-'}enable-prompt-tokens-details"
        server = vllm_servers.start_kind("external", *store_in(tmp_path / flag), flag)
        try:
            turns, grown, said = await measured(server.url, monkeypatch, from_counters=not details)
        finally:
            server.stop()
        split = [
            ((turn.cached_tokens or 0) - (turn.external_cached_tokens or 0),
             turn.external_cached_tokens)
            for turn in turns
        ]  # fmt: skip
        assert split == grown[-len(turns) :]
        assert [external > 0 for _, external in grown[-len(turns) :]] == [False, *[True] * 7]
        assert "from an external KV store and none from the engine's own cache" in said
        ratios.append([turn.hit_ratio for turn in turns])
    assert ratios[0] == ratios[1]
