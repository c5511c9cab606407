"""A fleet for a Prometheus: a real exporter whose simulated engines have one fault each, and the
containers of real supervisors on a Docker in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING

import many_engines
from fake_clock import FakeClock
from fake_docker import World
from publish_records import engine_view, failed_engine_view
from real_prometheus import free_port
from samples_page import publish
from served_metrics import serving
from supervisor_scene import Scene, scene_of

from exporter.container.decide.records import DockerProblem
from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from exporter.container.decide.records import ContainerView

HEALTHY = "healthy"
# What is wrong with each engine, and the query that shows that its probe has noticed.
FAULTS: dict[str, tuple[dict[str, object], str]] = {
    "wedged": ({"fault": "wedge"}, "vllm_probe_cache_wedged == 1"),
    "small-cache": ({"fault": "small_cache", "blocks": 40}, "vllm_probe_lost_tokens_total > 0"),
    "dead": ({"fault": "crash"}, "vllm_probe_up == 0 and vllm_engine_up == 0"),
    "restarted": ({"fault": "restart"}, "vllm_engine_restarts_total > 0 and vllm_engine_up == 1"),
    "template": ({"fault": "moving_system_prompt"}, "vllm_probe_prefix_stable == 0"),
    "no-details": (
        {"fault": "no_usage_details"},
        "vllm_probe_up == 1 unless on (target) vllm_probe_turn_hit_ratio",
    ),
    "no-caching": ({"fault": "no_prefix_caching"}, "vllm_engine_info{prefix_caching='false'}"),
    "salts": ({"fault": "ignore_salts"}, "vllm_probe_notice{notice='salt_ignored'}"),
}

_EXPORTER = """\
[scrape]
interval_seconds = 2
timeout_seconds = 2
[probe]
interval_seconds = 5  # so that there are scrapes between sessions: they show users' times
heartbeat_interval_seconds = 0
tokens_per_hour = 0
max_cache_turnover_per_hour = 0
quiet_after_seconds = 0
max_prefill_share_ratio = 1
control_ratio = 0.25
retention_gaps_seconds = [5]
"""
_TARGET = """\
[[targets]]
name = "{}"
url = "{}"
"""


@contextlib.contextmanager
def engines() -> Iterator[dict[str, str]]:
    """The URL of each target's engine."""
    names = [HEALTHY, *FAULTS]
    process = subprocess.Popen(
        [sys.executable, many_engines.__file__, str(len(names)), "prefill"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield dict(zip(names, json.loads(process.stdout.readline()), strict=True))
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def exporter(folder: Path, urls: dict[str, str]) -> Iterator[int]:
    """The daemon with these targets. Yields its port."""
    port = free_port()
    config = folder / "exporter.toml"
    targets = "".join(itertools.starmap(_TARGET.format, urls.items()))
    config.write_text(_EXPORTER + targets, encoding="utf-8")
    with (folder / "exporter.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "exporter", "run", "--config", str(config)),
                *("--listen", f"127.0.0.1:{port}"),
            ],
            stderr=log,
            env={name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        )
        try:
            yield port
        finally:
            process.terminate()
            process.wait(30)


def post(url: str, body: dict[str, object]) -> None:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


@contextlib.contextmanager
def users(engine: str) -> Iterator[None]:
    """Others than the probe, who ask the same again and again."""
    body = {
        "model": "simulated",
        "max_tokens": 4,
        "messages": [{"role": "user", "content": "What did we say of prefixes? " * 40}],
    }
    over = threading.Event()

    def ask() -> None:
        while not over.wait(1):
            post(f"{engine}/v1/chat/completions", body)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def _ready(scene: Scene) -> None:
    await scene.wait(60)


async def _out_of_memory(scene: Scene) -> None:
    await scene.wait(60)
    for _ in range(3):
        scene.world.end(scene.world.only(), 137, oom=True)
        await scene.wait(5)


async def _never_ready(scene: Scene) -> None:
    scene.world.crash_after, scene.world.crash_code = 1.0, 2
    await scene.wait(60)


async def _docker_away(scene: Scene) -> None:
    await scene.wait(60)
    scene.world.down = DockerProblem.UNREACHABLE
    await scene.wait(30)


CONTAINERS: dict[str, Callable[[Scene], object]] = {
    "ready": _ready,
    "out-of-memory": _out_of_memory,
    "never-ready": _never_ready,
    "docker-away": _docker_away,
}


async def _play(story: Callable[[Scene], object]) -> list[ContainerView]:
    world = World(FakeClock(unix=time.time() - 120))
    async with scene_of("managed", world=world) as scene:
        await story(scene)
        return list(scene.views)


@contextlib.contextmanager
def containers() -> Iterator[int]:
    """What supervisors publish of them, one view at each scrape. Yields a port."""
    metrics = Metrics()
    stories = {}
    for name, story in CONTAINERS.items():
        metrics.add(TargetState(name))
        views = asyncio.run(_play(story))
        stories[name] = iter([*views[:1], *views[-12:]])
        publish(metrics, (engine_view if name == "ready" else failed_engine_view)(target=name))

    def go_on() -> None:
        for name, views in stories.items():
            if (view := next(views, None)) is not None:
                publish(metrics, replace(view, target=name))

    with serving(metrics, go_on) as port:
        yield port
