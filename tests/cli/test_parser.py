"""The help of each command, the spelling of flags, and what is said about unknown words."""

from __future__ import annotations

import re

import pytest
from commands import run_command

from exporter.cli.main import COMMANDS
from exporter.config.schema import keys

SETTINGS = [
    keys.show(leaf.key)
    for leaf in keys.leaves()
    if not any(isinstance(part, int) for part in leaf.key)
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_is_one_screen_with_two_examples(command):
    done = run_command(command, "--help", COLUMNS="80")
    lines = done.output.splitlines()
    assert done.code == 0
    assert len(lines) <= 50
    examples = done.output.partition("examples:\n")[2].splitlines()[:2]
    assert all(line.startswith(f"  vllm-cache-exporter {command}") for line in examples)
    others = [line for line in lines if line not in examples]
    assert all(len(line) <= 80 for line in others)
    assert "docs/" not in done.output  # an installed program has no such files


def test_the_help_of_the_program_is_one_screen_with_two_examples():
    done = run_command("--help", COLUMNS="80")
    assert len(done.output.splitlines()) <= 50
    assert done.output.count("\n  vllm-cache-exporter ") == 2
    listed = [line.split()[0] for line in done.output.splitlines() if re.match("    [a-z]", line)]
    assert listed == list(COMMANDS)


def test_the_help_has_defaults():
    told = " ".join(run_command("run", "--help", COLUMNS="80").output.split())
    assert (
        "--listen VALUE, --web.listen-address VALUE The address of /metrics and the status page (default: 127.0.0.1:9477)"
        in told
    )
    assert "(default: 60)" in told
    assert "(default: coding-agent)" in told


@pytest.mark.parametrize("command", ["run", "probe", "check", "compare", "launch", "config"])
def test_help_all_has_every_setting_with_its_default(command):
    done = run_command(command, "--help-all")
    assert done.code == 0
    assert all(f"--{setting} " in done.output for setting in [*SETTINGS, "env-file"])
    words = " ".join(done.output.split())
    assert "so that newer good sessions do not push them out. (default: 10)" in words
    assert "examples:" in words


def test_what_help_leaves_out_works():
    done = run_command("config", "--history.sessions", "70", "--json")
    assert done.json["settings"]["history"]["sessions"] == 70


@pytest.mark.parametrize(
    "flag",
    ["--probe.interval_seconds", "--probe.interval-seconds", "--probe.interval-seconds={}"],
)
def test_a_setting_may_be_written_with_hyphens(flag):
    given = [flag.format("7")] if "{}" in flag else [flag, "7"]
    done = run_command("config", *given, "--json")
    assert done.json["settings"]["probe"]["interval_seconds"] == 7
    assert done.json["sources"]["probe.interval_seconds"] == (
        "command line, --probe.interval_seconds"
    )


def test_an_option_may_be_written_with_underscores():
    done = run_command("probe", "--simulated", "--fail_under_hit_ratio=2")
    assert (done.code, done.output) == (2, "")
    assert "argument --fail-under-hit-ratio: '2' is not a ratio" in done.errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("prob",), "unknown command prob; did you mean probe?"),
        (("xyz",), "unknown command xyz\n"),
        (("probe", "--urll", "x"), "probe: unknown option --urll; did you mean --url?"),
        (("run", "--probe.intervall_seconds=3"), "did you mean --probe.interval_seconds?"),
        (("check", "--api-keyfile", "f"), "did you mean --api-key-file?"),
        (("config", "--zzz"), "config: unknown option --zzz\n"),
        (("probe", "h:1", "h:2"), "probe: unknown argument h:2\n"),
    ],
)
def test_an_unknown_word_gets_a_suggestion_and_the_usage_of_its_command(arguments, said):
    done = run_command(*arguments)
    assert (done.code, done.output) == (2, "")
    assert said in done.errors
    command = "COMMAND" if "command" in said else arguments[0]
    assert re.match(rf"usage: vllm-cache-exporter {command} .*\n", done.errors)
    assert done.errors.endswith(" --help\n")
    assert len(done.errors.splitlines()) == 3


def test_flags_may_have_the_names_that_they_have_in_prometheus(tmp_path):
    file = tmp_path / "exporter.toml"
    file.write_text('[[targets]]\nname = "named"\nurl = "http://127.0.0.1:8000"\n')
    done = run_command("config", "--config.file", str(file), "--web.listen-address", ":9478")
    assert done.code == 0, done.errors
    assert 'listen = "0.0.0.0:9478"' in done.output
    assert f'name = "named"  # {file}' in done.output
