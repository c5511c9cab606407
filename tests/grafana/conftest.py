"""A real Prometheus that scrapes a real exporter, and one with made-up container states."""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from publish_records import (
    ENGINE_TTFT,
    INFO,
    RESIDENCY,
    TURNS,
    container_view,
    engine_view,
    failed_engine_view,
    measured,
    session,
)
from real_prometheus import free_port, prometheus
from samples_page import publish
from served_metrics import serving

from exporter.container.decide.records import LifecycleState
from exporter.metrics.state.target import TargetState
from exporter.metrics.store import Metrics
from exporter.model.engine import EngineTotals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 80.0  # seconds, for all that the stack has to show: a bound, it takes about twenty
DEMO, HEALTHY, FAILING, ROUTED = "demo", "healthy", "failing", "routed"

_CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [/rules/*.yml]
scrape_configs:
  - job_name: vllm-cache-exporter
    static_configs: [{{targets: {exporters}}}]
"""
RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"


@dataclass(frozen=True)
class Stack:
    """The Prometheus, and the deadline of the first tests that use it."""

    url: str
    give_up: float

    def ask(self, expr: str, target: str, window: str = "1m") -> list[dict[str, Any]]:
        """The answer to a dashboard's query, its variables filled in as Grafana does."""
        values = {"target": target, "window": window, "__rate_interval": "1m", "__range": "5m"}
        values["__interval"] = "2s"
        values["scenario"] = "coding-agent"
        filled = re.sub(r"\$([a-z_]\w*)", lambda found: values[found[1]], expr)
        body = urllib.parse.urlencode({"query": filled}).encode()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query", body, timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{filled}\n{error.read().decode()}")

    def numbers(self, expr: str, target: str, window: str = "1m") -> list[float]:
        """The finite values of the answer."""
        values = [float(series["value"][1]) for series in self.ask(expr, target, window)]
        return [value for value in values if math.isfinite(value)]


@contextlib.contextmanager
def demo() -> Iterator[int]:
    """`vllm-cache-exporter demo`, with a session every second. Yields its port."""
    port = free_port()
    command = (sys.executable, "-m", "exporter", "demo", "--log.level", "warning")
    process = subprocess.Popen(
        [*command, "--listen", f"127.0.0.1:{port}", "--interval-seconds", "1"],
        stderr=subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(30)


class _Users:
    """Users of the healthy engine: at each scrape they have sent more requests.

    The routed one has a replica with a page of its own, and another session at each scrape.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._reads = 0
        for result in measured():  # what a token costs
            publish(metrics, replace(result, target=HEALTHY))
        self.ask_more()

    def ask_more(self) -> None:
        self._reads += 1
        totals = EngineTotals(
            queried_tokens=1000.0 * self._reads,
            hit_tokens=800.0 * self._reads,
            saved_tokens=800.0 * self._reads,
        )
        view = engine_view(target=HEALTHY, info=replace(INFO, simulated=False), totals=totals)
        snapshot = replace(view.snapshot, at=float(self._reads))
        counts = tuple(self._reads * count for count in RESIDENCY.counts)
        kept = dict.fromkeys(view.histograms, replace(RESIDENCY, counts=counts))
        times = tuple(self._reads * count for count in ENGINE_TTFT.counts)
        histograms = kept | {"ttft": replace(ENGINE_TTFT, counts=times)}
        publish(self._metrics, replace(view, snapshot=snapshot, histograms=histograms))
        publish(self._metrics, replace(view, target=ROUTED, replicas={"a:1": totals}))
        turns = (replace(turn, replica="a:1") for turn in TURNS)
        publish(self._metrics, session(*turns, target=ROUTED))


@contextlib.contextmanager
def containers() -> Iterator[int]:
    """The exporter's own families for two containers and two engines. Yields a port."""
    metrics = Metrics()
    for target in (HEALTHY, FAILING, ROUTED):
        metrics.add(TargetState(target))
    publish(
        metrics,
        container_view(target=HEALTHY, state=LifecycleState.READY, exit_code=None, diagnosed=False),
    )
    users = _Users(metrics)
    publish(metrics, container_view(target=FAILING))
    publish(metrics, failed_engine_view(target=FAILING))
    with serving(metrics, users.ask_more) as port:
        yield port


@contextlib.contextmanager
def scraping(folder: Path, *ports: int) -> Iterator[Stack]:
    """A Prometheus with the rules that scrapes exporters at these ports."""
    config = folder / "prometheus.yml"
    give_up = time.monotonic() + PATIENCE
    config.write_text(_CONFIG.format(exporters=json.dumps([f"127.0.0.1:{p}" for p in ports])))
    config.chmod(0o644)  # Prometheus runs as nobody
    with prometheus(config, give_up, RULES) as url:
        yield Stack(url, give_up)


@pytest.fixture(scope="session")
def scraped():
    return scraping


@pytest.fixture(scope="module")
def stack(tmp_path_factory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        demo() as demo_port,
        containers() as containers_port,
        scraping(folder, demo_port, containers_port) as running,
    ):
        yield running


@pytest.fixture
def dying(tmp_path) -> Iterator[tuple[Stack, Callable[[], None]]]:
    """A Prometheus with one exporter, and what ends that exporter."""
    with contextlib.ExitStack() as exporter:
        port = exporter.enter_context(demo())
        with scraping(tmp_path, port) as running:
            yield running, exporter.close
