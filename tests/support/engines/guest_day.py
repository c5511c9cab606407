"""All loops of a target's probe at the defaults, against a simulator, on a clock of the test's.

Requests take no time, so a day passes within seconds. Users' requests are sent in between.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, Self

from fake_clock import FakeClock
from recorded_sinks import RecordedLoop

from exporter.config import ProbeSettings
from exporter.daemon.probing import ProbeLoops
from exporter.daemon.rules_file import RulesFile
from exporter.engine.client.engine_client import EngineClient
from exporter.engine.scraper import Scraper
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.metrics.state.target import TargetState
from exporter.scenario.coding_agent import CODING_AGENT
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.analysis.own_share import OwnShare
    from exporter.model.session import SessionResult

BLOCK = 16
STEP_SECONDS = 10.0
DEADLINES = Deadlines(connect=60, first_token=60, between_tokens=60, whole=120)


class GuestDay:
    """`written` and `consumed` are what each request added, with its time in seconds from 0."""

    def __init__(self, capacity: int, probe: Mapping[str, Any] | None = None) -> None:
        blocks = capacity // BLOCK
        self._engine = SimulatorSettings(
            port=0, time_scale=0.0, num_blocks=blocks, block_size=BLOCK, max_model_len=16_384
        )
        self.settings = ProbeSettings(**dict(probe or {}))
        self.clock = FakeClock(monotonic=0.0)
        self.state = TargetState("t")
        self.sessions: list[SessionResult] = []
        self.heartbeats: list[tuple[float, SessionResult]] = []
        self.written: list[tuple[float, int]] = []
        self.consumed: list[tuple[float, int]] = []
        self._prompts = 0

    async def __aenter__(self) -> Self:
        self._stack = AsyncExitStack()
        self.simulator = await self._stack.enter_async_context(Simulator(self._engine))
        self.client = await self._stack.enter_async_context(EngineClient(self.simulator.url))
        self._users = await self._stack.enter_async_context(EngineClient(self.simulator.url))
        return self

    async def __aexit__(self, *_exception: object) -> None:
        for task in getattr(self, "_tasks", []):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._stack.aclose()

    def start(self) -> None:
        """Start the loops of the probe."""
        random.seed(5)  # the jitter of the intervals, and which sessions have a control
        scraper = Scraper(
            *("t", self.client, self.clock),
            interval_seconds=10,
            timeout_seconds=30,
            sink=self.state,
            heartbeat=RecordedLoop().heartbeat,
        )
        loops = ProbeLoops(
            *("t", self.settings, (CODING_AGENT,), self.client, scraper.refresh),
            clock=self.clock,
            sink=self.state,
            heartbeat=lambda _kind: RecordedLoop(self.clock).heartbeat,
            rules=RulesFile(),
            publish=self._share_changed,
        ).loops(self, 0.0)
        self._tasks = [asyncio.create_task(loop.run()) for loop in loops]

    def _share_changed(self, change: OwnShare) -> None:
        self.state.own_share_changed(change)
        now = self.clock.monotonic()
        self.written.append((now, change.written_tokens))
        self.consumed.append((now, change.prompt_tokens + change.completion_tokens))

    def session_finished(self, result: SessionResult) -> None:
        self.state.session_finished(result)
        if result.heartbeat:
            self.heartbeats.append((self.clock.monotonic(), result))
        else:
            self.sessions.append(result)

    async def until(self, at: float) -> None:
        """Let time pass until `at` seconds after the beginning."""
        while self.clock.monotonic() < at:
            if hasattr(self, "_tasks"):
                await self.clock.until_asleep(len(self._tasks))
            await self.clock.advance(min(STEP_SECONDS, at - self.clock.monotonic()))
        if hasattr(self, "_tasks"):
            await self.clock.until_asleep(len(self._tasks))

    async def user(self, number: int, words: int) -> tuple[int, int]:
        """Send the prompt of user `number` once: its tokens, and those from the cache."""
        text = " ".join(f"user{number} word{place}" for place in range(words))
        messages = [{"role": "user", "content": text}]
        request = ChatRequest("simulated", messages, 1, f"user-{number}")
        chat = await self._users.chat(request, DEADLINES)
        assert chat.usage is not None, chat.failure
        return chat.usage.prompt_tokens, chat.usage.cached_tokens or 0


def most_within(amounts: list[tuple[float, int]], seconds: float) -> int:
    """The largest sum of the amounts within any window of so many seconds."""
    most = start = total = 0
    for at, tokens in amounts:
        total += tokens
        while amounts[start][0] <= at - seconds:
            total -= amounts[start][1]
            start += 1
        most = max(most, total)
    return most
