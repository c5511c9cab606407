"""A real engine with a KV store: each turn is split as the engine's own counters are.

Its two starts take minutes, so it runs only if TEST_ENGINE_KINDS names `external`. In every CI a
recording of it holds the simulator (tests/simulator/test_recorded_store.py), and
tests/probe/test_external_store.py has the rest.
"""

from __future__ import annotations

import json
import os
from itertools import count, cycle
from typing import TYPE_CHECKING

import aiohttp
import pytest
from scraper_bench import unheard_scraper
from session_bench import DEADLINES

from exporter.clock import SystemClock
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.metrics.exposition import parse
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.isolation import run_isolation_test
from exporter.probe.session.cold_control import ColdControl
from exporter.probe.session.plan import SessionHooks, SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.wording.findings.isolation import of_isolation

if TYPE_CHECKING:
    from pathlib import Path

    from vllm_server import VllmServers

    from exporter.model.engine import EngineSnapshot
    from exporter.model.session import SessionResult

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        "external" not in os.environ.get("TEST_ENGINE_KINDS", "").split(),
        reason="TEST_ENGINE_KINDS does not name external",
    ),
]


async def counters_of(url: str) -> EngineSnapshot:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        return parse(await answer.read(), at=0.0, scrape_seconds=0.0)


def hits(before: EngineSnapshot, after: EngineSnapshot) -> tuple[float, float]:
    """The growth of the hits in the engine's own cache and in the store."""
    local, external = (
        (getattr(one, name) or 0.0 for one in (after, before))
        for name in ("hit_tokens", "external_hit_tokens")
    )
    return next(local) - next(local), next(external) - next(external)


async def measured(url: str, *, from_counters: bool) -> tuple[SessionResult, str]:
    """A session whose controls put each turn's prompt into the store, and what check says.

    The first session on an empty store trusts salts, so a control has the prompt of its turn.
    """
    numbers, chances = count(), cycle([0.0, 0.0])  # every turn, and before it

    def new_salt() -> str:
        return f"salt-{next(numbers):027d}"

    async with EngineClient(url, timeout_seconds=60) as client:
        scraper = unheard_scraper(client, SystemClock())
        requests = EngineRequests(
            client, scraper.refresh, SystemClock(), from_counters=from_counters
        )
        control = ColdControl(1.0, lambda: next(chances), new_salt)
        plan = SessionPlan("t", CODING_AGENT, 32, DEADLINES)
        before = await counters_of(url)
        result = await SessionRunner(plan, requests, new_salt, control=control).play(SessionHooks())
        test = await run_isolation_test(requests, await client.info(), DEADLINES, new_salt)
        local, external = hits(before, await counters_of(url))
        own = requests.share
    assert (own.hit_tokens - own.external_tokens, own.external_tokens) == (local, external)
    assert own.unsplit == 0
    return result, of_isolation(test).evidence


def store_in(folder: Path) -> list[str]:
    """The flags of an empty store. A prompt is stored whole if it is computed in one step."""
    config = {
        "kv_connector": "ExampleConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"shared_storage_path": str(folder)},
    }
    return ["--max-num-batched-tokens", "8192", "--kv-transfer-config", json.dumps(config)]


async def test_usage_and_counters_give_the_same_ratios_and_the_same_split(
    vllm_servers: VllmServers, tmp_path: Path
):
    played, said = [], set()
    for details in (True, False):
        flag = f"--{'' if details else 'no-'}enable-prompt-tokens-details"
        server = vllm_servers.start_kind("external", *store_in(tmp_path / flag), flag)
        try:
            result, evidence = await measured(server.url, from_counters=not details)
        finally:
            server.stop()
        assert result.failure is None
        played.append(
            [(t.hit_ratio, t.cached_tokens, t.external_cached_tokens) for t in result.turns]
        )
        said.add(evidence)
    by_usage, by_counters = played
    assert by_usage == by_counters
    assert [external > 0 for _, _, external in by_usage] == [False, *[True] * 7]
    (evidence,) = said
    assert "from an external KV store and none from the engine's own cache" in evidence
