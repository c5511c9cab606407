"""Reloads of the running daemon: all or nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.error
import urllib.request

import pytest

from exporter.simulator.server import Simulator, SimulatorSettings

SETTINGS = """\
{first}

[probe]
interval_seconds = 1
tokens_per_hour = 0
max_cache_turnover_per_hour = 0
control_ratio = 0
retention_gaps_seconds = []
isolation_interval_seconds = 0

[scrape]
interval_seconds = 0.5
timeout_seconds = 0.5
"""
RUBBISH = 'targets = "]\x00[ not TOML'


def simulator() -> Simulator:
    return Simulator(SimulatorSettings(port=0, time_scale=0.0))


class File:
    """The daemon's configuration file."""

    def __init__(self, folder, first="") -> None:
        self.path = folder / "exporter.toml"
        self.first = first

    def write(self, *targets: tuple[str, str], more: str = "") -> None:
        blocks = [f'[[targets]]\nname = "{name}"\nurl = "{url}"\n' for name, url in targets]
        self.path.write_text(SETTINGS.format(first=self.first) + more + "".join(blocks))


def events(log, name: str) -> list[dict]:
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


async def post(at, headers: dict[str, str] | None = None) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        request = urllib.request.Request(
            f"{at.url}/-/reload", data=b"", headers=headers or {}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.read().decode()

    return await asyncio.to_thread(ask)


async def sessions(at, name: str) -> float:
    return await at.value("vllm_probe_sessions_total", target=name) or 0


async def test_an_invalid_file_changes_nothing_and_the_next_valid_one_applies(daemon, tmp_path):
    log, file = tmp_path / "log", File(tmp_path)
    async with simulator() as a, simulator() as b:
        file.write(("a", a.url))
        async with daemon(log, "--config", str(file.path)) as at:
            await at.until("a session ended", at.sessions)
            name = "vllm_exporter_config_last_reload_successful"
            assert await at.value(name) == 1
            loaded = await at.value("vllm_exporter_config_last_reload_success_timestamp_seconds")
            file.path.write_text(RUBBISH)
            at.process.send_signal(signal.SIGHUP)

            async def refused() -> bool:
                return await at.value(name) == 0

            await at.until("the reload was refused", refused)
            (told,) = events(log, "config.reload_refused")
            assert "is not TOML" in told["error"]
            assert "\n" not in told["error"]
            assert (await at.get("/"))[0] == 200
            assert (await at.get("/-/ready"))[0] == 200
            assert (
                await at.value("vllm_exporter_config_last_reload_success_timestamp_seconds")
                == loaded
            )
            before = await sessions(at, "a")
            await at.until("sessions go on", lambda: _more(at, "a", before))

            file.write(("a", a.url), ("b", b.url))
            at.process.send_signal(signal.SIGHUP)
            await at.until("the new target is measured", lambda: _more(at, "b", 0))
            assert await at.value(name) == 1
            assert await at.value("vllm_exporter_config_reloads_total", outcome="success") == 1
            assert await at.value("vllm_exporter_config_reloads_total", outcome="failure") == 1
            assert (
                await at.value("vllm_exporter_config_last_reload_success_timestamp_seconds")
                > loaded
            )
            assert await sessions(at, "a") > before, "it kept its counters"
            assert await at.stop() == 0
    assert "Traceback" not in log.read_text()


async def _more(at, name: str, than: float) -> bool:
    return await sessions(at, name) > than


async def test_a_removed_target_loses_its_series_and_the_others_keep_theirs(daemon, tmp_path):
    file = File(tmp_path, "web_reload_enabled = true")
    async with simulator() as a, simulator() as b:
        file.write(("a", a.url), ("b", b.url))
        async with daemon(tmp_path / "log", "--config", str(file.path)) as at:
            await at.until("a was measured", lambda: _more(at, "a", 1))
            await at.until("b was measured", lambda: _more(at, "b", 1))
            before = await sessions(at, "a")
            file.write(("a", a.url))
            status, text = await post(at)
            assert (status, text) == (
                200,
                "configuration reloaded: targets: 0 added, 1 retired, 0 changed, 1 kept\n",
            )
            page = (await at.get("/metrics"))[1]
            assert 'target="b"' not in page
            assert ':b"' not in page, "nor the series of its loops"
            assert await sessions(at, "a") >= before
            assert {each["target"] for each in await at.sessions()} == {"a"}
            assert (await at.get("/?target=b"))[0] == 404


async def test_a_reload_over_http_is_refused_unless_enabled(daemon, tmp_path):
    file = File(tmp_path)
    file.write(("a", "http://127.0.0.1:9"))
    async with daemon(tmp_path / "log", "--config", str(file.path)) as at:
        status, text = await post(at)
        assert status == 403
        assert "web_reload_enabled" in text
        assert (await at.get("/-/reload"))[0] == 405
        assert await at.value("vllm_exporter_config_reloads_total") == 0


async def test_a_page_of_another_site_cannot_trigger_a_reload(daemon, tmp_path):
    file = File(tmp_path, "web_reload_enabled = true")
    file.write(("a", "http://127.0.0.1:9"))
    async with daemon(tmp_path / "log", "--config", str(file.path)) as at:
        assert (await post(at, {"Origin": "https://evil.example"}))[0] == 403
        assert (await post(at, {"Origin": at.url}))[0] == 200


async def test_the_answer_names_every_mistake_and_no_secret(daemon, tmp_path):
    log, file = tmp_path / "log", File(tmp_path, "web_reload_enabled = true")
    file.write(("a", "http://127.0.0.1:9"))
    async with daemon(log, "--config", str(file.path)) as at:
        file.write(
            ("a", "http://127.0.0.1:9"),
            ("a", "ftp://s3cret:s3cret@127.0.0.1"),
            more='[[targets]]\nname = "k"\nurl = "http://127.0.0.1:9"\napi_key = ["s3cret"]\n',
        )
        status, text = await post(at)
        assert status == 400
        assert "targets[2].name" in text
        assert "targets[2].url" in text
        assert "targets[0].api_key" in text
        assert "stays" in text
        assert "s3cret" not in text
        assert "s3cret" not in log.read_text()
        assert len(events(log, "config.reload_refused")) == 1


async def test_a_change_that_needs_a_restart_is_named_and_nothing_changes(daemon, tmp_path):
    file = File(tmp_path, "web_reload_enabled = true")
    async with simulator() as a:
        file.write(("a", a.url))
        async with daemon(tmp_path / "log", "--config", str(file.path)) as at:
            file.first = "web_reload_enabled = false"
            file.write(("b", a.url))
            status, text = await post(at)
            assert status == 400
            assert "web_reload_enabled: needs a restart to change" in text
            assert 'target="b"' not in (await at.get("/metrics"))[1]


async def test_a_reload_also_reads_the_environment_file_and_the_secrets(daemon, tmp_path):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    log = tmp_path / "log"
    key = secrets / "vllm_exporter_targets__0__api_key"
    key.write_text("wrong")
    async with Simulator(SimulatorSettings(port=0, time_scale=0.0, api_key="right")) as engine:
        (tmp_path / ".env").write_text(
            f"VLLM_HOST={engine.url}\nVLLM_EXPORTER_PROBE__INTERVAL_SECONDS=1\n"
        )
        async with daemon(log, "--secrets-dir", str(secrets)) as at:

            async def refused() -> bool:
                return bool(
                    await at.value("vllm_probe_session_failures_total", reason="unauthorized")
                )

            await at.until("the key is refused", refused)
            key.write_text("right")
            with (tmp_path / ".env").open("a") as file:
                file.write("VLLM_EXPORTER_LOG__LEVEL=debug\n")
            at.process.send_signal(signal.SIGHUP)

            async def well() -> bool:
                return await at.value("vllm_probe_up") == 1

            await at.until("the new key is used", well)
            assert await at.value("vllm_probe_session_failures_total") >= 1, "counters stay"
            await at.until("the log has the new level", lambda: _logged(log, "session.finished"))


async def _logged(log, event: str) -> bool:
    return bool(events(log, event))


async def test_a_longer_history_and_a_lower_turn_limit_apply_at_once(daemon, tmp_path):
    file = File(tmp_path, "web_reload_enabled = true")
    async with simulator() as a:
        file.write(("a", a.url))
        async with daemon(tmp_path / "log", "--config", str(file.path)) as at:
            await at.until("sessions ended", lambda: _more(at, "a", 2))
            assert await at.value("vllm_probe_turn_ttft_seconds", turn="5") is not None
            file.write(
                ("a", a.url), more="turn_label_limit = 2\n[history]\nsessions = 1\nfailures = 0\n"
            )
            text = file.path.read_text()
            file.path.write_text(
                text.replace("turn_label_limit = 2\n", "").replace(
                    "[probe]\n", "[probe]\nturn_label_limit = 2\n"
                )
            )
            assert (await post(at))[0] == 200
            assert len(await at.sessions()) == 1
            assert await at.value("vllm_probe_turn_ttft_seconds", turn="5") is None
            assert await at.value("vllm_probe_turn_ttft_seconds", turn="2") is not None


async def test_a_sighup_before_the_start_does_not_end_the_daemon(tmp_path):
    """Sends the signal as soon as the program can block it."""
    code = (
        "import os, signal, sys\n"
        "from exporter.cli import main\n"
        "build = main.build_parser\n"
        "def hung_up(arguments):\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    return build(arguments)\n"
        "main.build_parser = hung_up\n"
        "sys.argv = ['vllm-cache-exporter', 'run', '--listen', '127.0.0.1:0',\n"
        "            '--log.format', 'json', '--set', 'targets[0].url=http://127.0.0.1:9']\n"
        "main.entry()\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE, cwd=tmp_path
    )
    try:
        async with asyncio.timeout(60):
            seen = ""
            while "config.reloaded" not in seen:
                line = await process.stderr.readline()
                assert line, f"it ended: {process.returncode}\n{seen}"
                seen += line.decode()
        assert seen.index("daemon.started") < seen.index("config.reloaded")
        process.terminate()
        await process.communicate()
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.parametrize("command", ["demo", "simulate"])
async def test_the_demo_ends_with_its_terminal(tmp_path, command):
    listen = ["--listen", "127.0.0.1:0"] if command == "demo" else ["--port", "0"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", command, *listen),
        stderr=asyncio.subprocess.PIPE,
        cwd=tmp_path,
    )
    try:
        async with asyncio.timeout(60):
            seen = ""
            while "simulator.started" not in seen:
                seen += (await process.stderr.readline()).decode()
            process.send_signal(signal.SIGHUP)
            await process.communicate()
        assert process.returncode == -signal.SIGHUP
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
