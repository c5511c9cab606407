"""`run` loads no library that only other commands or daemons with containers need."""

from __future__ import annotations

import json
import subprocess
import sys

# Builds the daemon, then names what is loaded.
SCRIPT = """
import json, sys
from exporter.cli import main
options = main.build_parser(["run"]).parse_args(["run", "--listen", "127.0.0.1:0"])
from exporter import config
from exporter.daemon.app import Daemon
from exporter.clock import SystemClock
Daemon(config.load_from(options, {"VLLM_HOST": "http://127.0.0.1:1"}).settings, SystemClock())
print(json.dumps(sorted(sys.modules)))
"""
# Docker's client takes 6 MB, matplotlib with numpy more than 30 MB and is an optional extra. YAML and
# bcrypt take 2 MB, for a web configuration, and the supervisor 1 MB. pyzmq and msgspec are an optional
# extra.
NOT_TO_MEASURE = {
    *("docker", "exporter.simulator", "matplotlib", "numpy", "requests"),
    *("exporter.engine.events.subscriber", "msgspec", "zmq"),
    *("bcrypt", "exporter.web.access.configuration", "yaml", "exporter.container.supervisor"),
}


def test_for_an_external_engine_neither_docker_nor_charts_nor_passwords_are_loaded():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(done.stdout))
    assert {"exporter.daemon.app", "exporter.engine.scraper"} <= loaded
    assert loaded & NOT_TO_MEASURE == set()
