"""Without a container to watch, Docker's client is never imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

DOCKERS = {"docker", "requests", "urllib3"}


@pytest.mark.parametrize(
    "module",
    [
        "exporter.cli.main",
        "exporter.daemon.app",
        "exporter.container.door",
        "exporter.container.decide.launch",
        "exporter.container.decide.lifecycle",
        "exporter.container.decide.diagnosis",
    ],
)
def test_importing_the_program_does_not_import_docker(module):
    script = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert module in loaded
    assert loaded & DOCKERS == set()
