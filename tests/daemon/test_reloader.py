"""Reloads: one after the other, told to whoever asked, and none while the daemon ends."""

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
    """A reloader, and an act that the test lets end."""

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


async def test_those_who_ask_during_a_reload_share_the_next_one(scene):
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


async def test_somebody_who_does_not_wait_for_the_answer_keeps_nobody_from_theirs(scene):
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


async def test_a_mistake_of_ours_ends_neither_the_loop_nor_in_a_secret_answer(scene):
    scene.go_on.set()
    scene.error = RuntimeError("hunter2")
    outcome = await scene.reloader.ask()
    assert outcome.status == 500
    assert "hunter2" not in outcome.text
    assert scene.value("failure") == 1
    scene.error = None
    assert (await scene.reloader.ask()).status == 200


async def test_while_the_daemon_ends_nothing_is_read_and_everybody_is_told():
    scene = Scene()
    async with scene.running():
        under_way = scene.reloader.ask()
        await settle()
        waiting = scene.reloader.ask()
    late = scene.reloader.ask()
    for each in (under_way, waiting, late):
        outcome = await each
        assert outcome.status == 503
        assert "stopped" in outcome.text
    assert scene.begun == 1


# What becomes of each setting in a reload.
APPLIED = {
    *("web_config_file", "log", "probe", "scrape", "history", "metrics", "discovery", "targets"),
}
REFUSED = {
    "listen": {"listen": "127.0.0.1:1"},
    "instance": {"instance": "another"},
    "web_reload_enabled": {"web_reload_enabled": True},
    "shutdown": {"shutdown": {"grace_seconds": 2}},
    "page": {"page": {"grafana_url": "http://grafana:3000"}},
}


def test_no_setting_is_passed_over_in_silence():
    """A new one must be applied in exporter/app.py, or refused in exporter/reload.py."""
    assert set(Settings.model_fields) == APPLIED | set(REFUSED)


@pytest.mark.parametrize("name", [*REFUSED, "metrics.http_sd_address"])
def test_what_needs_a_restart_is_refused_by_its_name(name):
    other = REFUSED.get(name, {"metrics": {"http_sd_address": "exporter:9477"}})
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        refuse_what_needs_a_restart(Settings(), Settings(**other))
    refuse_what_needs_a_restart(Settings(**other), Settings(**other))
