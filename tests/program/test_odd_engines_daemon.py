"""The daemon with engines that report less, and with a folder of scenarios."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from engine_proxy import engine_proxy, in_turn

from exporter.cli.main import main
from exporter.simulator.faults import faults
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from pathlib import Path

OFTEN = (
    *("--probe.interval_seconds", "1", "--scrape.interval_seconds", "0.5"),
    *(
        "--scrape.timeout_seconds",
        "0.5",
        "--probe.tokens_per_hour",
        "0",
        "--probe.max_cache_turnover_per_hour",
        "0",
    ),
    *("--probe.control_ratio", "0", "--probe.isolation_interval_seconds", "0"),
    *("--probe.retention_gaps_seconds", "[]"),
)


def simulator(**settings: object) -> Simulator:
    options = {"port": 0, "time_scale": 0.0, **settings}
    return Simulator(SimulatorSettings(**options))


def logged(log: Path, event: str) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in log.read_text().splitlines() if line[:1] == "{"]
    return [entry for entry in entries if entry.get("event") == event]


async def test_ignored_salts_are_reported_everywhere_and_logged_once(daemon, tmp_path):
    log = tmp_path / "log"
    async with simulator() as engine:
        engine.inject(faults.IgnoreSalts())
        async with daemon(log, *OFTEN, VLLM_HOST=engine.url) as at:

            async def whole():
                """The sessions that did not fail because of load, the oldest first."""
                ended = [one for one in await at.sessions() if one["failure"] is None]
                return sorted(ended, key=lambda one: one["started"])

            async def four():
                return len(await whole()) >= 4

            await at.until("four sessions ended", four)
            sessions = await whole()
            assert [one["nonce_in_prompt"] for one in sessions[:4]] == [False, True, True, True]
            for session in sessions:
                assert session["turns"][0]["cached_tokens"] == 0
                assert session["turns"][-1]["efficiency_ratio"] == 1.0
            assert await at.value("vllm_probe_notice", notice="salt_ignored") == 1
            assert await at.value("vllm_probe_turn_hit_ratio", turn="1") == 0
            assert "This server ignores cache_salt" in (await at.get("/"))[1]
    notices = [entry["notice"] for entry in logged(log, "session.notice")]
    assert notices.count("salt_ignored") == 1


async def test_the_counters_replace_usage_only_if_enabled(daemon, tmp_path):
    setting = ("--probe.cached_tokens_from_counters", "true")
    async with simulator(enable_prompt_tokens_details=False) as engine:
        async with daemon(tmp_path / "log", *OFTEN, *setting, VLLM_HOST=engine.url) as at:
            await at.until("a session ended", at.sessions)
            session = (await at.sessions())[-1]
            assert {turn["cached_tokens_source"] for turn in session["turns"]} == {"counters"}
            assert await at.value("vllm_probe_turn_efficiency_ratio", turn="8") == 1.0
            assert await at.value("vllm_probe_notice", notice="cached_from_counters") == 1
        async with daemon(tmp_path / "log2", *OFTEN, VLLM_HOST=engine.url) as at:
            await at.until("a session ended", at.sessions)
            assert await at.value("vllm_probe_turn_hit_ratio") is None
            assert await at.value("vllm_probe_notice", notice="usage_details_missing") == 1


async def test_two_replicas_behind_one_url_count_their_losses_as_mixed(daemon, tmp_path):
    async with (
        simulator() as one,
        simulator() as two,
        engine_proxy(in_turn([one.url, two.url])) as url,
        daemon(tmp_path / "log", *OFTEN, VLLM_HOST=url) as at,
    ):

        async def told():
            return await at.value("vllm_probe_lost_tokens_total", cause="mixed")

        await at.until("tokens were lost to the other replica", told)
        assert await at.value("vllm_probe_notice", notice="mixed") == 1
        for cause in ("evicted", "restart", "reset", "wedged", "unexplained"):
            assert await at.value("vllm_probe_lost_tokens_total", cause=cause) == 0


def folder_of(tmp_path: Path) -> Path:
    """Two conversations. Their names are not in the order of their creation."""
    folder = tmp_path / "traces"
    folder.mkdir()
    for name in ("second", "first"):
        ask = {"role": "user", "content": f"This is the {name} conversation. " * 60}
        answer = {"role": "assistant", "content": "Well."}
        again = {"role": "user", "content": "And then?"}
        (folder / f"{name}.json").write_text(json.dumps([ask, answer, again]))
    return folder


async def test_a_folder_of_scenarios_is_played_in_rotation(daemon, tmp_path):
    folder = folder_of(tmp_path)
    arguments = (*OFTEN, "--probe.scenario", f"{folder}/")
    async with simulator() as engine:
        async with daemon(tmp_path / "log", *arguments, VLLM_HOST=engine.url) as at:

            async def four():
                return len(await at.sessions()) >= 4

            await at.until("four sessions ended", four)
            sessions = sorted(await at.sessions(), key=lambda one: one["started"])
            names = [session["scenario"] for session in sessions]
            assert names[:4] == ["first", "second", "first", "second"]
            assert all(session["turns"][1]["cached_tokens"] > 0 for session in sessions)
            shown = {
                dict(labels)["scenario"]
                for (name, labels) in await at.samples()
                if name == "vllm_probe_turn_hit_ratio"
            }
            assert shown == {"first", "second"}, "the series of each stand until it is played again"


def test_a_single_probe_of_a_folder_plays_its_first_scenario(tmp_path, capsys, monkeypatch):
    folder = folder_of(tmp_path)
    arguments = ["probe", "--simulated", "--json", "--probe.scenario", f"{folder}/"]
    monkeypatch.setattr(sys, "argv", ["vllm-cache-exporter", *arguments])
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["scenario"] == "first"
