"""`simulate --like NAME`: which profiles there are, and how one is chosen."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import aiohttp
import pytest
from profiled_server import PATIENCE, like
from sim_client import Client

from exporter.cli.main import main
from exporter.container.decide.diagnosis import DiagnosisInput, diagnose
from exporter.container.decide.records import Cause
from exporter.errors import ConfigError
from exporter.simulator.engine_kinds import table
from exporter.simulator.engine_kinds.starts import FAILING_STARTS
from exporter.simulator.engine_kinds.table import PROFILES, settings_like
from exporter.simulator.faults import behaviours
from exporter.simulator.faults.faults import Hang
from exporter.simulator.server import SimulatorSettings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", PROFILES)
async def test_every_profile_starts_and_shows_that_it_is_simulated(name):
    async with like(name) as (running, client):
        status, version = await client.get("/version")
        assert status in ((503,) if name == "scaling" else (200, 404))
        assert status != 200 or version["simulated"] is True
        active = {fault["fault"] for fault in (await client.get("/faults"))[1]["active"]}
        assert active == {one.name for one in PROFILES[name].behaviours}
        assert running.settings.version.count(".") == 2


def test_an_unknown_name_is_exit_code_2_and_lists_what_is_allowed(capsys):
    for command in ("simulate", "demo"):
        assert main([command, "--like", "egale"]) == 2
        said = capsys.readouterr().err
        assert "--like egale: no such server; allowed: " in said
        assert all(name in said for name in PROFILES)


@pytest.mark.parametrize(
    ("command", "names"),
    [("simulate", [*PROFILES, *FAILING_STARTS]), ("demo", list(PROFILES))],
    ids=["simulate", "demo"],
)
def test_the_help_lists_every_name(capsys, command, names):
    with pytest.raises(SystemExit):
        main([command, "--help-all"])
    told = capsys.readouterr().out
    listed = re.findall(
        r"^  ([a-z][\w.-]+) {2,}", told.partition("names for --like:")[2], re.MULTILINE
    )
    assert listed == names
    assert all(len(line) <= 80 for line in told.splitlines())


@pytest.mark.parametrize(
    ("name", "cause", "evidence"),
    [
        ("start-out-of-memory", Cause.CUDA_OUT_OF_MEMORY, "CUDA out of memory"),
        ("start-shm-full", Cause.SHARED_MEMORY_TOO_SMALL, "shared memory segment"),
        ("start-invalid-value", Cause.INVALID_ARGUMENT, "max_model_len (999999)"),
        ("start-core-failed", Cause.ENGINE_CORE_DIED, "must be divisible by 3"),
    ],
)
def test_a_start_that_fails_is_printed_and_diagnosed(capsys, name, cause, evidence):
    exit_code = main(["simulate", "--like", name])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("SIMULATED")
    found = diagnose(DiagnosisInput(log=lines, exit_code=exit_code))
    assert found.cause is cause
    assert evidence in found.evidence
    assert f"`{cause}`" in FAILING_STARTS[name].said


def test_a_failing_start_is_not_a_server_for_the_demo(capsys):
    for name in FAILING_STARTS:
        assert main(["demo", "--like", name]) == 2
        assert "no such server" in capsys.readouterr().err


def test_the_table_of_the_docs_is_current():
    assert table.table() in (ROOT / "docs" / "simulator.md").read_text("utf-8"), (
        "put the output of `python -m exporter.simulator.engine_kinds.table` into docs/simulator.md"
    )


def test_given_settings_are_kept():
    given = SimulatorSettings(port=0, max_model_len=4000, behaviours=(behaviours.Drafts(),))
    made = settings_like("bare-model-card", given)
    assert (made.port, made.max_model_len) == (0, 4000)
    assert made.behaviours == (behaviours.ModelCard("bare"), behaviours.Drafts())
    assert settings_like("bare-model-card").max_model_len == 2000


def test_an_invalid_release_is_refused():
    for version in ("0.8.4", "latest", ""):
        with pytest.raises(ConfigError, match=r"0\.8\.5 or later"):
            SimulatorSettings(version=version)


def test_every_behaviour_is_part_of_a_profile_or_activated_by_hand():
    used = {type(one) for profile in PROFILES.values() for one in profile.behaviours}
    by_hand = {behaviours.PodGone}
    assert set(behaviours.ALL) == (used | by_hand) - {Hang}


async def test_the_command_serves_a_server_of_that_kind_and_says_so():
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "exporter", "simulate", "--port", "0", "--like", "lora"),
        *("--served-model-name", "base"),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while not (line := await process.stderr.readline()).startswith(b"SIMULATED"):
                pass
        assert line.rstrip().endswith(b"It behaves like lora.")
        url = re.search(rb"http://[^ ]+\d", line)[0].decode()
        async with aiohttp.ClientSession() as session:
            _, listed = await Client(session, url).get("/v1/models")
        assert [card["id"] for card in listed["data"]] == ["base", "base-lora"]
    finally:
        process.kill()
        await process.wait()
