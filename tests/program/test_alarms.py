"""What the daemon exports for a leaking cache, a wedged cache and an unstable template."""

from __future__ import annotations

import pytest

from exporter.simulator.faults import faults
from exporter.simulator.server import Simulator, SimulatorSettings

OFTEN = ("--probe.interval_seconds", "1", "--probe.control_ratio", "0",
         "--probe.retention_gaps_seconds", "[]",
         "--probe.max_cache_turnover_per_hour", "0")  # fmt: skip


def simulator() -> Simulator:
    return Simulator(SimulatorSettings(port=0, time_scale=0.0))


async def test_an_engine_that_ignores_salts_leaks(daemon, tmp_path):
    log = tmp_path / "log"
    async with simulator() as engine:
        engine.inject(faults.IgnoreSalts())
        async with daemon(log, *OFTEN, VLLM_HOST=engine.url) as at:

            async def leaked() -> bool:
                return bool(await at.value("vllm_probe_isolation_leaks_total"))

            await at.until("the leak is counted", leaked)
    assert "isolation.leak" in log.read_text()


async def test_a_wedged_cache_and_its_recovery_are_exported_within_two_sessions(daemon, tmp_path):
    arguments = (*OFTEN, "--probe.isolation_interval_seconds", "0")
    log = tmp_path / "log"
    async with simulator() as engine, daemon(log, *arguments, VLLM_HOST=engine.url) as at:

        async def wedged_is(value: float) -> bool:
            return await at.value("vllm_probe_cache_wedged") == value

        await at.until("the cache is known to hit", lambda: wedged_is(0))
        engine.inject(faults.Wedge())
        before = len(await at.sessions())
        await at.until("the wedge is exported", lambda: wedged_is(1))
        assert '"state": "wedged"' in (await at.get("/api/v1/targets"))[1]
        assert "Unhealthy: cache wedged" in (await at.get("/"))[1]
        since = (await at.sessions())[::-1][before:]
        assert any(
            turn["loss"] and turn["loss"]["cause"] == "wedged"
            for session in since[:2]
            for turn in session["turns"]
        )
        assert await at.value("vllm_probe_lost_tokens_total", cause="wedged") > 0
        assert await at.value("vllm_probe_lost_tokens_total", cause="unexplained") == 0
        engine.clear(faults.Wedge)
        await at.until("the recovery is exported", lambda: wedged_is(0))


async def test_a_moved_system_prompt_is_exported_and_its_text_is_only_on_the_page(daemon, tmp_path):
    log = tmp_path / "log"
    async with simulator() as engine:
        engine.inject(faults.MovingSystemPrompt())
        async with daemon(log, *OFTEN, VLLM_HOST=engine.url) as at:
            await at.until("a session ended", at.sessions)
            assert await at.value("vllm_probe_prefix_stable", scenario="coding-agent") == 0
            assert "You are a careful software engineer" in (await at.get("/"))[1]
            assert "1 target: 1 unhealthy." in (await at.get("/"))[1]
            assert '"state": "prefix_unstable"' in (await at.get("/api/v1/targets"))[1]
            for path in ("/metrics", "/api/v1/sessions", "/api/v1/targets"):
                assert "careful software" not in (await at.get(path))[1]
    assert "careful software" not in log.read_text()
    assert "prefix_unstable" in log.read_text()


@pytest.mark.vllm
async def test_a_real_vllm_keeps_salts_apart_and_is_not_wedged(daemon, vllm_servers, tmp_path):
    url = vllm_servers.get("details32")
    async with daemon(tmp_path / "log", *OFTEN, VLLM_HOST=url) as at:

        async def tested() -> bool:
            return bool(await at.value("vllm_probe_isolation_tests_total"))

        await at.until("salts were tried", tested)
        assert await at.value("vllm_probe_isolation_leaks_total") == 0
        await at.until("a session ended", at.sessions)
        assert await at.value("vllm_probe_cache_wedged") == 0
        assert await at.value("vllm_probe_prefix_stable", scenario="coding-agent") == 1
