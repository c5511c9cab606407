"""One running stack of compose.yaml with names and ports of its own, and what tests ask of it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[3]
PATIENCE = 120.0  # seconds; only a broken test waits that long


def run(*words: str, env: dict[str, str] | None = None, timeout: float = 300) -> str:
    """What a command writes to its output; a failure shows all that it wrote."""
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


class Stack:
    """One stack of compose.yaml with names and ports of its own."""

    def __init__(self, image: str, ports: list[int], *options: str, **changes: str) -> None:
        self.project = f"vce-test-{secrets.token_hex(4)}"
        self.engine = f"test-{secrets.token_hex(4)}"
        names = ("ENGINE", "EXPORTER", "PROMETHEUS", "ALERTMANAGER", "GRAFANA")
        self.ports = dict(zip(names, ports, strict=True))
        self.options = options
        self.environment = {
            "COMPOSE_PROJECT_NAME": self.project,
            "ENGINE_NAME": self.engine,
            "EXPORTER_IMAGE": image,
            "EXPORTER_PULL_POLICY": "missing",
            **{f"{name}_PORT": str(port) for name, port in self.ports.items()},
            **changes,
        }

    @property
    def container(self) -> str:
        return f"vllm-{self.engine}"

    def compose(self, *words: str, timeout: float = 300) -> str:
        return run(
            "docker", "compose", *self.options, *words, env=self.environment, timeout=timeout
        )

    def up(self) -> float:
        """Start it and wait until it is healthy; how many seconds that took."""
        began = time.monotonic()
        try:
            self.compose("up", "-d", "--wait", "--no-build")
        except AssertionError as error:
            error.add_note(self.compose("logs", "--tail", "40"))
            raise
        return time.monotonic() - began

    def ask(self, what: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """GET a service's page as JSON, or POST `body` to it."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[what]}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or "null")

    def clear_faults(self) -> None:
        url = f"http://127.0.0.1:{self.ports['ENGINE']}/faults"
        request = urllib.request.Request(url, method="DELETE")
        urllib.request.urlopen(request, timeout=10).close()

    def query(self, expression: str) -> dict[str, float]:
        """The values by target of an instant query."""
        asked = urllib.parse.urlencode({"query": expression})
        found = self.ask("PROMETHEUS", f"/api/v1/query?{asked}")["data"]["result"]
        return {each["metric"].get("target", ""): float(each["value"][1]) for each in found}

    def value(self, expression: str) -> float | None:
        return self.query(expression).get(self.engine)

    def alerts(self) -> set[str]:
        """The names of the alerts about this engine that Alertmanager has and does not inhibit."""
        found = self.ask("ALERTMANAGER", "/api/v2/alerts?inhibited=false")
        return {each["labels"]["alertname"] for each in found}

    def notified(self) -> list[dict[str, Any]]:
        """What the example receiver was told."""
        lines = run("docker", "logs", f"{self.project}-alert-log-1").splitlines()
        return [json.loads(line) for line in lines]

    def until(self, what: str, happens: Callable[[], object], patience: float = PATIENCE) -> Any:
        """Wait for a condition; an answer that does not come is not yet one."""
        deadline = time.monotonic() + patience
        last: object = None
        while time.monotonic() < deadline:
            try:
                last = happens()
            except (urllib.error.URLError, OSError) as error:
                last = error
            else:
                if last:
                    return last
            time.sleep(0.5)
        log = self.compose("logs", "--tail", "30", "exporter")
        raise AssertionError(f"not within {patience:g} s: {what}; last seen {last!r}\n{log}")

    def left_behind(self) -> list[str]:
        """Everything of this stack that Docker still knows."""
        label = f"label=com.docker.compose.project={self.project}"
        return [
            *run("docker", "ps", "-aq", "--filter", label).split(),
            *run("docker", "ps", "-aq", "--filter", f"name={self.container}").split(),
            *run("docker", "volume", "ls", "-q", "--filter", label).split(),
            *run("docker", "network", "ls", "-q", "--filter", label).split(),
        ]

    def remove(self) -> None:
        """`down`, and the engine by hand should the exporter have been unable to."""
        try:
            self.compose("down", "-v", "--timeout", "30")
        finally:
            subprocess.run(
                ["docker", "rm", "-f", "-v", self.container], capture_output=True, check=False
            )
