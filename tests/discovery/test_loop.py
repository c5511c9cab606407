"""What the discovery loop delivers, publishes and logs after answers and failures."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from fake_clock import FakeClock
from recorded_sinks import RecordedLoop
from samples_page import Page
from structlog.testing import capture_logs

from exporter.config import Target
from exporter.discovery.loop import DiscoveryLoop
from exporter.discovery.targets.discovered_targets import DiscoveredTargets, TargetQuota
from exporter.discovery.targets.records import DiscoveryError, DiscoveryFailure, DiscoveryResult
from exporter.errors import ExporterError
from exporter.loops import LoopHeartbeat
from exporter.metrics.store import Metrics

EVERY, GRACE = 10.0, 15.0


def target(name: str) -> Target:
    return Target(name=name, url="http://127.0.0.1:8000")


class Source:
    """Gives the result or error in `says`."""

    def __init__(self) -> None:
        self.says: DiscoveryResult | Exception = DiscoveryResult()
        self.closed = False

    async def query(self) -> DiscoveryResult:
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    async def close(self) -> None:
        self.closed = True


class Scene:
    """One source, and the effects of its loop."""

    def __init__(self, limit: int = 100) -> None:
        self.clock = FakeClock()
        self.source = Source()
        self.metrics = Metrics()
        self.counted = RecordedLoop(may_fail=True)
        self.metrics.exporter.source_added(
            "dns:vllm", (DiscoveryFailure.TIMEOUT, DiscoveryFailure.TEMPORARY)
        )
        self.delivered: list[list[str]] = []
        self.refuses: str | None = None
        self.loop = DiscoveryLoop(
            "dns:vllm",
            self.source,
            DiscoveredTargets("dns:vllm", GRACE, TargetQuota(limit)),
            refresh_seconds=EVERY,
            sink=self.metrics.exporter,
            heartbeat=LoopHeartbeat("discovery:dns:vllm", self.counted, self.clock),
            deliver=self.deliver,
        )

    async def deliver(self, targets) -> None:
        if self.refuses:
            raise ExporterError(self.refuses)
        self.delivered.append([each.name for each in targets])

    def found(self, names: str, **more) -> None:
        self.source.says = DiscoveryResult(tuple(map(target, names)), **more)

    def fails(self, reason=DiscoveryFailure.TEMPORARY) -> None:
        self.source.says = DiscoveryError(reason, "vllm.example: no luck")

    def value(self, name: str, **labels: str) -> float | None:
        name = f"vllm_exporter_discovery_{name}"
        return Page(self.metrics).value_of(name, source="dns:vllm", **labels)

    async def again(self) -> None:
        await self.clock.advance(EVERY)
        await self.clock.until_asleep()

    @asynccontextmanager
    async def running(self):
        with capture_logs() as logs:
            task = asyncio.create_task(self.loop.run())
            await self.clock.until_asleep()
            yield logs
            task.cancel()
            await asyncio.wait({task})


@pytest.fixture
async def scene() -> Scene:
    return Scene()


def events(logs, name: str) -> list[dict]:
    return [each for each in logs if each["event"] == name]


async def test_only_a_change_is_delivered(scene):
    scene.found("ab")
    async with scene.running():
        await scene.again()
        scene.found("abc")
        await scene.again()
    assert scene.delivered == [["a", "b"], ["a", "b", "c"]]
    assert scene.source.closed


async def test_an_empty_answer_is_delivered_and_logged_once(scene):
    async with scene.running() as logs:
        await scene.again()
        assert scene.delivered == [[]]
        assert scene.value("targets") == 0
        scene.found("a")
        await scene.again()
        scene.found("")
        await scene.again()
    assert len(events(logs, "discovery.nothing_found")) == 2


async def test_a_failing_source_keeps_its_targets(scene):
    scene.found("ab")
    async with scene.running() as logs:
        success = scene.value("last_success_timestamp_seconds")
        assert success == scene.clock.time()
        scene.fails()
        for _ in range(100):
            await scene.again()
        assert scene.delivered == [["a", "b"]]
        assert scene.value("targets") == 2
        assert scene.value("failures_total", reason="temporary") == 100
        assert scene.value("failures_total", reason="timeout") == 0
        assert scene.value("last_success_timestamp_seconds") == success
        scene.found("a")
        await scene.again()
        assert scene.delivered == [["a", "b"]]
        await scene.again()
        await scene.again()
        assert scene.delivered == [["a", "b"], ["a"]]
    (failed,) = events(logs, "discovery.failed")
    assert (failed["reason"], failed["kept"]) == ("temporary", 2)
    assert failed["detail"] == "vllm.example: no luck"
    (recovered,) = events(logs, "discovery.recovered")
    assert recovered["after_seconds"] == 100 * EVERY


async def test_each_failure_reason_is_logged_once_per_outage(scene):
    async with scene.running() as logs:
        for reason in (DiscoveryFailure.TIMEOUT, DiscoveryFailure.TEMPORARY) * 3:
            scene.fails(reason)
            await scene.again()
    assert [each["reason"] for each in events(logs, "discovery.failed")] == ["timeout", "temporary"]


async def test_before_the_first_answer_nothing_is_known(scene):
    scene.fails()
    async with scene.running():
        await scene.again()
        assert scene.delivered == []
        assert scene.value("targets") is None
        assert scene.value("last_success_timestamp_seconds") is None
        assert scene.value("failures_total", reason="temporary") == 2


async def test_targets_that_cannot_run_are_tried_again(scene):
    scene.found("a")
    scene.refuses = "target 'a': ca_file is not a PEM file"
    async with scene.running() as logs:
        await scene.again()
        assert scene.value("failures_total", reason="refused") == 2
        scene.refuses = None
        await scene.again()
        assert scene.delivered == [["a"]]
        assert scene.value("targets") == 1
    (failed,) = events(logs, "discovery.failed")
    assert failed["detail"] == "target 'a': ca_file is not a PEM file"
    assert events(logs, "discovery.recovered")


async def test_a_mistake_is_logged_when_it_appears_and_when_it_changes(scene):
    scene.found("a", mistakes={"bad": "label port: must be a whole number"})
    async with scene.running() as logs:
        await scene.again()
        assert scene.value("left_out_targets", reason="mistake") == 1
        scene.found("a", mistakes={"bad": "it is in no network"})
        await scene.again()
        scene.found("a")
        await scene.again()
        assert scene.value("left_out_targets", reason="mistake") == 0
        scene.found("a", mistakes={"bad": "it is in no network"})
        await scene.again()
    told = [each["mistake"] for each in events(logs, "discovery.left_out")]
    assert told == [
        "label port: must be a whole number",
        "it is in no network",
        "it is in no network",
    ]


async def test_targets_above_the_limit_are_left_out_and_logged_once():
    scene = Scene(limit=2)
    scene.found("abc")
    async with scene.running() as logs:
        await scene.again()
        assert scene.delivered == [["a", "b"]]
        assert scene.value("targets") == 2
        assert scene.value("left_out_targets", reason="limit") == 1
    (told,) = events(logs, "discovery.above_limit")
    assert told["left_out"] == 1


async def test_the_loop_survives_an_unexpected_exception(scene):
    scene.source.says = ZeroDivisionError("ours")
    async with scene.running() as logs:
        scene.found("a")
        await scene.again()
        assert scene.delivered == [["a"]]
        assert scene.counted.failures == 1
    assert len(events(logs, "loop.round_failed")) == 1
