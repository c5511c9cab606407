"""`check`: its output and exit code, also against a real vLLM if there is one."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import AT_ONCE, engine_beside, run_command

from exporter.probe.check import TESTS
from exporter.simulator.engine_kinds.table import settings_like
from exporter.simulator.faults import behaviours, faults
from exporter.simulator.server import Simulator, SimulatorSettings

MOVING = Path(__file__).parent / "data" / "moving_system_prompt.jinja"


async def check(*arguments: str, cwd: Path | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a process."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", "check", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
        cwd=cwd,
    )
    output, errors = await process.communicate()
    return process.returncode or 0, output.decode(), errors.decode()


async def verdicts(url: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code, output, _ = await check("--url", url, "--json")
    return code, {test["name"]: test for test in json.loads(output)["tests"]}


async def test_a_healthy_engine_passes_in_eighty_columns_with_exit_code_0(tmp_path):
    async with Simulator(SimulatorSettings(port=0, time_scale=0.0)) as engine:
        code, output, errors = await check("--url", engine.url, cwd=tmp_path)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line.split()[1] for line in lines[:-1] if not line.startswith(" ")] == list(TESTS)
    assert lines[-1].startswith("17 tests: 17 passed, 0 failed, 0 unknown.")
    assert "SIMULATED" in lines[-1]


def test_a_failed_test_has_its_remedy_and_exit_code_1():
    with engine_beside(enable_prompt_tokens_details=False) as engine:
        done = run_command("check", "--url", engine.url)
    assert done.code == 1
    assert "-> Start vLLM with --enable-prompt-tokens-details." in done.output


def test_an_engine_with_a_reuse_rule_passes_with_what_the_rule_gives_up():
    with engine_beside(settings_like("eagle-hybrid", AT_ONCE)) as engine:
        done = run_command("check", "--url", engine.url, "--json")
    tests = {test["name"]: test for test in done.json["tests"]}
    assert done.code == 0
    assert {test["verdict"] for test in tests.values()} == {"pass"}
    assert "the last 528 tokens of each hit are dropped" in tests["reuse_rule"]["evidence"]
    assert "disable_eagle_block_drop" in tests["reuse_rule"]["evidence"]
    assert "EAGLE or MTP gives up 528 tokens a turn" in tests["second_turn"]["evidence"]
    assert "A match unit larger than the cache block gives up" in tests["second_turn"]["evidence"]
    assert tests["wedge"]["evidence"].endswith(" hit 1,056 of 1,056 possible")


def test_of_a_server_that_is_down_one_line_says_that_the_rest_was_not_tried():
    done = run_command("check", "127.0.0.1:9")
    assert done.code == 1
    heads = [line.split()[:2] for line in done.output.splitlines() if not line.startswith(" ")]
    assert heads[:-1] == [["FAIL", "reachable"], ["unknown", "16"]]
    assert done.output.splitlines()[-2] == "unknown 16 more tests: not tried"
    assert "17 tests: 0 passed, 1 failed, 16 unknown." in done.output
    told = run_command("check", "127.0.0.1:9", "--json")
    assert [one["name"] for one in told.json["tests"]] == list(TESTS)


def test_an_unknown_test_is_not_a_failure():
    with engine_beside() as engine:
        engine.inject(faults.NoTokenIds())
        engine.inject(faults.NoTokenize())
        done = run_command("check", "--url", engine.url)
    assert done.code == 0
    assert "unknown token_ids" in done.output


async def test_standard_output_has_only_the_json(tmp_path):
    code, output, errors = await check("--simulated", "--json", cwd=tmp_path)
    shape = json.loads(output)
    assert code == 0
    assert shape["well"] is True
    assert shape["simulated"] is True
    assert [test["name"] for test in shape["tests"]] == list(TESTS)
    assert "17 passed" in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "check needs one engine"),
        (("--target", "nobody"), "check needs one engine"),
        (("--url", "ftp://here"), "url"),
        (("--url", "http://127.0.0.1:9", "--simulated"), "not allowed with"),
    ],
)
def test_wrong_usage_has_exit_code_2_and_says_what_is_allowed(
    tmp_path, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    done = run_command("check", *arguments)
    assert (done.code, done.output) == (2, "")
    assert words in done.errors


def test_ranks_are_pinned_by_an_option_and_by_the_setting_of_a_target(tmp_path):
    with engine_beside(engine_ranks=2) as engine:
        engine.inject(behaviours.Spread("in_turn"))
        loose = run_command("check", "--url", engine.url)
        pinned = run_command("check", "--url", engine.url, "--data-parallel-ranks", "pinned")
        config = tmp_path / "exporter.toml"
        config.write_text(
            f'[[targets]]\nurl = "{engine.url}"\ndata_parallel_ranks = "pinned"\n', "utf-8"
        )
        configured = run_command("check", "--config", str(config))
    assert (loose.code, pinned.code, configured.code) == (1, 0, 0)
    assert 'data_parallel_ranks = "pinned"' in " ".join(loose.output.split())


def test_a_configured_target_is_checked_by_its_name(tmp_path):
    with engine_beside() as engine:
        config = tmp_path / "exporter.toml"
        config.write_text(
            '[[targets]]\nname = "one"\nurl = "http://127.0.0.1:9"\n'
            f'[[targets]]\nname = "two"\nurl = "{engine.url}"\n'
        )
        done = run_command("check", "--config", str(config), "--target", "two")
    assert done.code == 0
    assert f"{engine.url} answers" in done.output


@pytest.mark.vllm
async def test_a_real_vllm_passes_every_test(vllm_servers):
    code, found = await verdicts(vllm_servers.get("details32"))
    assert {name: test["verdict"] for name, test in found.items()} == dict.fromkeys(TESTS, "pass")
    assert code == 0
    assert "enable_prefix_caching=True, block_size=32" in found["flags"]["evidence"]
    assert "another salt none" in found["isolation"]["evidence"]


@pytest.mark.vllm
async def test_a_real_vllm_without_prefix_caching_fails_with_the_flag(vllm_servers):
    code, found = await verdicts(vllm_servers.get("noprefix32"))
    failed = {name for name, test in found.items() if test["verdict"] == "fail"}
    assert (code, failed) == (1, {"prefix_caching", "second_turn"})
    assert "--no-enable-prefix-caching" in found["prefix_caching"]["remedy"]


@pytest.mark.vllm
async def test_a_template_that_moves_the_system_prompt_fails_on_a_real_vllm_by_its_message(
    vllm_servers,
):
    server = await asyncio.to_thread(
        vllm_servers.start,
        *("--block-size", "32", "--enable-prompt-tokens-details", "--chat-template", str(MOVING)),
    )
    try:
        code, found = await verdicts(server.url)
    finally:
        server.stop()
    assert code == 1
    assert {name for name, test in found.items() if test["verdict"] == "fail"} == {"prefix_stable"}
    evidence = found["prefix_stable"]["evidence"]
    assert "system prompt moved" in evidence
    assert "in message 1 (system)" in evidence
    assert "You are a careful software engineer" in evidence
