"""Reloads run one after the other, answer every request, and are refused at the end."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from structlog.testing import capture_logs

from exporter.clock import SystemClock
from exporter.config import Settings
from exporter.daemon.reload import Reloader, refuse_what_needs_a_restart
from exporter.errors import ConfigError, ExporterError
from exporter.metrics.state.exporter import Reloads


class Scene:
    """A reloader whose action ends when the test allows it."""

    def __init__(self) -> None:
        self.state = Reloads()
        self.reloader = Reloader(self.act, self.state, SystemClock())
        self.go_on = asyncio.Event()
        self.begun = 0
        self.now = 0
        self.error: Exception | None = None

    async def act(self) -> str:
        self.begun += 1
        self.now += 1
        assert self.now == 1, "one at a time"
        try:
            await self.go_on.wait()
            if self.error is not None:
                raise self.error
        finally:
            self.now -= 1
        return "all"

    def value(self, outcome: str) -> int:
        return self.state.outcomes[outcome]

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.reloader.run())
        try:
            yield self
        finally:
            self.reloader.end()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def scene():
    async with Scene().running() as made:
        yield made


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_requests_during_a_reload_share_the_next_one(scene):
    first = scene.reloader.ask()
    await settle()
    later = [scene.reloader.ask() for _ in range(5)]
    await settle()
    assert scene.begun == 1
    assert not any(each.done() for each in (first, *later))
    scene.go_on.set()
    outcomes = await asyncio.gather(first, *later)
    assert {each.status for each in outcomes} == {200}
    assert scene.begun == 2, "what was written after the first one began is read too"
    assert scene.value("success") == 2


async def test_a_client_that_disconnects_does_not_affect_other_clients(scene):
    impatient, patient = scene.reloader.ask(), scene.reloader.ask()
    await settle()
    impatient.cancel()
    scene.go_on.set()
    assert (await patient).status == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("probe.interval_seconds: must be a number"), 400),
        (ExporterError("no descriptor is left"), 500),
    ],
)
async def test_a_mistake_is_answered_logged_once_and_counted(scene, error, status):
    scene.go_on.set()
    scene.error = error
    with capture_logs() as logs:
        outcome = await scene.reloader.ask()
    assert outcome.status == status
    assert str(error) in outcome.text
    assert [each["error"] for each in logs] == [str(error)]
    assert scene.value("failure") == 1
    assert scene.state.last_successful is False
    scene.error = None
    await scene.reloader.ask()
    assert scene.state.last_successful is True


async def test_an_unexpected_exception_ends_no_loop_and_leaks_nothing_to_the_client(scene):
    scene.go_on.set()
    scene.error = RuntimeError("hunter2")
    outcome = await scene.reloader.ask()
    assert outcome.status == 500
    assert "hunter2" not in outcome.text
    assert scene.value("failure") == 1
    scene.error = None
    assert (await scene.reloader.ask()).status == 200


async def test_reloads_are_refused_while_the_daemon_stops():
    scene = Scene()
    async with scene.running():
        under_way = scene.reloader.ask()
        await settle()
        waiting = scene.reloader.ask()
    late = scene.reloader.ask()
    for each in (under_way, waiting, late):
        outcome = await each
        assert outcome.status == 503
        assert "stopping" in outcome.text
    assert scene.begun == 1


# What a reload does with each setting.
APPLIED = {
    *("web_config_file", "log", "probe", "scrape", "history", "metrics", "discovery", "targets"),
}
REFUSED = {
    "listen": {"listen": "127.0.0.1:1"},
    "instance": {"instance": "another"},
    "web_probe_enabled": {"web_probe_enabled": True},
    "web_reload_enabled": {"web_reload_enabled": True},
    "shutdown": {"shutdown": {"grace_seconds": 2}},
    "reuse_rules_file": {"reuse_rules_file": "/var/lib/vllm-cache-exporter/rules.json"},
    "otlp": {"otlp": {"interval_seconds": 2}},
    "page": {"page": {"grafana_url": "http://grafana:3000"}},
}


def test_no_changed_setting_is_ignored_silently():
    """Apply a new setting in exporter/daemon/app.py, or refuse it in exporter/daemon/reload.py."""
    assert set(Settings.model_fields) == APPLIED | set(REFUSED)


@pytest.mark.parametrize("name", [*REFUSED, "metrics.http_sd_address"])
def test_a_change_that_needs_a_restart_is_refused_with_its_key(name):
    other = REFUSED.get(name, {"metrics": {"http_sd_address": "exporter:9477"}})
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        refuse_what_needs_a_restart(Settings(), Settings(**other))
    refuse_what_needs_a_restart(Settings(**other), Settings(**other))
