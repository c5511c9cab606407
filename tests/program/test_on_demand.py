"""`/probe` of the running daemon: only behind a password, and within the limits of the probe."""

from __future__ import annotations

import asyncio
import base64
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from web_files import HASH, PASSWORD, TLS, write

from exporter.simulator.faults import faults
from exporter.simulator.server import Simulator, SimulatorSettings

ALICE = "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
ONCE_AN_HOUR = {
    "VLLM_EXPORTER_WEB_PROBE_ENABLED": "true",
    "VLLM_EXPORTER_PROBE__INTERVAL_SECONDS": "3600",
    "VLLM_EXPORTER_PROBE__TOKENS_PER_HOUR": "0",
    "VLLM_EXPORTER_PROBE__MAX_CACHE_TURNOVER_PER_HOUR": "0",
}


def ask(url, path, authorization=ALICE, timeout=30):
    headers = {} if authorization is None else {"Authorization": authorization}
    try:
        request = urllib.request.Request(url + path, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as answer:
        return answer.code, answer.read().decode()


@pytest.fixture
async def engine():
    async with Simulator(SimulatorSettings(port=0, time_scale=0.0)) as simulator:
        yield simulator


async def test_a_session_on_demand_needs_the_password_and_shows_its_turns(daemon, engine, tmp_path):
    file = write(tmp_path, f"basic_auth_users:\n  alice: {HASH}\n")
    arguments = ("--web.config.file", str(file))
    environment = {"VLLM_HOST": engine.url, **ONCE_AN_HOUR}
    async with daemon(tmp_path / "log", *arguments, **environment) as at:
        path = "/probe?target=vllm&scenario=tool-trace"
        assert (await asyncio.to_thread(ask, at.url, path, None))[0] == 401
        status, page = await asyncio.to_thread(ask, at.url, path)
        assert status == 200, page
        samples = [
            each for family in text_string_to_metric_families(page) for each in family.samples
        ]
        names = {each.name for each in samples}
        assert {"vllm_probe_up", "vllm_probe_on_demand", "vllm_probe_turn_hit_ratio"} <= names
        assert {each.labels.get("scenario") for each in samples} == {None, "tool-trace"}
        _, text = await asyncio.to_thread(ask, at.url, f"{path}&debug=true")
        assert "Of a SIMULATED engine" in text or "SIMULATED" in text
        assert "user" not in text.lower().split(), "no conversation"
        assert await at.stop() == 0


async def test_a_client_that_hangs_up_leaves_the_engine_alone(daemon, engine, tmp_path):
    file = write(tmp_path, f"basic_auth_users:\n  alice: {HASH}\n")
    environment = {"VLLM_HOST": engine.url, **ONCE_AN_HOUR}
    async with daemon(tmp_path / "log", "--web.config.file", str(file), **environment) as at:
        await asyncio.to_thread(ask, at.url, "/probe?target=vllm")  # after the scheduled session
        engine.inject(faults.Hang())
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(ask, at.url, "/probe?target=vllm", timeout=1)

        async def idle():
            return sum(rank.running for rank in engine.engine.ranks) == 0

        await at.until("the engine has no request", idle)
        assert await at.stop() == 0


@pytest.mark.parametrize(
    ("web_config", "words"),
    [
        (None, "web_probe_enabled: needs authentication"),
        (TLS, 'client_auth_type = "RequireAndVerifyClientCert", in '),
    ],
)
async def test_without_authentication_the_daemon_does_not_start(
    daemon, tmp_path, web_config, words
):
    arguments = ()
    if web_config is not None:
        arguments = ("--web.config.file", str(write(tmp_path, web_config)))
    environment = {"VLLM_HOST": "http://127.0.0.1:9", **ONCE_AN_HOUR}
    async with daemon(tmp_path / "log", *arguments, **environment) as at:
        assert await asyncio.wait_for(at.process.wait(), 30) == 2
    assert words in (tmp_path / "log").read_text()
