"""SIGTERM during the imports of a command must not be lost in a container's first process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TERM = 1 << (signal.SIGTERM - 1)


def masks(process: subprocess.Popen[str]) -> tuple[bool, bool]:
    """Whether SIGTERM is blocked, and whether it has a handler."""
    text = Path(f"/proc/{process.pid}/status").read_text("utf-8")
    of = dict(line.split(":\t") for line in text.splitlines() if line.startswith("Sig"))
    return bool(int(of["SigBlk"], 16) & TERM), bool(int(of["SigCgt"], 16) & TERM)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "words",
    [
        ("run", "--targets", '[{"url": "http://127.0.0.1:1"}]', "--listen", "127.0.0.1:0"),
        ("simulate", "--port", "0"),
    ],
    ids=["run", "simulate"],
)
def test_an_early_signal_ends_the_command_like_a_later_one(words):
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", *words], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        held = handled = False
        while not (held or handled) and process.poll() is None and time.monotonic() < deadline:
            held, handled = masks(process)
        assert held, "the command was importing and SIGTERM was not held"
        assert not handled
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    finally:
        process.kill()
        process.wait()
