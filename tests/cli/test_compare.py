"""`compare`: engines, saved results, cached against cold, Ctrl-C, wrong usage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest
from commands import engine_beside, run_command

from exporter.cli.main import main
from exporter.simulator.engine_kinds.table import settings_like
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractContextManager

PATIENCE = 120.0  # seconds; a bound for what takes a few
FAST = ("--probe.max_tokens", "4")


@contextlib.asynccontextmanager
async def simulator(**settings: object) -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(**{"port": 0, "time_scale": 0.0, **settings})) as one:
        yield one


async def command(name: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", name, *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"]},
    )


async def ran(name: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    process = await command(name, *arguments)
    output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    return process.returncode or 0, output.decode(), errors.decode()


async def test_two_engines_with_different_flags_differ(tmp_path):
    chart = tmp_path / "chart.svg"
    async with (
        simulator(model="one") as first,
        simulator(model="two", enable_prefix_caching=False) as other,
    ):
        code, output, errors = await ran(
            *("compare", f"on={first.url}", f"off={other.url}", "--json", "--sessions", "6"),
            *("--chart", str(chart), *FAST),
        )
    assert code == 0, errors
    told = json.loads(output)
    on, off = told["sides"]
    assert (on["name"], on["model"], on["source"]) == ("on", "one", first.url)
    assert on["spreads"]["hit_ratio"]["median"] > 0.85
    assert off["spreads"]["hit_ratio"]["median"] == 0
    (contrast,) = told["contrasts"]
    assert contrast["differences"]["hit_ratio"]["pairs"] == 6
    assert contrast["differences"]["hit_ratio"]["p"] == 0.03125
    assert told["simulated"] is True
    drawn = chart.read_text()
    assert "SIMULATED" in drawn
    assert "on (one 0.32.0)" in drawn
    assert "session 6 of 6 on off: 0 % of prompts from cache" in errors


def test_engines_with_different_block_sizes_get_prompts_of_the_same_length():
    with engine_beside(block_size=16) as first, engine_beside(block_size=512) as other:
        done = run_command("compare", first.url, other.url, "--json", "--sessions", "2", *FAST)
    assert done.code == 0, done.errors
    sides = json.loads(done.output)["sides"]
    lengths = [side["sessions"][0][0]["prompt_tokens"] for side in sides]
    assert min(lengths) >= 4096  # eight blocks of 512
    assert max(lengths) - min(lengths) < 0.02 * max(lengths)


def test_rounds_are_interleaved_in_an_order_and_its_reverse():
    with engine_beside() as first, engine_beside() as other:
        done = run_command("compare", first.url, other.url, "--sessions", "4", "--json", *FAST)
    assert done.code == 0, done.errors
    order = [
        line.split()[5].rstrip(":")
        for line in done.errors.splitlines()
        if line.startswith("session")
    ]
    assert order[2:4] == order[:2][::-1]
    assert order[6:8] == order[4:6][::-1]
    assert set(order) == {"A", "B"}


async def test_cached_is_faster_than_cold_where_prefill_takes_time():
    times = {"prefill_floor_seconds": 0.01, "prefill_seconds_per_token": 0.0002}
    async with simulator(time_scale=0.5, decode_seconds_per_token=0.0, **times) as engine:
        code, output, errors = await ran(
            "compare", "--cold", "--url", engine.url, "--json", "--sessions", "6", *FAST
        )
    assert code == 0, errors
    told = json.loads(output)
    found = told["contrasts"][0]["differences"]["ttft"]
    # Half of 0.2 ms for each of the 400 tokens and more that the cache serves.
    assert found["low"] > 0.04
    assert found["p"] == 0.03125
    assert told["contrasts"][0]["miss_ttft_seconds"]["estimate"] == found["estimate"]
    penalty = told["sides"][0]["penalty_of_a_miss"]
    assert penalty["seconds_per_token"] == pytest.approx(0.0001, rel=0.5)


def test_saved_results_are_compared_without_an_engine(tmp_path):
    files = []
    with engine_beside() as first, engine_beside(enable_prefix_caching=False) as other:
        for name, engine in (("a", first), ("b", other)):
            done = run_command("probe", "--url", engine.url, "--json", *FAST)
            assert done.code == 0, done.errors
            file = tmp_path / f"{name}.json"
            file.write_text(done.output)
            files.append(str(file))
    done = run_command("compare", *files)
    assert done.code == 0, done.errors
    assert "not played in turn" in " ".join(done.output.split())
    assert "1 pair of sessions cannot show a difference" in " ".join(done.output.split())
    done = run_command("compare", files[0])
    assert done.code == 2
    assert done.output == ""


def test_a_saved_probe_with_controls_is_cached_against_cold(tmp_path):
    file = tmp_path / "cold.json"
    with engine_beside() as engine:
        done = run_command("probe", "--cold", "--url", engine.url, "--json", *FAST)
    file.write_text(done.output)
    done = run_command("compare", "--cold", str(file), "--json")
    assert done.code == 0, done.errors
    assert [side["name"] for side in json.loads(done.output)["sides"]] == ["cached", "cold"]


@pytest.mark.parametrize("name", ["probe", "compare"])
def test_without_the_extra_a_chart_is_refused_before_the_first_session(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([name, "--chart", str(tmp_path / "chart.png")]) == 2
    assert "pip install 'matplotlib>=3.9'" in capsys.readouterr().err


def test_probe_draws_its_session_beside_what_it_prints(tmp_path):
    with engine_beside(model="drawn") as engine:
        done = run_command(
            "probe", "--url", engine.url, "--chart", str(tmp_path / "chart.svg"), "--json", *FAST
        )
    assert done.code == 0, done.errors
    assert json.loads(done.output)["model"] == "drawn"
    assert "SIMULATED: drawn · vLLM 0.32.0" in (tmp_path / "chart.svg").read_text()


def like(name: str) -> AbstractContextManager[Simulator]:
    return engine_beside(settings_like(name, SimulatorSettings(port=0, time_scale=0.0)))


@pytest.mark.parametrize(
    ("server", "remedy"),
    [
        ("no-usage-details", "--enable-prompt-tokens-details"),
        ("vllm-0.8.5", "--enable-prompt-tokens-details"),
        ("pd-decode", "Measure the prefill nodes"),
    ],
)
def test_compare_cold_stops_after_the_turn_that_shows_that_controls_prove_nothing(server, remedy):
    with like(server) as engine:
        done = run_command("compare", "--cold", engine.url, *FAST)
        asked = prompts_of(engine.url)
    assert done.code == 1
    text = " ".join(done.output.split())
    assert "Whether cold is faster than cached is unknown" in text
    assert "Stopped after turn 2." in text
    assert remedy in text
    assert "Turns 2 to 1" not in done.output
    assert "session 1 of" not in done.errors
    assert asked < 4 * 3000, "not six sessions of eight turns with their controls"


def prompts_of(url: str) -> float:
    """Prompt tokens that the engine computed or served."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        page = answer.read().decode()
    return sum(
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith("vllm:prompt_tokens_total")
    )


def test_probe_cold_stops_if_controls_prove_nothing_and_shows_the_turns_so_far():
    with engine_beside(enable_prompt_tokens_details=False) as engine:
        done = run_command("probe", "--cold", "--url", engine.url, "--json", *FAST)
    told = json.loads(done.output)
    assert (done.code, told["interrupted"], len(told["turns"])) == (1, True, 2)
    text = " ".join(done.errors.split())
    assert "--cold: only the number of cached tokens proves that a control was cold" in text
    assert text.count("Start vLLM with --enable-prompt-tokens-details") == 1


def test_without_a_verdict_probe_cold_says_the_remedy_itself():
    with engine_beside(enable_prompt_tokens_details=False) as engine:
        done = run_command("probe", "--cold", "--url", engine.url, "--csv", "--quiet", *FAST)
    assert "Start vLLM with --enable-prompt-tokens-details" in " ".join(done.errors.split())


@pytest.mark.parametrize("server", ["vllm-0.17.1", "omits-empty"])
def test_an_engine_that_leaves_out_a_zero_can_be_compared(server):
    with like(server) as engine:
        done = run_command("compare", "--cold", engine.url, "--sessions", "2", *FAST)
    assert done.code == 0, done.errors
    assert "Turns 2 to 8; turn 1 is the same request on both sides." in done.output
    assert "first TTFT" not in done.output


def test_a_file_without_cold_controls_is_refused_with_advice(tmp_path):
    with engine_beside() as engine:
        done = run_command("probe", "--url", engine.url, "--json", *FAST)
    file = tmp_path / "warm.json"
    file.write_text(done.output)
    done = run_command("compare", "--cold", str(file))
    assert (done.code, done.output) == (2, "")
    assert (
        f"{file}: its sessions have no cold controls. Play them with `probe --cold --json`"
        in done.errors
    )


async def test_ctrl_c_shows_the_complete_rounds():
    async with simulator() as first, simulator() as other:
        process = await command(
            "compare", first.url, other.url, "--sessions", "900", "--json", *FAST
        )
        seen = 0
        while seen < 5:  # the fifth session belongs to the third round
            line = await asyncio.wait_for(process.stderr.readline(), PATIENCE)
            assert line, await process.stdout.read()
            seen += line.startswith(b"session")
        process.send_signal(signal.SIGINT)
        output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 130, errors
    told = json.loads(output)
    assert told["interrupted"] is True
    assert 2 <= told["rounds"] < 900
    assert len({len(side["sessions"]) for side in told["sides"]}) == 1


def test_an_unreachable_engine_ends_the_comparison_at_once():
    with engine_beside() as engine:
        gone = engine.url
    with engine_beside() as engine:
        done = run_command("compare", engine.url, f"gone={gone}", *FAST)
    assert (done.code, done.output) == (1, "")
    assert f"gone ({gone}): The session failed" in done.errors
    assert "connection refused" in done.errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "compare needs two or more engines or files"),
        (("http://127.0.0.1:9",), "compare needs two or more"),
        (("http://127.0.0.1:9", "a.json"), "give either engines or saved results"),
        (("none.json", "no.json"), "none.json: No such file or directory"),
        (("localhost", "other"), "write http://HOST:PORT or HOST:PORT"),
        (("a=x.json", "a=y.json"), "two sides have the same name"),
        (("--sessions", "1", "x", "y"), "one session alone does not show"),
        (("--cold", "--restart-without-caching"), "not allowed with"),
        (
            ("--restart-without-caching", "--url", "http://127.0.0.1:9"),
            "only a managed target can be",
        ),
        (("--chart", "x.pdf", "x", "y"), "must end in .png or .svg"),
        (("--cold", "http://a", "http://b"), "take one engine only"),
        (("ftp://a", "http://b"), "give either engines or saved results"),
    ],
)
def test_wrong_usage_has_a_message_and_exit_code_2(arguments, message, capsys):
    try:
        code = main(["compare", *arguments])
    except SystemExit as ended:  # argparse's own
        code = ended.code
    output, errors = capsys.readouterr()
    assert (code, output) == (2, ""), errors
    assert message in errors


@pytest.mark.vllm
async def test_a_real_engine_answers_sooner_from_its_cache(vllm_servers):
    url = vllm_servers.get("details32")
    code, output, errors = await ran(
        "compare", "--cold", url, "--json", "--sessions", "6", "--probe.max_tokens", "8"
    )
    assert code == 0, errors
    told = json.loads(output)
    cached, cold = told["sides"]
    assert told["simulated"] is False
    assert cached["spreads"]["ttft"]["median"] < cold["spreads"]["ttft"]["median"]
    assert told["contrasts"][0]["differences"]["ttft"]["estimate"] > 0
    assert cached["spreads"]["hit_ratio"]["median"] > 0.8
    assert cold["spreads"]["hit_ratio"]["median"] == 0
