"""Replicas that start and stop: found by Docker's DNS, and by the labels of their containers."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request

import pytest
from deploy_stack import PATIENCE, run
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.docker

QUICK = {
    "VLLM_EXPORTER_PROBE__INTERVAL_SECONDS": "2",
    "VLLM_EXPORTER_PROBE__TOKENS_PER_HOUR": "0",
    "VLLM_EXPORTER_PROBE__MAX_CACHE_TURNOVER_PER_HOUR": "0",
    "VLLM_EXPORTER_PROBE__RETENTION_GAPS_SECONDS": "[]",
    "VLLM_EXPORTER_SCRAPE__INTERVAL_SECONDS": "1",
    "VLLM_EXPORTER_SCRAPE__TIMEOUT_SECONDS": "1",
}
SOON = {"refresh_seconds": 1, "gone_after_seconds": 2}
SCRAPE = "io.vllm-cache-exporter.scrape"


class Place:
    """A network of simulated engines that share one name in its DNS."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.name = f"vce-test-{secrets.token_hex(4)}"
        self.containers: list[str] = []
        run("docker", "network", "create", self.name)

    def start(self, *options: str, arguments: tuple[str, ...]) -> str:
        """Start a container in the network, and return its name."""
        name = f"{self.name}-{len(self.containers)}"
        self.containers.append(name)
        words = ("docker", "run", "-d", "--name", name, "--network", self.name)
        run(*words, *options, self.image, *arguments)
        return name

    def engine(self, *options: str) -> str:
        arguments = ("simulate", "--host", "0.0.0.0", "--port", "8000")  # noqa: S104 - its own
        return self.start("--network-alias", "vllm.models", *options, arguments=arguments)

    def address(self, container: str) -> str:
        return json.loads(run("docker", "inspect", container))[0]["NetworkSettings"]["Networks"][
            self.name
        ]["IPAddress"]

    def close(self) -> None:
        if self.containers:
            run("docker", "rm", "-f", *self.containers)
        run("docker", "network", "rm", self.name)


@pytest.fixture
def place(image):
    made = Place(image)
    yield made
    made.close()


class Page:
    """The metrics page of an exporter."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/metrics"

    def by_target(self, name: str) -> dict[str, float]:
        """The samples of a name by target; empty while nothing answers."""
        try:
            with urllib.request.urlopen(self.url, timeout=10) as answer:
                page = answer.read().decode()
        except OSError:
            return {}
        return {
            sample.labels["target"]: sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and "target" in sample.labels
        }

    def sessions(self) -> dict[str, float]:
        return self.by_target("vllm_probe_sessions_total")

    def until(self, what: str, true) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {PATIENCE:g} s: {what}; there are {self.sessions()}")
            time.sleep(0.2)

    def until_measured(self, *targets: str) -> dict[str, float]:
        """Wait until exactly these targets exist and each has played a successful session."""
        self.until(
            f"{targets} are measured",
            lambda: (
                self.sessions().keys() == set(targets)
                and self.by_target("vllm_probe_up") == dict.fromkeys(targets, 1.0)
            ),
        )
        return self.sessions()

    def nothing_left_of(self, target: str) -> bool:
        with urllib.request.urlopen(self.url, timeout=10) as answer:
            return f'{target}"' not in answer.read().decode()


def test_replicas_behind_a_dns_name_are_added_and_retired(place):
    engines = [place.engine(), place.engine()]
    names = [f"vllm-{place.address(each)}" for each in engines]
    source = json.dumps([{"name": "vllm", "host": "vllm.models", **SOON}])
    variables = QUICK | {"VLLM_EXPORTER_DISCOVERY__DNS": source}
    options = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    exporter = place.start("-p", "127.0.0.1::9477", *options, arguments=("run",))
    port = run("docker", "port", exporter, "9477/tcp").split(":")[-1]
    page = Page(int(port))
    before = page.until_measured(*names)

    third = place.engine()
    names.append(f"vllm-{place.address(third)}")
    page.until_measured(*names)

    run("docker", "rm", "-f", engines[0])
    page.until("the first is retired", lambda: names[0] not in page.sessions())
    page.until_measured(*names[1:])
    assert page.nothing_left_of(names[0])
    assert page.sessions()[names[1]] > before[names[1]]


@contextlib.contextmanager
def exporter_on_this_machine(port: int, log, source: dict):
    variables = QUICK | {"VLLM_EXPORTER_DISCOVERY__DOCKER": json.dumps([source])}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "exporter", "run", "--listen", f"127.0.0.1:{port}"],
            stderr=file,
            cwd=log.parent,
            env={"PATH": os.environ["PATH"], **variables},
        )
    try:
        yield Page(port)
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_containers_with_the_label_are_added_and_retired(place, free_ports, tmp_path):
    mine = f"{SCRAPE}={place.name}"
    options = ("--label", mine)
    first, second = place.engine(*options), place.engine(*options)
    place.engine()  # without the label
    bad = place.engine(*options, "--label", f"{SCRAPE}.port=web")
    source = {"label": mine, "address": "network", **SOON}
    log = tmp_path / "log"
    with exporter_on_this_machine(free_ports(1)[0], log, source) as page:
        before = page.until_measured(first, second)
        named = place.engine(*options, "--label", f"{SCRAPE}.name=qwen")
        page.until_measured(first, second, "qwen")
        run("docker", "stop", "-t", "0", first)
        page.until("the first is retired", lambda: first not in page.sessions())
        assert page.nothing_left_of(first)
        assert page.until_measured(second, "qwen")[second] > before[second]
        run("docker", "start", first)
        page.until_measured(first, second, "qwen")
        run("docker", "rm", "-f", named)
        page.until_measured(first, second)
    told = log.read_text()
    assert told.count("discovery.left_out") == 1
    assert f"{SCRAPE}.port: must be a whole number" in told
    assert f"container={bad}" in told


def test_an_attached_container_that_exits_stays_a_target(place, free_ports, tmp_path):
    mine = f"{SCRAPE}={place.name}"
    engine = place.engine("-p", "127.0.0.1::8000", "--label", mine)
    source = {"label": mine, "address": "published", "mode": "attached", **SOON}
    with exporter_on_this_machine(free_ports(1)[0], tmp_path / "log", source) as page:
        page.until_measured(engine)
        run("docker", "kill", engine)
        page.until(
            "its exit is told",
            lambda: page.by_target("vllm_container_exit_code") == {engine: 137.0},
        )
        page.until(
            "it is down, and there", lambda: page.by_target("vllm_engine_up") == {engine: 0.0}
        )
        run("docker", "rm", "-f", engine)
        page.until("it is retired when it is removed", lambda: not page.sessions())
