"""Targets for the status page: one that is well, one that is not, a simulated one.

`python tests/page_scene.py PORT [COUNT]` serves them, or COUNT targets, for looking at the page.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import web
from fake_clock import FakeClock
from publish_records import (
    STARTED,
    UNSTABLE,
    container_view,
    engine_view,
    failed_engine_view,
    failed_session,
    session,
    turn,
)

from exporter.container.records import ContainerStatus, LifecycleState
from exporter.model import Control, ControlOutcome, LossCause, Notice, RetentionReading
from exporter.publish.history import History
from exporter.publish.metrics import Metrics, new_registry
from exporter.publish.server import create_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model import SessionResult, TurnFacts

GRAFANA_URL = "http://localhost:3000"


def turns(lost_in: int | None = None) -> tuple[TurnFacts, ...]:
    """Eight turns, in one of which half of the cache was gone, with two cold controls."""
    played = [turn(1, 2071, 0, 0, ttft=0.412, latency=0.9)]
    for index in range(2, 9):
        prompt = 2071 + 142 * (index - 1)
        ideal = (prompt - 120) // 16 * 16
        cached = ideal // 32 * 16 if index == lost_in else ideal
        one = turn(
            index,
            prompt,
            cached,
            ideal,
            ttft=0.02 + 0.0002 * (prompt - cached),
            latency=0.6 + 0.01 * index,
            cause=LossCause.EVICTED,
        )
        if index in {3, 7}:
            cold = Control(ControlOutcome.COLD, True, prompt, 32, 0.02 + 0.0002 * prompt)
            one = replace(one, control=cold)
        played.append(one)
    return tuple(played)


def well(metrics: Metrics, history: History, name: str = "qwen") -> None:
    metrics.target_added(name, mode="managed", url="http://127.0.0.1:8000")
    metrics.engine_scraped(engine_view(target=name))
    metrics.container_changed(container_view(target=name))  # it ended once, and was brought back
    running = container_view(target=name).snapshot
    assert running is not None
    running = replace(running, status=ContainerStatus.RUNNING, exit_code=None, finished_time=None)
    ready = container_view(
        target=name,
        state=LifecycleState.READY,
        diagnosed=False,
        snapshot=running,
        next_attempt_time=None,
    )
    metrics.container_changed(ready)
    metrics.retention_read(RetentionReading(name, 60.0, 1.0))
    played = [
        session(
            *turns(5 if number in {12, 26, 29} else None),
            target=name,
            started=STARTED - 60 * (30 - number),
        )
        for number in range(30)
    ]
    _play(metrics, history, played)


def unwell(metrics: Metrics, history: History, name: str = "mistral") -> None:
    metrics.target_added(name, mode="managed", url="http://127.0.0.1:8001")
    metrics.container_changed(container_view(target=name))
    metrics.engine_scraped(failed_engine_view(target=name))
    unstable = {"prefix": UNSTABLE, "notices": frozenset({Notice.PREFIX_UNSTABLE})}
    played = [
        replace(session(*turns(), target=name, started=STARTED - 60 * (6 - number)), **unstable)
        for number in range(6)
    ]
    failed = replace(failed_session(*turns()[:3], target=name), **unstable)
    _play(metrics, history, [*played, failed])


def simulated(metrics: Metrics, history: History, name: str = "demo") -> None:
    metrics.target_added(name, url="http://127.0.0.1:8002")
    info = engine_view().info
    assert info is not None
    metrics.engine_scraped(engine_view(target=name, info=replace(info, simulated=True)))
    notices = frozenset({Notice.SIMULATED})
    played = [
        session(
            *turns(),
            target=name,
            started=STARTED - 15 * (12 - number),
            simulated=True,
            notices=notices,
        )
        for number in range(12)
    ]
    _play(metrics, history, played)


def three(metrics: Metrics, history: History) -> None:
    well(metrics, history)
    unwell(metrics, history)
    simulated(metrics, history)


def many(metrics: Metrics, history: History, count: int) -> None:
    """Every fourth is unwell."""
    for number in range(count):
        fill = unwell if number % 4 == 3 else well
        fill(metrics, history, f"target-{number}")


def _play(metrics: Metrics, history: History, results: Sequence[SessionResult]) -> None:
    """All go into the history, the last few into the sums: their fits take a while."""
    for result in results:
        history.add(result)
    for result in results[-4:]:
        metrics.session_finished(result)


async def _serve(port: int, count: int | None) -> None:
    registry = new_registry()
    metrics, history = Metrics(registry), History()
    if count is None:
        three(metrics, history)
    else:
        many(metrics, history, count)
    app = create_app(
        registry=registry,
        metrics=metrics,
        history=history,
        clock=FakeClock(unix=STARTED + 60),
        grafana_url=GRAFANA_URL,
    )
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None))
