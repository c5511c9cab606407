"""Alertmanager accepts its configuration, and routes and inhibits correctly."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "deploy" / "alertmanager"


@pytest.fixture(scope="module")
def amtool(request):
    """The command of amtool, on this machine or in the image, and the path of the file."""
    if shutil.which("amtool"):
        return ["amtool"], str(FOLDER / "alertmanager.yml")
    image = request.getfixturevalue("have_image")("prom/alertmanager:v0.33.1")
    inside = "/etc/alertmanager"
    words = ["docker", "run", "--rm", "--network", "none", "-v", f"{FOLDER}:{inside}:ro"]
    return [*words, "--entrypoint", "amtool", image], f"{inside}/alertmanager.yml"


@pytest.mark.docker
def test_it_is_valid(amtool):
    words, path = amtool
    done = subprocess.run([*words, "check-config", path], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"4 inhibit rules" in done.stdout


@pytest.mark.docker
@pytest.mark.parametrize("severity", ["critical", "warning"])
def test_every_severity_reaches_the_example_receiver(amtool, severity):
    words, path = amtool
    done = subprocess.run(
        [*words, "config", "routes", "test", f"--config.file={path}", f"severity={severity}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "log")
