"""The soak itself, on a few sessions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


LEAK = """
import copy, runpy, sys
sys.path.insert(0, "soak")
from exporter.metrics.history import History
kept, add = [], History.add
def add_and_keep(self, result):
    kept.append([copy.deepcopy(result) for _ in range(4)])  # a short run finds only a large leak
    add(self, result)
History.add = add_and_keep
sys.argv[1:] = ["--sessions", "400", "--targets", "2"]
runpy.run_path("soak/soak.py", run_name="__main__")
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_few_hundred_sessions_leave_the_daemon_as_it_was():
    run = python("soak/soak.py", "--sessions", "300", "--targets", "2")
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    sessions, failed = re.search(
        r"^(\d+) sessions .* of which (\d+) failed", run.stdout, re.MULTILINE
    ).groups()
    assert int(sessions) >= 300
    assert (
        0 < int(failed) < int(sessions) / 2
    )  # the engine was made to fail, and was well in between
    assert run.stdout.count(": flat") == 5


def test_a_run_that_is_too_short_to_judge_is_not_called_flat():
    run = python("soak/soak.py", "--sessions", "2", "--targets", "1")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "TOO SHORT" in run.stdout


def test_sessions_that_are_never_let_go_are_found():
    run = python("-c", LEAK)
    assert run.returncode == 1, run.stdout + run.stderr
    assert re.search(r"^objects: .*: NOT FLAT$", run.stdout, re.MULTILINE), run.stdout
