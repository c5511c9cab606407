"""`--quiet`, `--no-color`, `--github` and `--junit` of `check` and `probe`."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from commands import engine_beside, run_command
from terminals import in_terminal

from exporter.simulator.faults import faults

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")


def test_check_says_what_failed_to_github_and_junit(tmp_path):
    report = tmp_path / "junit.xml"
    with engine_beside(enable_prompt_tokens_details=False) as engine:
        done = run_command("check", engine.url, "--github", "--junit", str(report), "--json")
    assert done.code == 1
    assert done.json["well"] is False
    (annotation,) = re.findall(
        "^::error title=check%3A usage_details::.*", done.errors, re.MULTILINE
    )
    assert "Start vLLM with --enable-prompt-tokens-details." in annotation
    root = ET.fromstring(report.read_text("utf-8"))  # noqa: S314 - our own
    assert root.get("tests") == str(len(done.json["tests"]))
    failed = [case.get("name") for case in root if case.find("failure") is not None]
    assert failed == [one["name"] for one in done.json["tests"] if one["verdict"] == "fail"]


def test_probe_says_which_limit_was_missed(tmp_path):
    report = tmp_path / "junit.xml"
    with engine_beside() as engine:
        done = run_command("probe", engine.url, "--fail-under-hit-ratio", "0.99", "--github",
                           "--junit", str(report))  # fmt: skip
    assert done.code == 1
    assert "::error title=probe%3A session 1 hit ratio::The session's hit ratio of " in done.errors
    root = ET.fromstring(report.read_text("utf-8"))  # noqa: S314 - our own
    assert (root.get("tests"), root.get("failures")) == ("2", "1")


def test_without_a_failure_there_is_no_annotation():
    with engine_beside() as engine:
        done = run_command("check", engine.url, "--github")
    assert (done.code, done.errors.strip()) == (0, "")


def test_a_junit_report_that_cannot_be_written_is_wrong_usage_before_the_work(tmp_path):
    done = run_command("check", "127.0.0.1:9", "--junit", str(tmp_path / "none" / "junit.xml"))
    assert (done.code, done.output) == (2, "")
    assert "its folder does not exist" in done.errors


def test_quiet_leaves_the_verdict_of_probe_and_the_failures_of_check():
    with engine_beside() as engine:
        probed = run_command("probe", engine.url, "--quiet")
        told = run_command("probe", engine.url, "-q", "--json")
        checked = run_command("check", engine.url, "-q")
        engine.inject(faults.Wedge())
        wedged = run_command("check", engine.url, "--quiet")
    assert (probed.code, probed.errors) == (0, "")
    assert probed.output.startswith("SIMULATED engine: the cache served ")
    assert len(probed.output.splitlines()) < 4
    assert (told.errors, told.json["interrupted"]) == ("", False)
    assert (checked.code, checked.output, checked.errors) == (0, "", "")
    assert wedged.code == 1
    names = [line.split()[:2] for line in wedged.output.splitlines() if not line.startswith(" ")]
    assert names[0][0] == "FAIL"
    assert all(name[0] == "FAIL" for name in names[:-1])
    assert " failed, " in wedged.output.splitlines()[-1]


def test_quiet_leaves_the_verdict_of_compare():
    with engine_beside() as engine:
        done = run_command("compare", "--cold", engine.url, "--sessions", "2", "--quiet")
    assert (done.code, done.errors) == (0, "")
    assert " ".join(done.output.split()).startswith("The first token of cold comes ")
    assert len(done.output.splitlines()) < 4


@pytest.mark.parametrize("command", ["probe", "check"])
async def test_no_color_writes_no_colors_in_a_terminal(command):
    shown = await in_terminal(command, 80, "--simulated", "--no-color")
    assert shown.code == 0
    assert not COLOUR.search(shown.written)


async def test_check_shows_its_progress_and_leaves_only_the_findings():
    shown = await in_terminal("check", 60, "--simulated")
    assert shown.code == 0
    assert "one session, turn 8 of 8" in shown.written
    assert "turn 8 of 8" not in shown.text
    assert shown.text.endswith("0 unknown. The engine is SIMULATED.")
    assert all(len(line) <= 60 for line in shown.lines)
