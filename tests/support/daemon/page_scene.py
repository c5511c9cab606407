"""Targets for the status page: a healthy, a failing and a simulated one.

`python tests/page_scene.py PORT [COUNT]` serves them, or COUNT targets, for looking at the page;
`python tests/page_scene.py PORT states` serves targets in several conditions.
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
from samples_page import publish

from exporter.container.decide.records import ContainerStatus, LifecycleState
from exporter.metrics.history import History
from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics
from exporter.model.probe import PauseReason, RetentionReading
from exporter.model.session import Control, ControlOutcome, LossCause, Notice
from exporter.web.server import create_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.model.session import SessionResult, TurnFacts

GRAFANA_URL = "http://localhost:3000"


def turns(lost_in: int | None = None) -> tuple[TurnFacts, ...]:
    """Eight turns with two cold controls; in turn `lost_in` half of the cached tokens are lost."""
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


def healthy(metrics: Metrics, history: History, name: str = "qwen") -> None:
    metrics.add(TargetState(name, mode="managed", url="http://127.0.0.1:8000"))
    publish(metrics, engine_view(target=name))
    publish(metrics, container_view(target=name))  # it exited once and was restarted
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
    publish(metrics, ready)
    publish(metrics, RetentionReading(name, 60.0, 1.0))
    played = [
        session(
            *turns(5 if number in {12, 26, 29} else None),
            target=name,
            started=STARTED - 60 * (30 - number),
        )
        for number in range(30)
    ]
    _play(metrics, history, played)


def failing(metrics: Metrics, history: History, name: str = "mistral") -> None:
    metrics.add(TargetState(name, mode="managed", url="http://127.0.0.1:8001"))
    publish(metrics, container_view(target=name))
    publish(metrics, failed_engine_view(target=name))
    unstable = {"prefix": UNSTABLE, "notices": frozenset({Notice.PREFIX_UNSTABLE})}
    played = [
        replace(session(*turns(), target=name, started=STARTED - 60 * (6 - number)), **unstable)
        for number in range(6)
    ]
    failed = replace(failed_session(*turns()[:3], target=name), **unstable)
    _play(metrics, history, [*played, failed])


def simulated(metrics: Metrics, history: History, name: str = "demo") -> None:
    metrics.add(TargetState(name, url="http://127.0.0.1:8002"))
    info = engine_view().info
    assert info is not None
    publish(metrics, engine_view(target=name, info=replace(info, simulated=True)))
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


def wedged(metrics: Metrics, history: History, name: str = "wedged") -> None:
    metrics.add(TargetState(name, url="http://127.0.0.1:8003"))
    publish(metrics, engine_view(target=name))
    missed = [
        turn(n, 2071 + 142 * (n - 1), 0, 2048, ttft=0.45, cause=LossCause.WEDGED)
        for n in range(2, 9)
    ]
    notices = frozenset({Notice.CACHE_WEDGED})
    _play(metrics, history, [session(*turns()[:1], *missed, target=name, notices=notices)])


def broken_template(metrics: Metrics, history: History, name: str = "broken-template") -> None:
    metrics.add(TargetState(name, url="http://127.0.0.1:8004"))
    publish(metrics, engine_view(target=name))
    little = [turn(n, 2071 + 142 * (n - 1), 48, 48, ttft=0.45) for n in range(2, 9)]
    notices = frozenset({Notice.PREFIX_UNSTABLE})
    played = session(*turns()[:1], *little, target=name, prefix=UNSTABLE, notices=notices)
    _play(metrics, history, [played])


def asleep(metrics: Metrics, history: History, name: str = "asleep") -> None:
    metrics.add(TargetState(name, url="http://127.0.0.1:8005"))
    view = engine_view(target=name)
    assert view.snapshot is not None
    publish(metrics, replace(view, snapshot=replace(view.snapshot, asleep=True)))
    _play(metrics, history, [session(*turns(), target=name)])
    metrics.targets[name].admission_checked(PauseReason.ASLEEP)


def states(metrics: Metrics, history: History) -> None:
    """A wedged target, one with a broken template, a sleeping one and a healthy one."""
    wedged(metrics, history)
    broken_template(metrics, history)
    asleep(metrics, history)
    healthy(metrics, history)


def three(metrics: Metrics, history: History) -> None:
    healthy(metrics, history)
    failing(metrics, history)
    simulated(metrics, history)


def many(metrics: Metrics, history: History, count: int) -> None:
    """Every fourth one fails."""
    for number in range(count):
        fill = failing if number % 4 == 3 else healthy
        fill(metrics, history, f"target-{number}")


def _play(metrics: Metrics, history: History, results: Sequence[SessionResult]) -> None:
    """All results go into the history; only the last few into the sums, to save time."""
    for result in results:
        history.add(result)
    for result in results[-4:]:
        publish(metrics, result)


async def _serve(port: int, what: str | None) -> None:
    metrics, history = Metrics(), History()
    if what is None:
        three(metrics, history)
    elif what == "states":
        states(metrics, history)
    else:
        many(metrics, history, int(what))
    app = create_app(
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
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
