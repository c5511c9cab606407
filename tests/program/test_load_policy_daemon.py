"""The daemon's load: cold controls, retention, prefill cost, budget and pauses."""

import asyncio

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.metrics.exposition import parse
from exporter.engine.wire.request import ChatRequest, Deadlines
from exporter.simulator.faults import faults
from exporter.simulator.server import Simulator, SimulatorSettings

QUICK = ("--scrape.interval_seconds", "0.5", "--scrape.timeout_seconds", "0.5")


def simulator(**settings: object) -> Simulator:
    options = {"port": 0, "time_scale": 0.0, **settings}
    return Simulator(SimulatorSettings(**options))


async def test_controls_retention_and_the_cost_of_prefill_reach_metrics(daemon, tmp_path):
    arguments = (
        *QUICK,
        *(
            "--probe.interval_seconds",
            "1",
            "--probe.tokens_per_hour",
            "0",
            "--probe.max_cache_turnover_per_hour",
            "0",
        ),
        *("--probe.control_ratio", "1", "--probe.retention_gaps_seconds", "[0.1, 0.5]"),
        *("--set", "targets[0].watts=400"),
        *("--set", "targets[0].price_per_hour=3", "--set", "targets[0].currency=EUR"),
    )
    async with (
        simulator(time_scale=0.2, jitter_ratio=0.0) as engine,
        daemon(tmp_path / "log", *arguments, VLLM_HOST=engine.url) as at,
    ):

        async def cost_is_known() -> bool:
            return bool(await at.value("vllm_engine_prefill_seconds_saved_total"))

        await at.until("prefill seconds were saved", cost_is_known)
        per_token = await at.value("vllm_engine_prefill_seconds_per_token")
        error = await at.value("vllm_engine_prefill_seconds_per_token_error")
        assert 0.00003 < per_token < 0.0002  # 0.0002 s at a fifth of the time, on a busy machine
        assert 0 <= error <= per_token / 4
        samples = await at.samples()
        seconds = await at.value("vllm_engine_prefill_seconds_saved_total")
        assert seconds > 0
        assert await at.value("vllm_engine_prefill_energy_saved_joules_total") > 0
        assert await at.value("vllm_engine_prefill_cost_saved_total", currency="EUR") > 0
        turns = [
            dict(labels)["turn"] for name, labels in samples if name.endswith("_cold_ttft_seconds")
        ]
        assert sorted(turns, key=int) == [str(turn) for turn in range(2, 9)]
        assert await at.value("vllm_probe_controls_total", outcome="cold") >= 7

        async def both_gaps_are_read() -> bool:
            long, short = [
                await at.value("vllm_probe_retention_ratio", gap_seconds=gap)
                for gap in ("0.5", "0.1")
            ]
            return long == short == 1.0

        await at.until("both gaps were read", both_gaps_are_read)
        assert await at.value("vllm_exporter_loop_failures_total") == 0


async def test_a_session_that_costs_more_than_the_budget_is_not_followed_by_another(
    daemon, tmp_path
):
    log = tmp_path / "log"
    arguments = (
        *(*QUICK, "--probe.interval_seconds", "1", "--probe.tokens_per_hour", "5000"),
        *("--probe.max_cache_turnover_per_hour", "0"),
    )
    async with simulator() as engine, daemon(log, *arguments, VLLM_HOST=engine.url) as at:

        async def paused() -> bool:
            return await at.value("vllm_probe_paused", reason="budget") == 1

        await at.until("the probe is paused", paused)
        assert await at.value("vllm_probe_sessions_total") == 1
        assert await at.value("vllm_probe_budget_tokens_per_hour") == 5_000
        assert await at.value("vllm_probe_consumed_tokens_total") > 5_000
        assert await at.value("vllm_probe_up") == 1
    assert log.read_text().count('"probe.paused"') == 1


async def test_no_session_starts_while_users_wait_in_the_queue(daemon, tmp_path):
    async with simulator(max_num_seqs=1) as engine, EngineClient(engine.url) as client:
        engine.inject(faults.Hang(after_tokens=1))
        request = ChatRequest("simulated", [{"role": "user", "content": "hello"}], 4)
        patient = Deadlines(first_token=300, between_tokens=300, whole=300)
        users = [asyncio.create_task(client.chat(request, patient)) for _ in range(2)]

        async def one_waits() -> bool:
            return parse(await client.metrics(), at=0, scrape_seconds=0).requests_waiting == 1

        async with asyncio.timeout(30):
            while not await one_waits():  # noqa: ASYNC110 - an engine tells it only when asked
                await asyncio.sleep(0.01)
        arguments = (*QUICK, "--probe.interval_seconds", "1")
        async with daemon(tmp_path / "log", *arguments, VLLM_HOST=engine.url) as at:

            async def paused(value: float) -> bool:
                return await at.value("vllm_probe_paused", reason="queue") == value

            await at.until("the probe is paused", lambda: paused(1))
            assert await at.value("vllm_probe_sessions_total") == 0
            engine.clear()
            await asyncio.gather(*users)
            await at.until("a session ended", at.sessions)
            assert (await at.sessions())[-1]["failure"] is None
