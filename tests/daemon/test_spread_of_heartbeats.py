"""When the first heartbeats of a fleet come: at the start, and after a change of settings."""

from __future__ import annotations

from collections import Counter

import pytest
from fake_clock import FakeClock
from recorded_sinks import RecordedLoop, RecordedProbe

from exporter.config import ProbeSettings
from exporter.daemon.probing import ProbeLoops
from exporter.daemon.rules_file import RulesFile
from exporter.daemon.stagger import spread
from exporter.engine.client.engine_client import EngineClient
from exporter.model.probe import Due
from exporter.scenario.coding_agent import CODING_AGENT

FLEET = 1000


class Scene:
    """The loops of one target, and when they say that heartbeats are due."""

    def __init__(self, client: EngineClient, **settings: float) -> None:
        self.clock = FakeClock()
        self._client = client
        self._settings = ProbeSettings(**settings)

    def new(self) -> ProbeLoops:
        self._sink = RecordedProbe()
        return ProbeLoops(
            *("t", self._settings, (CODING_AGENT,), self._client, self._unread),
            clock=self.clock,
            sink=self._sink,
            heartbeat=lambda _kind: RecordedLoop(self.clock).heartbeat,
            rules=RulesFile(),
        )

    async def _unread(self):
        raise AssertionError("no loop runs here")

    def first_heartbeat(self, loops: ProbeLoops, delay: float) -> float:
        """Seconds until it is due, where the first session is due in `delay`."""
        loops.loops(self._sink, delay)
        (due,) = [at for what, at in self._sink.due if what is Due.HEARTBEAT]
        return due - self.clock.time()


@pytest.fixture
async def client():
    async with EngineClient("http://127.0.0.1:1") as made:
        yield made


@pytest.mark.parametrize("sessions", [60, 600, 3600])
async def test_the_first_heartbeats_of_a_fleet_are_spread_over_their_interval(client, sessions):
    scene = Scene(client, interval_seconds=sessions, heartbeat_interval_seconds=100)
    delays = spread(FLEET, sessions)
    due = [scene.first_heartbeat(scene.new(), delay) for delay in delays]
    in_a_second = Counter(int(each) for each in due)
    assert max(in_a_second.values()) <= 2 * FLEET / 100


async def test_a_rare_session_does_not_delay_the_first_heartbeat(client):
    scene = Scene(client, interval_seconds=3600, heartbeat_interval_seconds=100)
    assert 0 <= scene.first_heartbeat(scene.new(), 3599.0) <= 100


async def test_a_session_that_is_due_soon_comes_before_the_first_heartbeat(client):
    scene = Scene(client, interval_seconds=60, heartbeat_interval_seconds=100)
    assert scene.first_heartbeat(scene.new(), 59.0) == 159


async def test_a_change_of_settings_does_not_move_the_next_heartbeat(client):
    scene = Scene(client, interval_seconds=60, heartbeat_interval_seconds=100)
    before = scene.new()
    assert scene.first_heartbeat(before, 0.0) == 100
    await scene.clock.advance(70.0)
    after = scene.new()
    after.continue_from(before)
    assert scene.first_heartbeat(after, 20.0) == 30


async def test_heartbeats_that_were_off_start_spread(client):
    scene = Scene(client, interval_seconds=60, heartbeat_interval_seconds=100)
    before = scene.new()
    scene.first_heartbeat(before, 0.0)
    await scene.clock.advance(1000.0)
    after = scene.new()
    after.continue_from(before)
    assert scene.first_heartbeat(after, 20.0) == 120
