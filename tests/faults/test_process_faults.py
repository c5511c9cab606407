"""Faults of the machine and of Docker, each against a daemon of its own."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import random
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon_faults_table import Line, note
from faulted_daemon import PATIENCE, PROGRAM, FaultedDaemon, absurdities, faulted, stale
from faulty_engine import Fault, FaultyEngine, reset, serving
from small_docker import NAME, small_docker
from unsteady_docker import Mood, UnsteadyDocker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from supervised_daemon import Page

pytestmark = pytest.mark.xdist_group("faults")

CLOCK_STEPPED = str(Path(__file__).parents[1] / "support/base/clock_stepped.py")

SETTINGS = """\
[probe]
interval_seconds = 1
tokens_per_hour = 0
max_cache_turnover_per_hour = 0
control_ratio = 0
retention_gaps_seconds = []
isolation_interval_seconds = 0

[scrape]
interval_seconds = 1
timeout_seconds = 1

[[targets]]
name = "t"
url = "{url}"
"""


def configured(folder: Path, url: str, more: str = "") -> Path:
    config = folder / "daemon.toml"
    config.write_text(SETTINGS.format(url=url) + more)
    return config


def well(page: Page) -> bool:
    return page.value("vllm_probe_up") == page.value("vllm_engine_up") == 1


async def endured(
    daemon: FaultedDaemon,
    fault: str,
    exported: str,
    *,
    begin: Callable[[], Awaitable[None] | None],
    shows: Callable[[Page], bool],
    end: Callable[[], Awaitable[None] | None],
    recovered: Callable[[Page], bool] = well,
) -> None:
    """Make the fault, wait until it shows, end it, wait until all is well; and write it down."""
    await daemon.until("all is well", recovered)
    had, began = daemon.memory("VmRSS"), time.monotonic()
    daemon.forget_peak()
    await _done(begin())
    shown = await daemon.until(f"{fault} shows", shows)
    await daemon.until("/metrics was read ten times", lambda _: daemon.answered(began) >= 10)
    assert absurdities(shown) == []
    assert stale(shown, "t") == []
    milliseconds, growth = daemon.milliseconds(began), daemon.memory("VmHWM") - had
    ended = time.monotonic()
    await _done(end())
    page = await daemon.until(f"all is well after {fault}", recovered)
    assert absurdities(page) == []
    assert page.count("vllm_exporter_loop_failures_total") == 0
    assert growth < 50
    note(Line(fault, exported, shown.at - began, milliseconds, growth, page.at - ended))


async def _done(made: Awaitable[None] | None) -> None:
    if made is not None:
        await made


def test_dns_that_is_gone_and_comes_back(tmp_path):
    if subprocess.run(["unshare", "-Urm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespace to give the daemon hosts and a resolver of its own")
    asyncio.run(_dns(tmp_path))


async def _dns(folder: Path) -> None:
    hosts, resolver = folder / "hosts", folder / "resolv.conf"
    known = "127.0.0.1 localhost\n127.0.0.1 engine.test\n"
    hosts.write_text(known)
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    shell = 'mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf && shift 2 && "$@"'
    program = ("unshare", "-Urm", "sh", "-c", f"{shell[:-4]}exec {shell[-4:]}", "sh")
    engine = FaultyEngine()
    config = configured(folder, engine.url.replace("127.0.0.1", "engine.test"))
    async with (
        serving([engine]),
        faulted(config, program=(*program, str(hosts), str(resolver), *PROGRAM)) as daemon,
    ):

        def shows(page: Page) -> bool:
            return all(
                page.count(f"vllm_{what}_failures_total", reason="connect_failed") > 0
                for what in ("probe_session", "engine_scrape")
            )

        await endured(
            daemon,
            "DNS gone",
            "session `connect_failed`, scrape `connect_failed`",
            begin=lambda: _write(hosts, "127.0.0.1 localhost\n"),
            shows=shows,
            end=lambda: _write(hosts, known),
        )
        assert await daemon.stop() == 0


def _write(path: Path, text: str) -> None:
    path.write_text(text)


@pytest.mark.parametrize(("words", "step"), [("forward", 3600.0), ("back", -3600.0)])
async def test_a_clock_that_is_put_by_an_hour(tmp_path, words, step):
    offset = tmp_path / "offset"
    offset.write_text("0")
    program = (sys.executable, CLOCK_STEPPED, str(offset))
    engine = FaultyEngine()
    config = configured(tmp_path, engine.url)
    async with serving([engine]), faulted(config, program=program) as daemon:
        first = await daemon.until("all is well", well)

        def moved(page: Page) -> bool:
            now = page.value("vllm_probe_last_success_timestamp_seconds")
            return now is not None and abs(now - time.time() - step) < 600

        await endured(
            daemon,
            f"clock put {words} by an hour",
            "sessions and scrapes continue",
            begin=lambda: _write(offset, str(step)),
            shows=moved,
            end=lambda: _write(offset, "0"),
        )
        last = await daemon.until(
            "sessions go on",
            lambda page: (
                page.count("vllm_probe_sessions_total")
                > first.count("vllm_probe_sessions_total") + 3
            ),
        )
        assert last.count("vllm_probe_session_failures_total") == 0
        assert last.count("vllm_engine_scrape_failures_total") == 0
        for name in ("vllm_probe_session_duration_seconds", "vllm_engine_scrape_duration_seconds"):
            assert last.count(name) < 600, "no duration is taken from a clock that can be set"
        assert await daemon.stop() == 0


@pytest.mark.parametrize("mood", [Mood.HANGING, Mood.TRICKLING, Mood.BROKEN, None])
async def test_a_docker_that_is_slow_or_broken_or_gone_disturbs_no_probe(mood):
    words = "Docker is gone" if mood is None else f"Docker {mood.value}"
    # A unix socket's path may have 107 characters, which pytest's folders can exceed.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        docker = UnsteadyDocker(folder / "docker.sock", str(folder / "upstream.sock"))
        engine = FaultyEngine()
        config = configured(
            folder,
            engine.url,
            f'mode = "attached"\n[targets.container]\nname = "{NAME}"\n'
            f'docker_host = "{docker.host}"\ndocker_timeout_seconds = 1\n'
            "health_interval_seconds = 1\n",
        )
        async with serving([engine]), small_docker(folder / "upstream.sock"):
            await docker.start()
            async with faulted(config) as daemon:
                sessions = (await daemon.page()).count("vllm_probe_sessions_total")

                async def begin() -> None:
                    if mood is None:
                        await docker.stop()
                    else:
                        docker.mood = mood
                        await docker.cut()

                async def end() -> None:
                    docker.mood = Mood.STEADY
                    if mood is None:
                        await docker.start()

                await endured(
                    daemon,
                    words,
                    '`vllm_container_docker_up` 0, `vllm_container_state{state="unknown"}`',
                    begin=begin,
                    shows=lambda page: page.value("vllm_container_docker_up") == 0,
                    end=end,
                    recovered=lambda page: (
                        well(page)
                        and page.value("vllm_container_docker_up") == 1
                        and page.state == "ready"
                    ),
                )
                last = await daemon.page()
                assert last.count("vllm_probe_sessions_total") > sessions
                assert last.count("vllm_probe_session_failures_total") == 0
                assert last.count("vllm_container_restarts_total") == 0
                assert await daemon.stop() == 0
            await docker.stop()


async def test_a_full_disk_takes_nothing_from_a_daemon_that_writes_no_file(tmp_path):
    """No file may grow by a byte, and the log goes to a device that is always full."""
    folder = tmp_path / "home"
    folder.mkdir()
    engine = FaultyEngine()
    config = configured(folder, engine.url)
    limited = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
    program = (sys.executable, "-c", limited + "os.execv(sys.argv[1], sys.argv[1:])", *PROGRAM)
    async with (
        serving([engine]),
        faulted(config, program=program, log_to="/dev/full") as daemon,
    ):
        began = time.monotonic()
        first = await daemon.until("all is well", well)
        had = daemon.memory("VmRSS")
        engine.fault = Fault(chat=reset)
        await daemon.until("a warning was due", lambda page: page.value("vllm_probe_up") == 0)
        await engine.recover()
        last = await daemon.until("all is well again", well)
        assert last.count("vllm_exporter_loop_failures_total") == 0
        assert last.count("vllm_probe_sessions_total") > first.count("vllm_probe_sessions_total")
        note(
            Line(
                "disk full: no file can grow, the log's device is full",
                "sessions and scrapes continue; nothing is written",
                None,
                daemon.milliseconds(began),
                daemon.memory("VmHWM") - had,
                None,
            )
        )
        await daemon.stop()
    assert [path.name for path in folder.rglob("*")] == ["daemon.toml"]


def _with_descriptors(count: int) -> tuple[str, ...]:
    """The daemon's command line, with so many descriptors from its start."""
    limited = (
        f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({count},) * 2); "
    )
    return (sys.executable, "-c", limited + "os.execv(sys.argv[1], sys.argv[1:])", *PROGRAM)


async def test_a_crowd_of_idle_clients_leaves_descriptors_for_the_engine(tmp_path):
    engine = FaultyEngine()
    config = configured(tmp_path, engine.url)
    async with serving([engine]), faulted(config, program=_with_descriptors(64)) as daemon:
        before = await daemon.until("all is well", well)
        host, port = daemon.url.removeprefix("http://").split(":")
        with contextlib.ExitStack() as crowd:
            for _ in range(100):
                client = await asyncio.to_thread(socket.create_connection, (host, int(port)), 5)
                crowd.enter_context(client)
            page = await daemon.until(
                "sessions and scrapes continue",
                lambda page: (
                    page.count("vllm_probe_sessions_total")
                    > before.count("vllm_probe_sessions_total") + 2
                ),
            )
        assert page.count("vllm_probe_session_failures_total") == 0
        assert page.count("vllm_engine_scrape_failures_total") == 0
        assert await daemon.stop() == 0


async def test_a_daemon_without_a_descriptor_left_says_so_and_comes_back(tmp_path):
    engine = FaultyEngine()
    config = configured(tmp_path, engine.url)
    async with serving([engine]), faulted(config) as daemon:
        await daemon.until("all is well", well)
        had, began = daemon.memory("VmRSS"), time.monotonic()
        kept = await asyncio.to_thread(_kept_open, daemon.url)
        process = daemon.process.pid
        soft, hard = resource.prlimit(process, resource.RLIMIT_NOFILE)
        try:
            # What is open stays open, and nothing more can be opened.
            resource.prlimit(process, resource.RLIMIT_NOFILE, (3, hard))
            took = await asyncio.to_thread(_told_on, kept, daemon)
            shown = time.monotonic()
        finally:
            resource.prlimit(process, resource.RLIMIT_NOFILE, (soft, hard))
            kept.close()
        ended = time.monotonic()
        page = await daemon.until("all is well again", well)
        assert page.count("vllm_exporter_loop_failures_total") == 0
        assert absurdities(page) == []
        assert "no_descriptors" in daemon.log.read_text()
        note(
            Line(
                "file descriptors exhausted (none can be opened)",
                "session `no_descriptors`, scrape `no_descriptors`",
                shown - began,
                (statistics.median(took), max(took)),
                daemon.memory("VmHWM") - had,
                page.at - ended,
            )
        )
        assert await daemon.stop() == 0


RUBBISH = {
    "a MiB of random bytes": random.Random(7).randbytes(1 << 20),
    "TOML with mistakes": b'[probe]\ninterval_seconds = "soon"\n[[targets]]\nurl = "ftp://t"\n',
    "nothing": None,
}


@pytest.mark.parametrize("words", RUBBISH)
async def test_a_configuration_file_replaced_by_rubbish_keeps_the_old_one_in_force(tmp_path, words):
    rubbish = RUBBISH[words]
    engine = FaultyEngine()
    config = configured(tmp_path, engine.url)
    good = config.read_text()
    async with serving([engine]), faulted(config) as daemon:
        began = await daemon.until("all is well", well)

        def replace() -> None:
            config.unlink() if rubbish is None else config.write_bytes(rubbish)
            daemon.process.send_signal(signal.SIGHUP)

        def mend() -> None:
            config.write_text(good)
            daemon.process.send_signal(signal.SIGHUP)

        await endured(
            daemon,
            f"configuration file replaced by {words} on reload",
            "`vllm_exporter_config_last_reload_successful` 0; the old configuration stays in force",
            begin=replace,
            shows=lambda page: page.value("vllm_exporter_config_last_reload_successful") == 0,
            end=mend,
            recovered=lambda page: (
                well(page) and page.value("vllm_exporter_config_last_reload_successful") == 1
            ),
        )
        last = await daemon.until(
            "sessions go on",
            lambda page: (
                page.count("vllm_probe_sessions_total")
                > began.count("vllm_probe_sessions_total") + 2
            ),
        )
        assert last.count("vllm_probe_session_failures_total") == 0
        assert len(daemon.events("config.reload_refused")) == 1
        assert await daemon.stop() == 0


def _kept_open(url: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.request("GET", "/metrics")
    connection.getresponse().read()
    return connection


def _told_on(kept: http.client.HTTPConnection, daemon: FaultedDaemon) -> list[float]:
    """Read the page on a connection that stands until it says that no descriptor is left.

    Returns the milliseconds that its answers took.
    """
    give_up, took = time.monotonic() + PATIENCE, []
    while time.monotonic() < give_up:
        began = time.monotonic()
        kept.request("GET", "/metrics")
        answer = kept.getresponse()
        text = answer.read().decode()
        took.append((time.monotonic() - began) * 1000)
        assert answer.status == 200
        lines = [line for line in text.splitlines() if 'reason="no_descriptors"' in line]
        if len(lines) == 2 and not any(line.endswith(" 0.0") for line in lines):
            return took
        time.sleep(0.1)
    raise AssertionError(f"never out of descriptors\n{daemon.tail()}")
