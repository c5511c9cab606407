"""Output that cannot be written: a full disk, a closed pipe."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from commands import engine_beside

URL = "URL"
"""Stands for the URL of a simulated engine that takes no time."""
FULL = Path("/dev/full")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "exporter", *arguments]


def run(*arguments: str, **streams: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), check=False, text=True, **streams)


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [
        ("config",),
        ("--help",),
        ("--version",),
        ("probe", URL),
        ("probe", URL, "--csv"),
        ("probe", URL, "--json", "-q"),
        ("check", URL),
        ("compare", URL, "--cold", "--sessions", "2"),
    ],
    ids=" ".join,
)
def test_a_full_disk_is_a_sentence_and_exit_code_3(arguments):
    with FULL.open("w") as full, engine_beside() as engine:
        words = [engine.url if word == URL else word for word in arguments]
        done = run(*words, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith(
        "vllm-cache-exporter: the output could not be written: No space left on device\n"
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_disk_that_fills_up_within_a_write_loses_nothing_silently(unbuffered, tmp_path):
    with (tmp_path / "turns.csv").open("w") as file, engine_beside() as engine:
        done = run(
            *("probe", engine.url, "--csv", "-q"),
            stdout=file,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024)),
        )
    assert done.returncode == 3
    assert done.stderr.endswith("the output could not be written: File too large\n")


@pytest.mark.parametrize("arguments", [("config",), ("probe", URL, "--csv", "-q")], ids=" ".join)
def test_a_closed_pipe_is_a_sentence_and_exit_code_3(arguments):
    with engine_beside() as engine:
        words = [engine.url if word == URL else word for word in arguments]
        process = subprocess.Popen(
            command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        process.stdout.close()
        assert process.stderr.read() == (
            "vllm-cache-exporter: the output could not be written: its reader closed the pipe\n"
        )
        assert process.wait() == 3
        process.stderr.close()


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_where_nothing_can_be_said_the_exit_code_still_says_it():
    with FULL.open("w") as full:
        assert run("config", stdout=full, stderr=full).returncode == 3
