"""The whole daemon with a fake resolver: replicas, reloads, DNS failures."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest
from discovering_daemon import OFTEN, engines_at, running

from exporter.config import Settings

HOST = "vllm.example"
GONE = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
AWAY = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.fixture
def names(monkeypatch):
    """Sets the answer for HOST; the system's resolver answers for other names."""
    told = SimpleNamespace(says=[])
    system = socket.getaddrinfo

    def ask(host, port, *rest, **more):
        if host != HOST:
            return system(host, port, *rest, **more)
        if isinstance(told.says, Exception):
            raise told.says
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 0)) for each in told.says]

    monkeypatch.setattr(socket, "getaddrinfo", ask)
    return told


@pytest.fixture
async def engines():
    async with engines_at("127.0.0.2", "127.0.0.3", "127.0.0.4") as port:
        yield port


def settings_of(port: int, *, dns=None, **more) -> Settings:
    source = {"name": "vllm", "host": HOST, "port": port, "refresh_seconds": 1}
    return Settings(
        **OFTEN,
        discovery={"dns": [source | {"gone_after_seconds": 0} | (dns or {})]},
        **more,
    )


async def test_a_new_replica_is_measured_and_a_removed_one_leaves_no_series(names, engines):
    names.says = ["127.0.0.2", "127.0.0.3"]
    async with running(settings_of(engines)) as at:
        before = await at.until_measured("127.0.0.2", "127.0.0.3")
        names.says = ["127.0.0.4", "127.0.0.3"]
        after = await at.until_measured("127.0.0.3", "127.0.0.4")
        assert "127.0.0.2" not in await at.page()
        assert after["vllm-127.0.0.3"] >= before["vllm-127.0.0.3"]
        targets = await at.values("vllm_exporter_discovery_targets", "source")
        assert targets == {"dns:vllm": 2}


async def test_without_dns_all_targets_stay_and_a_deleted_name_removes_them(names, engines):
    names.says = ["127.0.0.2", "127.0.0.3"]
    async with running(settings_of(engines)) as at:
        before = await at.until_measured("127.0.0.2", "127.0.0.3")
        names.says = AWAY
        await at.until_failed_looks(2)
        during = await at.until_measured("127.0.0.2", "127.0.0.3")
        assert all(during[name] >= count for name, count in before.items())
        names.says = GONE

        async def none_left() -> bool:
            return not await at.sessions()

        await at.until("all are retired", none_left)
        names.says = ["127.0.0.2"]
        await at.until_measured("127.0.0.2")


async def test_a_listed_target_keeps_its_name(names, engines):
    names.says = ["127.0.0.2", "127.0.0.3"]
    listed = [{"name": "vllm-127.0.0.2", "url": f"http://127.0.0.4:{engines}"}]
    async with running(settings_of(engines, targets=listed)) as at:
        await at.until_measured("127.0.0.2", "127.0.0.3")
        page = await at.page()
        assert page.count("vllm_probe_up{") == 2


async def test_a_reload_keeps_unchanged_sources_and_stops_removed_ones(names, engines):
    names.says = ["127.0.0.2"]
    current = {"settings": settings_of(engines)}
    async with running(current["settings"], lambda: current["settings"]) as at:
        before = await at.until_measured("127.0.0.2")
        names.says = AWAY  # a restarted source would have no targets
        await at.reloaded()
        assert (await at.sessions())["vllm-127.0.0.2"] >= before["vllm-127.0.0.2"]

        current["settings"] = settings_of(engines, dns={"gone_after_seconds": 5})
        await at.reloaded()
        assert (await at.sessions())["vllm-127.0.0.2"] >= before["vllm-127.0.0.2"]

        names.says = ["127.0.0.3"]
        current["settings"] = settings_of(engines, dns={"name": "other"})
        await at.reloaded()
        assert "vllm-127.0.0.2" not in await at.page()
        assert "dns:vllm" not in await at.page()

        async def other() -> bool:
            return (await at.values("vllm_probe_up")).keys() == {"other-127.0.0.3"}

        await at.until("the new source's target is measured", other)

        names.says = ["127.0.0.2"]
        current["settings"] = current["settings"].model_copy(
            update={"discovery": type(current["settings"].discovery)()}
        )
        await at.reloaded()
        assert not await at.sessions()
        assert "discovery" not in await at.page()


async def test_a_source_with_changed_settings_keeps_its_targets(names, engines):
    names.says = ["127.0.0.2", "127.0.0.3"]
    current = {"settings": settings_of(engines)}
    async with running(current["settings"], lambda: current["settings"]) as at:
        await at.until_measured("127.0.0.2", "127.0.0.3")
        names.says = AWAY
        await at.until_failed_looks(1)
        current["settings"] = settings_of(engines, dns={"gone_after_seconds": 300})
        await at.reloaded()
        names.says = ["127.0.0.3", "127.0.0.4"]
        await at.until_measured("127.0.0.2", "127.0.0.3", "127.0.0.4")
