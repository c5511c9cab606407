"""The daemon with a vLLM that omits 0 from usage, and its own share of the counters."""

from __future__ import annotations

import asyncio
import urllib.request

import pytest

from exporter.engine.metrics.exposition import parse
from exporter.simulator.faults import faults
from exporter.simulator.server import Simulator, SimulatorSettings

EVERYTHING = (
    *("--probe.interval_seconds", "1", "--scrape.interval_seconds", "0.5"),
    *(
        "--scrape.timeout_seconds",
        "0.5",
        "--probe.tokens_per_hour",
        "0",
        "--probe.max_cache_turnover_per_hour",
        "0",
    ),
    *("--probe.control_ratio", "1", "--probe.isolation_interval_seconds", "1"),
    *("--probe.retention_gaps_seconds", "[0.1, 0.5]"),
)


def simulator(**settings: object) -> Simulator:
    options = {"port": 0, "time_scale": 0.0, **settings}
    return Simulator(SimulatorSettings(**options))


async def counted(url: str) -> tuple[float | None, float | None]:
    """Queried and hit tokens on the engine's own page."""

    def read() -> bytes:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            return bytes(answer.read())

    page = parse(await asyncio.to_thread(read), at=0.0, scrape_seconds=0.0)
    return page.queried_tokens, page.hit_tokens


@pytest.mark.parametrize("version", ["0.22.1", "0.32.0"])
async def test_without_users_the_exporters_share_is_everything(daemon, tmp_path, version):
    async with (
        simulator(version=version) as engine,
        daemon(tmp_path / "log", *EVERYTHING, VLLM_HOST=engine.url) as at,
    ):

        async def all_was_measured() -> bool:
            samples = await at.samples()
            names = {name for name, _ in samples}
            cold = await at.value("vllm_probe_controls_total", outcome="cold") or 0
            tested = await at.value("vllm_probe_isolation_tests_total") or 0
            return cold >= 7 and tested >= 1 and "vllm_probe_retention_ratio" in names

        await at.until("controls, isolation and retention were measured", all_was_measured)
        assert await at.value("vllm_probe_retention_ratio") in (1.0, 2.0)
        assert await at.value("vllm_probe_turn_hit_ratio", turn="1") == 0
        assert await at.value("vllm_probe_isolation_leaks_total") == 0
        assert await at.value("vllm_probe_notice", notice="usage_details_missing") is None
        assert await at.value("vllm_probe_notice", notice="cached_tokens_unknown") is None

        async def same() -> bool:
            """Wait for two equal scrapes: between them the engine got no request."""
            before = await counted(engine.url)
            own = (
                await at.value("vllm_probe_queried_tokens_total"),
                await at.value("vllm_probe_hit_tokens_total"),
            )
            return before == await counted(engine.url) == own

        await at.until("the share is all that was counted", same)


async def test_a_wedged_cache_is_found_on_an_old_engine(daemon, tmp_path):
    async with (
        simulator(version="0.22.1") as engine,
        daemon(tmp_path / "log", *EVERYTHING, VLLM_HOST=engine.url) as at,
    ):
        await at.until("a session ended", at.sessions)
        engine.inject(faults.Wedge())

        async def lost() -> float | None:
            return await at.value("vllm_probe_lost_tokens_total", cause="wedged")

        async def hits_nothing() -> bool:
            return await at.value("vllm_probe_turn_hit_ratio", scenario="coding-agent") == 0

        await at.until("tokens were lost", lost)
        await at.until("no turn of the last session hit", hits_nothing)
        assert await at.value("vllm_probe_cache_wedged") == 1
        assert await at.value("vllm_probe_notice", notice="usage_details_missing") is None
        assert await at.value("vllm_probe_notice", notice="cached_tokens_unknown") is None
