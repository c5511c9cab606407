"""The scripts that complete commands and options."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from commands import run_command

from exporter.cli.main import COMMANDS


def completed(tmp_path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    script = tmp_path / "completion.bash"
    script.write_text(run_command("completion", "bash").output)
    ask = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '_vllm_cache_exporter; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-uc", ask, "bash", str(script), "vllm-cache-exporter", *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_options_and_choices(tmp_path):
    assert completed(tmp_path, "") == [*COMMANDS, "--help", "--version"]
    assert completed(tmp_path, "pro") == ["probe"]
    assert completed(tmp_path, "probe", "--fail") == [
        "--fail-under-efficiency",
        "--fail-under-hit-ratio",
    ]
    assert completed(tmp_path, "run", "--probe.interval") == ["--probe.interval_seconds"]
    assert completed(tmp_path, "probe", "--data-parallel-ranks", "") == ["unpinned", "pinned"]
    assert completed(tmp_path, "completion", "") == ["bash", "zsh", "fish"]
    assert completed(tmp_path, "probe", "--chart", "") == []  # then bash offers files


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_has_every_command_and_option(shell, tmp_path):
    done = run_command("completion", shell)
    assert done.code == 0
    assert all(command in done.output for command in COMMANDS)
    names = ("cold", "api-key-file", "junit", "probe.interval_seconds", "no-color")
    flag = "-l {}" if shell == "fish" else "--{}"
    assert all(flag.format(name) in done.output for name in names)
    assert (" -s q -l quiet " if shell == "fish" else "-q") in done.output
    assert "%(" not in done.output
    blocks = [re.findall(rf"^ *{word}\b", done.output, re.MULTILINE) for word in ("case", "esac")]
    assert len(blocks[0]) == len(blocks[1])  # also where this shell is not installed
    if shutil.which(shell) is not None:
        script = tmp_path / "script"
        script.write_text(done.output)
        subprocess.run([shell, "-n", str(script)], check=True)


def test_another_shell_is_wrong_usage():
    done = run_command("completion", "tcsh")
    assert (done.code, done.output) == (2, "")
    assert "invalid choice: 'tcsh'" in done.errors
