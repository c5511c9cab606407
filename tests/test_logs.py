"""Log lines show no local variables, and no command loads charts before it needs them."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from exporter import logs

FAILS = """
from exporter.cli.main import build_parser
build_parser(["run"])
from exporter import logs
import structlog
logs.configure({format!r}, "info")

def call(secret):
    raise RuntimeError("it broke")

try:
    call("hunt" + "er2")
except RuntimeError:
    structlog.get_logger().exception("loop.failed")
"""

IMPORTS = """
import sys
from exporter.cli.main import build_parser
build_parser(["{command}"])
print("matplotlib" in sys.modules)
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_shows_no_local_variable(log_format):
    log = python(FAILS.format(format=log_format)).stderr
    assert "it broke" in log
    assert "call" in log
    assert "hunter2" not in log


@pytest.mark.parametrize(("value", "coloured"), [("", True), ("1", False)])
def test_the_console_log_has_no_colors_with_no_color(value, coloured, monkeypatch):
    monkeypatch.setenv("NO_COLOR", value)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    logs.configure("console", "info")
    try:
        (handler,) = logging.getLogger().handlers
        line = handler.format(logging.LogRecord("a", logging.INFO, "", 0, "said", None, None))
    finally:
        logging.getLogger().handlers.clear()
    assert ("\x1b[" in line) is coloured


@pytest.mark.parametrize("command", ["run", "demo", "simulate", "probe"])
def test_no_command_loads_matplotlib_before_it_draws(command):
    assert python(IMPORTS.format(command=command)).stdout == "False\n"
