"""The daemon from outside: its exports for a healthy engine, and its handling of failures."""

import asyncio
import json
import sys

from exporter.engine.client.engine_client import EngineClient
from exporter.engine.metrics.exposition import parse
from exporter.simulator.faults import faults
from exporter.simulator.server import Simulator, SimulatorSettings

DEAD = "http://127.0.0.1:9"
OFTEN = ("--probe.interval_seconds", "1", "--scrape.interval_seconds", "0.5",
         "--scrape.timeout_seconds", "0.5", "--probe.tokens_per_hour", "0", "--probe.max_cache_turnover_per_hour", "0",
         "--probe.control_ratio", "0")  # fmt: skip


def simulator(**settings: object) -> Simulator:
    options = {"port": 0, "time_scale": 0.0, **settings}
    return Simulator(SimulatorSettings(**options))


async def test_a_session_is_on_metrics_with_the_numbers_of_the_api(daemon, tmp_path):
    async with simulator() as engine, daemon(tmp_path / "log", VLLM_HOST=engine.url) as at:
        await at.until("a session ended", at.sessions)
        session = (await at.sessions())[-1]
        name = session["target"]
        assert [turn["turn"] for turn in session["turns"]] == list(range(1, 9))
        for turn in session["turns"]:
            labels = {"target": name, "scenario": "coding-agent", "turn": str(turn["turn"])}
            for family, key in [
                ("vllm_probe_turn_hit_ratio", "hit_ratio"),
                ("vllm_probe_turn_tokens_saved", "tokens_saved"),
                ("vllm_probe_turn_prompt_tokens", "prompt_tokens"),
                ("vllm_probe_turn_completion_tokens", "completion_tokens"),
                ("vllm_probe_turn_efficiency_ratio", "efficiency_ratio"),
                ("vllm_probe_turn_ttft_seconds", "ttft_seconds"),
                ("vllm_probe_turn_latency_seconds", "latency_seconds"),
            ]:
                assert await at.value(family, **labels) == turn[key]
        assert await at.value("vllm_probe_up", target=name) == 1
        assert await at.value("vllm_engine_info", simulated="true") == 1
        assert (await at.get("/-/ready"))[0] == 200
        status, page = await at.get("/")
        assert status == 200
        assert "SIMULATED" in page


async def test_the_engines_totals_agree_with_its_own_counters(daemon, tmp_path):
    async with simulator(engine_ranks=2) as engine:
        async with daemon(tmp_path / "log", *OFTEN[2:], VLLM_HOST=engine.url) as at:
            await at.until("a session ended", at.sessions)

            async def agrees():
                async with EngineClient(engine.url) as client:
                    own = parse(await client.metrics(), at=0, scrape_seconds=0)
                hits = await at.value("vllm_engine_prefix_cache_hit_tokens_total")
                queried = await at.value("vllm_engine_prefix_cache_queried_tokens_total")
                return (queried, hits) == (own.queried_tokens, own.hit_tokens) and hits > 0

            await at.until("the totals are the server's own", agrees)
            turns = (await at.sessions())[0]["turns"]
            queried = await at.value("vllm_engine_prefix_cache_queried_tokens_total")
            assert queried >= sum(turn["prompt_tokens"] for turn in turns)


async def test_a_server_without_the_details_flag_exports_no_ratio_and_names_the_flag(
    daemon, tmp_path
):
    log = tmp_path / "log"
    async with simulator(enable_prompt_tokens_details=False) as engine:
        async with daemon(log, VLLM_HOST=engine.url) as at:
            await at.until("a session ended", at.sessions)
            assert await at.value("vllm_probe_turn_hit_ratio") is None
            assert await at.value("vllm_probe_cached_tokens_total") is None
            assert await at.value("vllm_probe_turn_prompt_tokens", turn="1") > 0
            assert await at.value("vllm_probe_notice", notice="usage_details_missing") == 1
            assert "--enable-prompt-tokens-details" in (await at.get("/"))[1]
    assert "--enable-prompt-tokens-details" in log.read_text()


async def test_with_prefix_caching_off_the_ratio_is_zero_and_the_reason_is_shown(daemon, tmp_path):
    async with simulator(enable_prefix_caching=False) as engine:
        async with daemon(tmp_path / "log", VLLM_HOST=engine.url) as at:
            await at.until("a session ended", at.sessions)
            assert await at.value("vllm_probe_turn_hit_ratio", turn="5") == 0
            assert await at.value("vllm_probe_lost_tokens_total", cause="disabled") > 0
            assert "disabled" in (await at.get("/"))[1]


async def test_the_gauges_of_a_stopped_engine_disappear_until_it_is_back(daemon, tmp_path):
    log = tmp_path / "log"
    async with simulator() as engine, daemon(log, *OFTEN, VLLM_HOST=engine.url) as at:

        async def is_up(value: float) -> bool:
            return await at.value("vllm_probe_up") == value

        await at.until("the probe is up", lambda: is_up(1))
        queried = await at.value("vllm_engine_prefix_cache_queried_tokens_total")
        engine.inject(faults.Crash())
        await at.until("the probe is down", lambda: is_up(0))
        assert await at.value("vllm_probe_turn_hit_ratio") is None
        assert await at.value("vllm_probe_turn_ttft_seconds") is None
        assert await at.value("vllm_probe_session_failures_total") >= 1

        async def scrape_failed() -> bool:
            return await at.value("vllm_engine_up") == 0

        await at.until("the scrape has failed", scrape_failed)
        assert await at.value("vllm_engine_kv_cache_usage_ratio") is None
        assert await at.value("vllm_engine_prefix_cache_queried_tokens_total") is None
        await engine.recover()
        await at.until("the probe is up again", lambda: is_up(1))
        assert await at.value("vllm_probe_turn_hit_ratio", turn="2") > 0.4
        assert await at.value("vllm_engine_prefix_cache_queried_tokens_total") >= queried
    events = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert events.count("session.recovered") == 1
    assert events.count("scrape.failed") == 1


async def test_a_missing_engine_is_a_failed_probe_not_a_failed_daemon(daemon, tmp_path):
    async with daemon(tmp_path / "log", VLLM_HOST="http://127.0.0.1:9") as at:
        await at.until("a session ended", at.sessions)
        assert await at.value("vllm_probe_up") == 0
        assert await at.value("vllm_probe_session_failures_total", reason="connection_refused") == 1
        assert await at.value("vllm_probe_last_success_timestamp_seconds") is None


async def test_the_daemon_stops_cleanly_during_a_stream(daemon, tmp_path):
    log = tmp_path / "log"
    async with simulator() as engine:
        engine.inject(faults.Hang(after_tokens=2))
        async with daemon(log, VLLM_HOST=engine.url) as at:

            async def in_a_stream() -> bool:
                async with EngineClient(engine.url) as client:
                    page = await client.metrics()
                return parse(page, at=0, scrape_seconds=0).requests_running == 1

            await at.until("a request is under way", in_a_stream)
            assert await asyncio.wait_for(at.stop(), 5) == 0
    assert "Traceback" not in log.read_text()
    assert "exception" not in log.read_text()


async def test_the_log_says_how_many_targets_have_pages_of_their_own(daemon, tmp_path):
    file = tmp_path / "exporter.toml"
    file.write_text("\n".join(f'[[targets]]\nname = "{name}"\nurl = "{DEAD}"' for name in "abc"))
    more = ("--metrics.whole_page_targets", "0")
    async with daemon(tmp_path / "log", "--config", str(file), *more):
        said = (tmp_path / "log").read_text("utf-8")
    (line,) = [each for each in said.splitlines() if "metrics.page_of_each_target" in each]
    assert json.loads(line)["targets"] == 3


async def test_verbose_and_quiet_choose_the_level_of_the_log(daemon, tmp_path):
    levels = {}
    for flag in ("-v", "-q"):
        log = tmp_path / flag
        async with daemon(log, flag, *OFTEN, VLLM_HOST=DEAD) as at:
            await at.until("a session failed", at.sessions)
        levels[flag] = {json.loads(line)["level"] for line in log.read_text().splitlines()}
    assert levels["-v"] >= {"debug", "info", "warning"}
    assert levels["-q"] == {"warning"}


async def test_a_second_daemon_on_the_same_port_fails_with_one_line(daemon, tmp_path):
    async with daemon(tmp_path / "log", VLLM_HOST="http://127.0.0.1:9") as at:
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exporter", "run", "--listen", at.url.removeprefix("http://")),
            *("--set", "targets[0].url=http://127.0.0.1:9"),
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
        )
        _, errors = await second.communicate()
    assert second.returncode == 1
    lines = errors.decode().splitlines()
    assert len(lines) == 1
    assert "another program uses that port" in lines[0]


async def test_secrets_reach_neither_the_log_nor_the_pages(daemon, tmp_path):
    log = tmp_path / "log"
    key = tmp_path / "key"
    key.write_text("s3cret-key\n")
    target = json.dumps([{"name": "t", "url": "http://127.0.0.1:9", "api_key_file": str(key)}])
    arguments = ("--targets", target, "--log.level", "debug")
    async with simulator(api_key="s3cret-key") as engine:
        arguments = ("--targets", target.replace("http://127.0.0.1:9", engine.url), *arguments[2:])
        async with daemon(log, *arguments) as at:
            await at.until("a session ended", at.sessions)
            assert (await at.sessions())[0]["failure"] is None
            for path in ("/", "/metrics", "/api/v1/sessions", "/api/v1/targets"):
                assert "s3cret" not in (await at.get(path))[1]
    assert "s3cret" not in log.read_text()
    assert "paging/cursor.py" not in log.read_text(), "prompts stay out of the log"
