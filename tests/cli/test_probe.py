"""`probe`: in a terminal, in a pipe, interrupted, and without an engine."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import functools
import io
import json
import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from commands import AT_ONCE, engine_beside, run_command
from terminals import in_terminal as in_terminal_of

from exporter.cli.main import main
from exporter.simulator.engine_kinds.table import settings_like
from exporter.simulator.faults import faults
from exporter.simulator.server import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from terminals import Terminal

PATIENCE = 60.0  # seconds; a bound for what takes a few
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")


@contextlib.asynccontextmanager
async def simulator(**settings: object) -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(**{"port": 0, "time_scale": 0.0, **settings})) as one:
        yield one


def command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "exporter", "probe", *arguments)


async def probe(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error, both of them pipes."""
    process = await asyncio.create_subprocess_exec(
        *command(*arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **environment},
    )
    output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    return process.returncode or 0, output.decode(), errors.decode()


in_terminal = functools.partial(in_terminal_of, "probe")


@pytest.mark.parametrize("columns", [80, 160])
async def test_a_terminal_shows_the_progress_and_then_a_table_that_fits(columns):
    async with simulator() as engine:
        shown = await in_terminal(columns, "--url", engine.url, "--cold")
    assert shown.code == 0
    assert "turn 1 of 8  waiting for the first token" in shown.written
    assert "the same prompt without cache" in shown.written
    assert COLOUR.search(shown.written)
    assert all(len(line) <= columns for line in shown.lines)
    rows = [line.split() for line in shown.lines if re.match(r" +\d ", line)]
    assert [row[0] for row in rows] == [str(n) for n in range(1, 9)]
    assert ("full" in rows[7], "cold" in rows[0]) == (True, True)
    assert shown.text.startswith("coding-agent against simulated at http://127.0.0.1:")
    assert "waiting" not in shown.text
    assert "95 % interval" in shown.text
    assert shown.text.endswith("Nothing to change.")


async def test_without_colour_the_words_are_the_same():
    async with simulator() as engine:
        shown = await in_terminal(80, "--url", engine.url, NO_COLOR="1")
    assert shown.code == 0
    assert not COLOUR.search(shown.written)
    assert shown.text.count(" full") == 7


@pytest.mark.parametrize("environment", [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}])
async def test_a_terminal_without_utf8_gets_ascii_and_the_whole_result(environment):
    async with simulator() as engine:
        shown = await in_terminal(160, "--url", engine.url, **environment)
    assert shown.code == 0
    assert shown.written.isascii()
    assert "?" not in shown.text
    assert "# hit - lost . new" in shown.text
    assert shown.text.endswith("Nothing to change.")


async def test_ctrl_c_prints_the_turns_that_finished():
    async with simulator(time_scale=1.0) as engine:
        typed = []

        def at_turn_three(terminal: Terminal) -> None:
            if "turn 3 of 8" in terminal.written and not typed:
                typed.append(terminal.type(b"\x03"))

        shown = await in_terminal(80, "--url", engine.url, on_output=at_turn_three)
    assert shown.code == 130
    assert "Traceback" not in shown.written
    finished = [line for line in shown.lines if re.match(r" +\d ", line)]
    assert 2 <= len(finished) < 8
    assert f"interrupted after {len(finished)} turns. In these, the cache served" in shown.text
    assert "Nothing to change" not in shown.text


@pytest.mark.parametrize(
    ("option", "number", "expected"),
    [("--json", signal.SIGINT, 130), ("--csv", signal.SIGTERM, 143)],
)
async def test_an_interrupted_session_is_valid_json_or_csv_with_the_turns_so_far(
    option, number, expected
):
    async with simulator() as engine:
        engine.inject(faults.Hang(after_tokens=0))
        process = await asyncio.create_subprocess_exec(
            *command("--url", engine.url, option),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"]},
        )
        await asyncio.wait_for(_asked(engine), PATIENCE)
        process.send_signal(number)
        output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == expected
    assert "Interrupted before the first turn finished" in errors.decode()
    if option == "--csv":
        assert list(csv.DictReader(io.StringIO(output.decode()))) == []
        return
    shape = json.loads(output)
    assert (shape["interrupted"], shape["turns"], shape["failure"]) == (True, [], None)


async def _asked(engine: Simulator) -> None:
    """Wait until a chat request hangs in the engine."""
    while not any(rank.load for rank in engine.engine.ranks):  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0.02)


async def test_a_pipe_gets_only_the_result_and_standard_error_the_progress():
    async with simulator() as engine:
        code, output, errors = await probe("--url", engine.url)
    assert code == 0
    assert "\x1b" not in output + errors
    assert all(len(line) <= 80 for line in output.splitlines())
    assert "SIMULATED" in output
    assert [line[:11] for line in errors.splitlines()] == [f"turn {n} of 8" for n in range(1, 9)]


def test_json_and_csv_have_the_same_turns():
    with engine_beside() as engine:
        first = run_command("probe", "--url", engine.url, "--json", "--cold")
        second = run_command("probe", "--url", engine.url, "--csv", "--cold")
    shape, rows = first.json, list(csv.DictReader(io.StringIO(second.output)))
    assert second.code == 0
    assert "Nothing to change" in first.said
    assert shape["interrupted"] is False
    exact = ("turn", "prompt_tokens", "cached_tokens", "ideal_cached_tokens", "completion_tokens")
    for turn, row in zip(shape["turns"], rows, strict=True):
        assert [row[name] for name in exact] == [str(turn[name]) for name in exact]
        assert (row["simulated"], row["scenario"]) == ("true", "coding-agent")
        assert (row["cold_ttft_seconds"] == "") is (turn["turn"] == 1)
        assert (turn["cold_ttft_seconds"] is None) is (turn["turn"] == 1)
    assert (rows[0]["efficiency_ratio"], rows[1]["efficiency_ratio"]) == ("", "1.0")


@pytest.mark.parametrize("form", ["{url}", "{url}/v1", "{host_port}", "{host_port}/v1/"])
@pytest.mark.parametrize("option", [(), ("--url",)])
def test_the_url_needs_no_option_and_no_scheme_and_may_end_in_v1(form, option):
    with engine_beside() as engine:
        given = form.format(url=engine.url, host_port=engine.url.removeprefix("http://"))
        done = run_command("probe", *option, given)
    assert done.code == 0
    assert f" at {engine.url}\n" in done.output


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"VLLM_API_KEY": "right"}, 0),
        ({"OPENAI_API_KEY": "right"}, 0),
        ({"VLLM_API_KEY": "right", "OPENAI_API_KEY": "wrong"}, 0),
        ({"OPENAI_API_KEY": "wrong"}, 1),
        ({}, 1),
    ],
)
def test_the_api_key_is_that_of_other_clients(variables, code):
    with engine_beside(api_key="right") as engine:
        done = run_command("probe", engine.url, **variables)
    assert done.code == code
    assert "Bearer" not in done.output + done.errors
    assert (code == 0) or "Give --api-key-file FILE or set VLLM_API_KEY" in done.said


def test_a_key_of_two_lines_is_wrong_usage_and_is_not_shown():
    done = run_command("probe", "127.0.0.1:9", OPENAI_API_KEY="one\ntwo")
    assert (done.code, done.output) == (2, "")
    assert done.errors == "environment variable OPENAI_API_KEY: must be one line of text\n"


def test_a_key_of_the_command_wins_over_the_environment(tmp_path):
    (tmp_path / "key").write_text("right")
    with engine_beside(api_key="right") as engine:
        by_file = run_command("probe", engine.url, "--api-key-file", str(tmp_path / "key"),
                              VLLM_API_KEY="wrong")  # fmt: skip
        by_header = run_command("probe", engine.url, "--header", "Authorization: Bearer right",
                                VLLM_API_KEY="wrong")  # fmt: skip
    assert (by_file.code, by_header.code) == (0, 0)


def test_a_configured_target_gets_no_key_that_it_does_not_have(tmp_path):
    with engine_beside(api_key="right") as engine:
        (tmp_path / "exporter.toml").write_text(f'[[targets]]\nurl = "{engine.url}"\n')
        done = run_command("probe", "--config", str(tmp_path / "exporter.toml"), "--target", "vllm",
                           VLLM_API_KEY="right")  # fmt: skip
    assert done.code == 1


def test_several_sessions_have_a_row_each_and_their_spread():
    with engine_beside() as engine:
        shown = run_command("probe", engine.url, "--sessions", "3")
        told = run_command("probe", engine.url, "--sessions", "3", "--json")
        table = run_command("probe", engine.url, "--sessions", "2", "--csv", "--totals")
    assert (shown.code, told.code, table.code) == (0, 0, 0)
    assert [line.split()[0] for line in shown.output.splitlines() if " 100 % " in line] == [
        *("1", "2", "3", "median", "quartile", "quartile"),
    ]
    assert "3 sessions. All are alike:" in shown.output
    assert shown.errors.count("  session ") == 3
    assert len(told.json["sessions"]) == told.json["spreads"]["hit_ratio"]["count"] == 3
    turns = [row["turn"] for row in csv.DictReader(io.StringIO(table.output))]
    assert turns == [*map(str, range(1, 9)), "all"] * 2


def test_one_of_several_sessions_below_a_limit_sets_the_exit_code():
    with engine_beside() as engine:
        engine.inject(faults.Wedge())
        done = run_command("probe", engine.url, "--sessions", "2", "--fail-under-efficiency", "0.9")
    assert done.code == 1
    assert done.errors.count("is below --fail-under-efficiency 0.9.") == 1


def test_no_second_session_is_played_where_nothing_answers():
    done = run_command("probe", "127.0.0.1:9", "--sessions", "5")
    assert done.code == 1
    assert "1 session, which failed:" in done.output
    assert "nothing listens at 127.0.0.1:9). Check that vLLM runs" in " ".join(done.output.split())


def test_watching_writes_each_session_at_once():
    with engine_beside() as engine:
        watch = ("probe", engine.url, "--watch", "--sessions", "2", "--probe.interval-seconds", "1")
        lines = run_command(*watch)
        told = run_command(*watch, "--json")
        table = run_command(*watch, "--csv")
    assert (lines.code, told.code, table.code) == (0, 0, 0)
    assert [line[10:19] for line in lines.output.splitlines()[:2]] == ["session 1", "session 2"]
    assert "2 sessions. All are alike:" in lines.output
    first, second = map(json.loads, told.output.splitlines())
    assert (first["url"], second["efficiency_ratio"]) == (engine.url, 1.0)
    assert len(list(csv.DictReader(io.StringIO(table.output)))) == 16


async def test_ctrl_c_ends_watching_with_the_sessions_so_far():
    async with simulator() as engine:
        typed = []

        def after_the_second(terminal: Terminal) -> None:
            if "session 2: " in terminal.written and not typed:
                typed.append(terminal.type(b"\x03"))

        shown = await in_terminal(80, engine.url, "--watch", "--probe.interval-seconds", "1",
                                  on_output=after_the_second)  # fmt: skip
    assert shown.code == 130
    assert "Interrupted. 2 sessions. All are alike:" in shown.text
    assert "Traceback" not in shown.written


def test_the_limits_set_the_exit_code():
    with engine_beside() as engine:
        met = run_command("probe", "--url", engine.url, "--fail-under-efficiency", "1",
                          "--fail-under-hit-ratio", "0.5")  # fmt: skip
        engine.inject(faults.Wedge())
        missed = run_command(
            "probe", "--url", engine.url, "--fail-under-efficiency", "0.9", "--json"
        )
    assert met.code == 0
    assert missed.code == 1
    assert "efficiency of 0 % is below --fail-under-efficiency 0.9." in missed.errors
    assert "restart vLLM" in missed.errors
    assert len(missed.json["turns"]) == 8


def test_an_engine_that_gives_up_tokens_by_its_rule_meets_the_limit_and_is_told_the_flag():
    with engine_beside(settings_like("eagle", AT_ONCE)) as engine:
        shown = run_command("probe", "--url", engine.url, "--fail-under-efficiency", "1")
        told = run_command("probe", "--url", engine.url, "--csv")
    assert shown.code == 0
    words = " ".join(shown.output.split())
    assert "all that the engine's reuse rule allows." in words
    assert "EAGLE or MTP gives up 16 tokens a turn, 1.9 % of this session's prompt tokens." in words
    assert "disable_eagle_block_drop" in words
    assert "Nothing to change" not in words
    assert "attain." in shown.output
    assert "16 given up by the engine's rule" in shown.errors
    rows = list(csv.DictReader(io.StringIO(told.output)))
    assert [row["rule_lost_speculative_decoding_tokens"] for row in rows] == ["0", *["16"] * 7]
    assert {row["loss_cause"] for row in rows} == {""}


def test_an_unknown_ratio_fails_its_limit_with_a_sentence():
    with engine_beside() as engine:
        engine.inject(faults.NoUsage())
        engine.inject(faults.NoLogStats())
        plain = run_command("probe", "--url", engine.url)
        demanded = run_command("probe", "--url", engine.url, "--fail-under-hit-ratio", "0")
    assert plain.code == 0
    assert demanded.code == 1
    sentence = "The session's hit ratio is unknown, so it does not reach --fail-under-hit-ratio 0."
    assert sentence in demanded.said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fail-under-efficiency", "80"), "'80' is not a ratio from 0 to 1"),
        (("--fail-under-hit-ratio", "nan"), "'nan' is not a ratio from 0 to 1"),
        (("--json", "--csv"), "not allowed with argument"),
        (("--sessions", "0"), "'0' is not a number from 1 to 1000"),
    ],
)
def test_wrong_usage_has_exit_code_2_and_what_is_allowed(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["probe", *arguments])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--url", "gpu-box"), 'command line, --url = "gpu-box"'), ((), "--simulated")],
)
def test_an_invalid_or_missing_url_is_wrong_usage_too(arguments, said):
    done = run_command("probe", *arguments)
    assert (done.code, done.output) == (2, "")
    assert said in done.errors
    assert "Traceback" not in done.errors


def test_without_an_engine_at_the_url_there_is_advice_and_nothing_is_simulated():
    with engine_beside() as engine:
        url = engine.url
    done = run_command("probe", "--url", url, "--json")
    assert done.code == 1
    assert done.json["failure"]["reason"] == "connection_refused"
    assert done.json["simulated"] is False
    assert "nothing listens at 127.0.0.1" in done.said
    assert "vllm-cache-exporter probe --simulated" in done.said


def test_a_wrong_model_is_reported_with_the_served_ones():
    with engine_beside() as engine:
        done = run_command("probe", "--url", engine.url, "--model", "gpt-9")
    assert (done.code, done.output) == (1, "")
    assert "does not serve 'gpt-9', it serves simulated" in done.said
    assert "Give --model a name that the server lists" in done.said


def test_for_a_server_without_details_the_output_names_the_flag(tmp_path):
    with engine_beside(enable_prompt_tokens_details=False) as engine:
        done = run_command("probe", "--url", engine.url)
    assert done.code == 0
    assert "--enable-prompt-tokens-details" in done.output


async def test_a_session_that_fails_after_some_turns_shows_them_and_the_reason():
    async with simulator(time_scale=1.0) as engine:

        def fail_soon(terminal: Terminal) -> None:
            if "turn 3 of 8" in terminal.written:
                engine.inject(faults.Errors())

        shown = await in_terminal(80, "--url", engine.url, on_output=fail_soon)
    finished = [line for line in shown.lines if re.match(r" +\d ", line)]
    assert shown.code == 1
    assert 2 <= len(finished) < 8
    said = f"the session failed in turn {len(finished) + 1}: server error (HTTP 500"
    assert said in shown.text
    assert "Before that, the cache served" in shown.text


def test_simulated_needs_no_engine_and_is_marked_twice():
    done = run_command("probe", "--simulated")
    assert done.code == 0
    assert done.output.count("SIMULATED") == 2


@pytest.mark.vllm
async def test_a_real_engine_fills_the_table_and_a_wrong_model_is_named(vllm_servers):
    url = vllm_servers.get("details32")
    shown = await in_terminal(80, "--url", url, "--cold", "--fail-under-efficiency", "1")
    assert shown.code == 0
    assert "SIMULATED" not in shown.text
    assert shown.text.count(" full") == 7
    assert "all that it could have" in shown.text
    wrong = await in_terminal(80, "--url", url, "--model", "gpt-9")
    assert wrong.code == 1
    assert "it serves tiny" in wrong.text


@pytest.mark.vllm
async def test_for_a_real_engine_without_details_the_output_names_the_flag(vllm_servers):
    plain = await in_terminal(80, "--url", vllm_servers.get("plain32"))
    assert plain.code == 0
    assert "--enable-prompt-tokens-details" in plain.text
