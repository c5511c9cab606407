"""A reload with another web configuration file never removes protection."""

from __future__ import annotations

import base64
import signal
import urllib.error
import urllib.request

from web_files import HASH, PASSWORD, TLS, install


def users(folder, name: str, user: str, more: str = "") -> str:
    file = folder / name
    file.write_text(f"{more}basic_auth_users:\n  {user}: {HASH}\n")
    return str(file)


def status(at, user: str | None) -> int:
    request = urllib.request.Request(f"{at.url}/-/healthy")
    if user is not None:
        told = base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
        request.add_header("Authorization", f"Basic {told}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as answer:
        return answer.code


def configured(folder, web_config: str | None):
    file = folder / "exporter.toml"
    named = f'web_config_file = "{web_config}"\n' if web_config else ""
    file.write_text(f'{named}[[targets]]\nname = "t"\nurl = "http://127.0.0.1:9"\n')
    return file


async def reloaded(at, log, event: str) -> str:
    """Send SIGHUP and wait for one of the events. Returns its line."""
    before = log.read_text().count(event)
    at.process.send_signal(signal.SIGHUP)

    async def told() -> bool:
        return log.read_text().count(event) > before

    await at.until(f"{event} is logged", told)
    return [line for line in log.read_text().splitlines() if event in line][-1]


async def test_a_reload_adds_and_changes_passwords_but_never_removes_them(daemon, tmp_path):
    log = tmp_path / "log"
    config = configured(tmp_path, None)
    async with daemon(log, "--config", str(config)) as at:
        assert status(at, None) == 200

        configured(tmp_path, users(tmp_path, "first.yml", "alice"))
        await reloaded(at, log, "config.reloaded")
        assert (status(at, None), status(at, "alice")) == (401, 200)

        configured(tmp_path, users(tmp_path, "second.yml", "bob"))
        await reloaded(at, log, "config.reloaded")
        assert (status(at, "alice"), status(at, "bob")) == (401, 200)

        configured(tmp_path, None)
        line = await reloaded(at, log, "config.reload_refused")
        assert "web_config_file: only a restart can remove it" in line
        open_to_all = tmp_path / "open.yml"
        open_to_all.write_text("http_server_config:\n  headers:\n    X-Frame-Options: deny\n")
        configured(tmp_path, str(open_to_all))
        line = await reloaded(at, log, "config.reload_refused")
        assert "only a restart can remove all of basic_auth_users" in line
        assert (status(at, None), status(at, "bob")) == (401, 200)

        # The exporter watches the file in force.
        users(tmp_path, "second.yml", "carol")

        async def carol_may() -> bool:
            return status(at, "carol") == 200

        await at.until("the second file is watched", carol_may)
        assert await at.stop() == 0


async def test_a_reload_that_turns_tls_on_is_refused_as_a_whole(daemon, tmp_path):
    log = tmp_path / "log"
    config = configured(tmp_path, None)
    install(tmp_path, "first")
    async with daemon(log, "--config", str(config)) as at:
        configured(tmp_path, users(tmp_path, "tls.yml", "alice", TLS))
        config.write_text(config.read_text().replace('name = "t"', 'name = "other"'))
        line = await reloaded(at, log, "config.reload_refused")
        assert "only a restart can turn TLS on or off" in line
        assert status(at, None) == 200
        assert 'target="other"' not in (await at.get("/metrics"))[1]
