"""Sessions against a simulated engine over real HTTP."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from scraper_bench import unheard_scraper

from exporter.clock import SystemClock
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.wire.request import Deadlines
from exporter.engine.wire.surfaces.named import SURFACES
from exporter.probe.engine_requests import EngineRequests
from exporter.probe.session.plan import SessionHooks, SessionPlan
from exporter.probe.session.runner import SessionRunner
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.simulator.engine_kinds.table import settings_like
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from exporter.engine.wire.additions import Additions
    from exporter.model.session import SessionResult

DEADLINES = Deadlines(connect=60, first_token=60, between_tokens=60, whole=120)


@dataclass
class Bench:
    """A simulator, and a runner that plays sessions against it."""

    simulator: Simulator
    client: EngineClient
    requests: EngineRequests
    plan: SessionPlan
    new_salt: Callable[[], str]
    runner: SessionRunner

    async def play(self, on_turn: Callable[..., None] = lambda _facts: None) -> SessionResult:
        return await self.runner.play(SessionHooks(on_turn=on_turn))


@contextlib.asynccontextmanager
async def bench_of(
    deadlines: Deadlines = DEADLINES,
    max_tokens: int = 16,
    like: str | None = None,
    *,
    pin_ranks: bool = False,
    additions: Additions | None = None,
    api: str = "chat_completions",
    **settings: object,
) -> AsyncIterator[Bench]:
    options = {"port": 0, "time_scale": 0.0, "num_blocks": 4096, **settings}
    given = SimulatorSettings(**options)
    salts = iter(f"salt-{number}" for number in range(1000))
    async with (
        Simulator(given if like is None else settings_like(like, given)) as simulator,
        EngineClient(simulator.url, additions=additions, surface=SURFACES[api]) as client,
    ):
        scraper = unheard_scraper(client, SystemClock())
        plan = SessionPlan("t", CODING_AGENT, max_tokens, deadlines)
        requests = EngineRequests(client, scraper.refresh, SystemClock(), pin_ranks=pin_ranks)

        def new_salt() -> str:
            return next(salts)

        runner = SessionRunner(plan, requests, new_salt)
        yield Bench(simulator, client, requests, plan, new_salt, runner)


@pytest.fixture
def bench():
    return bench_of
